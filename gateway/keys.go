package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/config"
)

// Bounds of the file of API keys, and how often it is looked at.
const (
	maxKeysFile = 16 << 20
	keysEvery   = time.Second
)

// fingerprint is the SHA-256 of an API key; zero stands for no key.
type fingerprint [sha256.Size]byte

// keyRing holds the API keys of a file, by their fingerprints: the keys
// themselves are nowhere. Safe for concurrent use; one run at a time.
type keyRing struct {
	path string
	log  *slog.Logger
	keys atomic.Pointer[map[fingerprint]identity]
	last os.FileInfo // of what was read last
	seen os.FileInfo // at the last look
}

// openKeys reads the file; a file that can't be used stops the start.
func openKeys(path string, log *slog.Logger) (*keyRing, error) {
	r := &keyRing{path: path, log: log}
	if _, err := r.read(); err != nil {
		return nil, fmt.Errorf("gateway.auth.keys_file: %w", err)
	}
	return r, nil
}

// Check says what of a valid configuration can't be used on this machine: the
// file of API keys is read.
func Check(c config.Gateway) error {
	if c.Auth.KeysFile == "" {
		return nil
	}
	_, err := openKeys(c.Auth.KeysFile, slog.New(slog.DiscardHandler))
	return err
}

// read reads the file if it has changed, and two looks see the same: half of a file
// that is being written would end the sessions of the keys that it lacks.
func (r *keyRing) read() (changed bool, err error) {
	info, err := os.Stat(r.path)
	if err != nil {
		return false, err
	}
	before := r.seen
	r.seen = info
	if r.last != nil && (unchanged(info, r.last) || !unchanged(info, before)) {
		return false, nil
	}
	if info.Size() > maxKeysFile {
		return false, fmt.Errorf("%s is larger than %d bytes", r.path, maxKeysFile)
	}
	text, err := os.ReadFile(r.path)
	if err != nil {
		return false, err
	}
	r.last = info // a file that is no good is complained of once
	keys, err := parseKeys(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", r.path, err)
	}
	r.keys.Store(&keys)
	return true, nil
}

func unchanged(now, before os.FileInfo) bool {
	return os.SameFile(now, before) && now.ModTime().Equal(before.ModTime()) && now.Size() == before.Size()
}

// run reads the file again whenever it has changed, and then calls changed. A
// file that can't be used is logged, and the keys stay as they are.
func (r *keyRing) run(ctx context.Context, changed func()) {
	broken := ""
	for sleep(ctx, keysEvery) {
		news, err := r.read()
		switch {
		case err != nil && err.Error() != broken:
			r.log.Error("file of API keys can't be used, the keys read before stay valid", "error", err)
			broken = err.Error()
		case news:
			broken = ""
			r.log.Info("API keys read again", "keys", len(*r.keys.Load()))
			changed()
		}
	}
}

// find tells whose a key is. Keys are found by their hash, so the time it takes
// says nothing about other keys.
func (r *keyRing) find(key string) (identity, bool) {
	print := fingerprint(sha256.Sum256([]byte(key)))
	id, there := r.holder(print)
	return id, there && subtle.ConstantTimeCompare(print[:], id.Key[:]) == 1
}

// holder is who a fingerprint stands for now.
func (r *keyRing) holder(print fingerprint) (identity, bool) {
	id, there := (*r.keys.Load())[print]
	if there && !id.Expires.IsZero() && !time.Now().Before(id.Expires) {
		return identity{}, false
	}
	return id, there
}

// parseKeys reads lines of a fingerprint in hex and words name=value; # begins a
// comment.
func parseKeys(text []byte) (map[fingerprint]identity, error) {
	keys := map[fingerprint]identity{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		id, err := parseKey(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if _, twice := keys[id.Key]; twice {
			return nil, fmt.Errorf("line %d: this key is there twice", n)
		}
		keys[id.Key] = id
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return keys, nil
}

func parseKey(words []string) (identity, error) {
	var id identity
	sum, err := hex.DecodeString(strings.TrimPrefix(words[0], "sha256:"))
	if err != nil || len(sum) != sha256.Size {
		return id, errors.New("does not begin with the SHA-256 of a key, 64 hex digits: never write the key itself here")
	}
	copy(id.Key[:], sum)
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		var limit *int
		switch name {
		case "user":
			id.User = value
		case "tenant":
			id.Tenant = value
		case "roles":
			for role := range strings.SplitSeq(value, ",") {
				id.take(role)
			}
		case "expires":
			if id.Expires, err = time.Parse(time.RFC3339, value); err != nil {
				return id, fmt.Errorf("expires=%s is not a time such as 2030-01-01T00:00:00Z", value)
			}
		case "connections":
			limit = &id.Limits.Connections
		case "starts_per_minute":
			limit = &id.Limits.Starts
		case "jobs":
			limit = &id.Limits.Jobs
		default:
			return id, fmt.Errorf("%q is none of user, tenant, roles, connections, starts_per_minute, jobs and expires", name)
		}
		if limit != nil {
			number, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return id, fmt.Errorf("%s=%s is not a number from 0", name, value)
			}
			*limit = own(int(number))
		}
	}
	if err := checkNames(id.User, id.Tenant); err != nil {
		return id, err
	}
	return id, nil
}

// own is a limit of a user's own as grant writes it.
func own(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// keyDoor lets in who holds an API key, and asks the next door about the rest.
type keyDoor struct {
	ring *keyRing
	next authenticator
}

func (d keyDoor) identify(ctx context.Context, c credentials) (identity, error) {
	if key := c.token(); key != "" {
		if id, ok := d.ring.find(key); ok {
			return id, nil
		}
	}
	return d.next.identify(ctx, c)
}

// shutDoor lets nobody in: all that is known are keys.
type shutDoor struct{}

func (shutDoor) identify(_ context.Context, c credentials) (identity, error) {
	if c.token() == "" {
		return identity{}, errAuth{noToken}
	}
	return identity{}, errAuth{"the API key is unknown or has expired"}
}

// keysChanged ends the sessions whose key is gone and tells the others what they
// may do now.
func (c *core) keysChanged() {
	for _, s := range c.hub.everybody() {
		s.checkKey()
	}
}

// checkKey looks again at whose the session's key is, if it has one. Whoever gives it
// a key does so, too: the key may have gone before keysChanged could know of it.
func (s *session) checkKey() {
	before := s.who()
	if s.c.keys == nil || before.Key == (fingerprint{}) {
		return
	}
	now, there := s.c.keys.holder(before.Key)
	if !there || now.owner() != s.owner {
		s.dismiss("Authentication revoked: the API key is no longer valid")
		return
	}
	s.renewed(now)
}
