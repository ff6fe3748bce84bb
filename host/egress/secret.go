package egress

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"golang.org/x/net/http/httpguts"
)

const (
	maxSecret      = 16 << 10
	commandTimeout = 10 * time.Second
	// shortest is the length below which a secret isn't looked for in answers:
	// it would be found everywhere.
	shortest = 6
)

type secret struct {
	value   string
	origins []manifest.Origin
	header  string
}

// How often references are read again: when the credentials were refused, and
// without a reason. A refusal isn't one if they were read just before.
const (
	rereadAfter    = 5 * time.Minute
	rereadRefused  = 2 * time.Second
	keptInRedactor = 8 // values that a secret had before, which may still be echoed
)

// vault holds the secrets of one plugin and reads them again when they may have
// changed: a file that was replaced, a command that has something else to say.
// It is safe for concurrent use.
type vault struct {
	list    []manifest.Secret
	lookup  func(string) (string, bool)
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[keys]

	mu      sync.Mutex // one reads
	read    time.Time  // when that was last; guarded by mu
	past    []secret
	changes bool // whether there is a reference whose value can change
}

// keys are the secrets at one time.
type keys struct {
	byName map[string]secret
	redact *redactor
	read   time.Time
}

func newVault(list []manifest.Secret, lookup func(string) (string, bool), log *slog.Logger) (*vault, error) {
	v := &vault{list: list, lookup: lookup, log: log, now: time.Now}
	for _, s := range list {
		kind, _, _ := strings.Cut(s.From, ":")
		v.changes = v.changes || kind == "file" || kind == "cmd"
	}
	secrets, err := resolveSecrets(list, lookup)
	if err != nil {
		return nil, err
	}
	v.set(secrets)
	for _, s := range list {
		if secrets[s.Name].value == "" { // it is optional
			log.Info("secret is not set, requests go without it", "secret", s.Name, "from", describeRef(s.From))
		}
	}
	return v, nil
}

func (v *vault) set(secrets map[string]secret) {
	v.read = v.now()
	v.current.Store(&keys{byName: secrets, redact: newRedactor(secrets, v.past), read: v.read})
}

// keys are the secrets in force. When they are old, one of those that ask reads
// them again; the others don't wait for it.
func (v *vault) keys() *keys {
	k := v.current.Load()
	if v.changes && v.now().Sub(k.read) > rereadAfter && v.mu.TryLock() {
		defer v.mu.Unlock()
		v.reread()
		return v.current.Load()
	}
	return k
}

// refused is told that an upstream didn't like used. It returns the secrets in
// force and whether they are others, so that it is worth to ask again.
func (v *vault) refused(used *keys) (*keys, bool) {
	if !v.changes {
		return used, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.current.Load() == used && v.now().Sub(v.read) > rereadRefused {
		v.reread()
	}
	k := v.current.Load()
	return k, !k.same(used)
}

// reread reads the references. What can't be read keeps its value, as it is
// better than none. v.mu is held.
func (v *vault) reread() {
	old := v.current.Load()
	secrets, err := resolveSecrets(v.list, v.lookup)
	if err != nil {
		v.log.Warn("secrets can't be read again, the old ones stay", "error", err)
		v.set(old.byName)
		return
	}
	for name, s := range old.byName {
		if now := secrets[name].value; s.value != now && s.value != "" {
			v.log.Info("secret has changed", "secret", name)
			v.past = append(v.past, s)
		}
	}
	v.past = v.past[max(0, len(v.past)-keptInRedactor):]
	v.set(secrets)
}

func (k *keys) same(other *keys) bool {
	for name, s := range k.byName {
		if other.byName[name].value != s.value {
			return false
		}
	}
	return true
}

func resolveSecrets(list []manifest.Secret, lookup func(string) (string, bool)) (map[string]secret, error) {
	out := map[string]secret{}
	for _, s := range list {
		v, err := resolveSecret(s.From, lookup)
		switch {
		case err != nil:
			return nil, fmt.Errorf("secret %s: %w", s.Name, err)
		case v == "" && !s.Optional:
			return nil, fmt.Errorf("secret %s has no value: %s; set it, or give another reference under secrets.%s", s.Name, describeRef(s.From), s.Name)
		case !httpguts.ValidHeaderFieldValue(v):
			return nil, fmt.Errorf("secret %s, %s, holds characters that don't go into a header", s.Name, describeRef(s.From))
		}
		out[s.Name] = secret{value: v, origins: s.Origins, header: s.Header}
	}
	return out, nil
}

// describeRef names where a secret comes from and never what it is.
func describeRef(ref string) string {
	kind, rest, _ := strings.Cut(ref, ":")
	switch kind {
	case "env":
		return "environment variable " + rest
	case "file":
		return "file " + rest
	case "cmd":
		prog, _, _ := strings.Cut(rest, " ")
		return "command " + prog
	}
	return "configuration"
}

func resolveSecret(ref string, lookup func(string) (string, bool)) (string, error) {
	kind, rest, _ := strings.Cut(ref, ":")
	switch kind {
	case "env":
		v, ok := lookup(rest)
		if !ok {
			return "", nil
		}
		return strings.TrimSpace(v), nil
	case "value":
		return strings.TrimSpace(rest), nil
	case "file":
		f, err := os.Open(rest)
		if errors.Is(err, os.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
		if err != nil {
			return "", err
		}
		if len(b) > maxSecret {
			return "", fmt.Errorf("file %s is larger than 16 KiB", rest)
		}
		return strings.TrimSpace(string(b)), nil
	case "cmd":
		return runCommand(strings.Fields(rest))
	}
	return "", errors.New("reference is of an unknown kind; use env:NAME, file:/path or cmd:program")
}

// runCommand takes a program and its words, split at spaces: no shell.
func runCommand(words []string) (string, error) {
	if len(words) == 0 {
		return "", errors.New("command is empty")
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("command %s: %w", words[0], err)
	}
	if len(out) > maxSecret {
		return "", fmt.Errorf("command %s printed more than 16 KiB", words[0])
	}
	return strings.TrimSpace(string(out)), nil
}

// redactor takes secrets out of what a plugin can read. Each byte of one
// becomes '*', so lengths and offsets stay true and JSON stays JSON.
//
// It stops a service that echoes what it was sent. It can't stop one that
// plays along with the plugin: that one has the key anyway.
type redactor struct {
	words []word // longest first
}

// word is a secret in one of the ways in which it may be written.
type word struct {
	text    []byte
	origins []manifest.Origin // that are sent it
}

// newRedactor looks for the secrets and for values of the past.
func newRedactor(secrets map[string]secret, past []secret) *redactor {
	r := &redactor{}
	all := slices.Clone(past)
	for _, s := range secrets {
		all = append(all, s)
	}
	for _, s := range all {
		v := s.value
		if len(v) < shortest {
			continue
		}
		add := func(text string) {
			if i := slices.IndexFunc(r.words, func(w word) bool { return string(w.text) == text }); i >= 0 {
				r.words[i].origins = slices.Concat(r.words[i].origins, s.origins)
				return
			}
			r.words = append(r.words, word{[]byte(text), s.origins})
		}
		add(v)
		if b, err := json.Marshal(v); err == nil {
			escaped := string(b[1 : len(b)-1])
			add(escaped)
			add(strings.ReplaceAll(escaped, "/", `\/`)) // as PHP has it
		}
		for _, escaped := range []string{url.QueryEscape(v), url.PathEscape(v)} {
			add(escaped)
			add(percent.ReplaceAllStringFunc(escaped, strings.ToLower))
		}
		add(base64.StdEncoding.EncodeToString([]byte(v)))
		add(base64.RawStdEncoding.EncodeToString([]byte(v)))
		add(base64.RawURLEncoding.EncodeToString([]byte(v)))
		add(hex.EncodeToString([]byte(v)))
	}
	slices.SortFunc(r.words, func(a, b word) int { return len(b.text) - len(a.text) })
	return r
}

var percent = regexp.MustCompile(`%[0-9A-F]{2}`)
