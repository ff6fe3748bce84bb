package egress

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
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
	words [][]byte // longest first
	keep  int      // longest word less one: how much of a stream's tail may have to wait
}

func newRedactor(secrets map[string]secret) *redactor {
	r := &redactor{}
	add := func(s string) {
		if len(s) >= shortest && !slices.ContainsFunc(r.words, func(w []byte) bool { return string(w) == s }) {
			r.words = append(r.words, []byte(s))
		}
	}
	for _, s := range secrets {
		add(s.value)
		if len(s.value) < shortest {
			continue
		}
		if b, err := json.Marshal(s.value); err == nil {
			add(string(b[1 : len(b)-1]))
		}
		add(url.QueryEscape(s.value))
		add(url.PathEscape(s.value))
		add(base64.StdEncoding.EncodeToString([]byte(s.value)))
		add(base64.RawStdEncoding.EncodeToString([]byte(s.value)))
		add(base64.RawURLEncoding.EncodeToString([]byte(s.value)))
		add(hex.EncodeToString([]byte(s.value)))
	}
	slices.SortFunc(r.words, func(a, b []byte) int { return len(b) - len(a) })
	if len(r.words) > 0 {
		r.keep = len(r.words[0]) - 1
	}
	return r
}
