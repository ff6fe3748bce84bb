package config

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written "4MiB", "512KiB", "10MB" or plain "4096".
type Size int64

// Multiples of a byte.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

var sizeUnits = []struct {
	name  string
	bytes Size
}{
	{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// ParseSize reads a size as it is written in the configuration.
func ParseSize(text string) (Size, error) {
	number, unit := strings.TrimSpace(text), Size(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	if n > math.MaxInt64/int64(unit) {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return Size(n) * unit, nil
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// redacted stands for a secret wherever one would be printed.
const redacted = "[redacted]"

// Secret is a value that must not be seen. Every way of printing it (fmt, JSON,
// YAML, slog) shows only whether it is set; Reveal is the one way to its text.
type Secret struct {
	text string
	ref  string // where it was read from, as written in the configuration
}

// NewSecret holds text as a secret.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal returns the secret itself, as it was when the configuration was
// loaded. Don't log it.
func (s Secret) Reveal() string { return s.text }

// Reference is where the secret can be read again: env:NAME, file:PATH or
// cmd:PROGRAM. It is empty for one that the configuration holds itself.
func (s Secret) Reference() string { return s.ref }

// IsZero says whether no secret is set.
func (s Secret) IsZero() bool { return s.text == "" }

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format hides the secret from every verb of fmt, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON hides the secret from JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// secretCommand bounds the program that a secret is read from.
const secretCommand = 10 * time.Second

// resolveSecret reads a secret as it is written in the configuration:
// "env:NAME", "file:PATH" and "cmd:PROGRAM ARGUMENTS" point at it, anything else
// is the secret itself. Its errors never repeat a literal secret.
func resolveSecret(text string, getenv func(string) (string, bool)) (Secret, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "env":
		value, set := getenv(rest)
		if !set || value == "" {
			return Secret{}, fmt.Errorf("the environment variable %s is not set", rest)
		}
		return Secret{value, text}, nil
	case "file":
		data, err := os.ReadFile(rest)
		if err != nil {
			return Secret{}, err
		}
		return Secret{strings.TrimRight(string(data), "\r\n"), text}, nil
	case "cmd":
		value, err := printedBy(rest)
		if err != nil {
			return Secret{}, err
		}
		return Secret{value, text}, nil
	}
	return Secret{text: text}, nil
}

// printedBy runs a program and its arguments, split at spaces: no shell.
func printedBy(command string) (string, error) {
	words := strings.Fields(command)
	if len(words) == 0 {
		return "", errors.New("the command is empty")
	}
	ctx, cancel := context.WithTimeout(context.Background(), secretCommand)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("command %s: %w", words[0], err)
	}
	value := strings.TrimSpace(string(out))
	if value == "" {
		return "", fmt.Errorf("command %s printed nothing", words[0])
	}
	return value, nil
}

// URL is an address that may hold a password, which no way of printing shows;
// Reveal is the one way to the whole text.
type URL struct{ text string }

// NewURL holds text as an address.
func NewURL(text string) URL { return URL{text} }

// Reveal returns the address with its password.
func (u URL) Reveal() string { return u.text }

// IsZero says whether no address is set.
func (u URL) IsZero() bool { return u.text == "" }

// String is the address without its password or its query, which may hold one too.
func (u URL) String() string {
	if u.text == "" {
		return ""
	}
	scheme, rest, ok := strings.Cut(u.text, "://")
	if !ok {
		return redacted
	}
	rest, _, _ = strings.Cut(rest, "?")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, _, both := strings.Cut(rest[:at], ":")
		if !both {
			user = "" // a lone word before the @ is as likely a password
		}
		rest = user + ":" + redacted + rest[at:]
	}
	return scheme + "://" + rest
}

// Format hides the password from every verb of fmt.
func (u URL) Format(f fmt.State, _ rune) { fmt.Fprint(f, u.String()) }

// LogValue hides the password from slog.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText hides the password from encoders.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

var (
	_ encoding.TextMarshaler = Secret{}
	_ slog.LogValuer         = Secret{}
	_ encoding.TextMarshaler = URL{}
	_ slog.LogValuer         = URL{}
)
