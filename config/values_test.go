package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestSecretsStayHidden(t *testing.T) {
	const word = "correct-horse"
	values := []any{
		NewSecret(word),
		&Plugin{Secrets: map[string]Secret{"k": NewSecret(word)}},
		Redis{Password: NewSecret(word), URL: NewURL("redis://user:" + word + "@host:6379/0")},
		NewURL("redis-sentinel://:" + word + "@a,b/m"),
		NewURL("redis://" + word + "@host"),
		NewURL("redis://host?password=" + word),
		NewURL("redis://u:p@" + word + "@host"),
		NewURL(word),
	}
	for _, v := range values {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		y, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		out.Write(j)
		out.Write(y)
		if s := out.String(); strings.Contains(s, word) || strings.Contains(s, fmt.Sprintf("%x", word)) {
			t.Errorf("%T shows its secret:\n%s", v, s)
		}
	}
	if got := NewURL("redis://user:secret@host:6379/0").String(); got != "redis://user:[redacted]@host:6379/0" {
		t.Errorf("the readable part of a URL is gone: %s", got)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "4096": 4096, "4KiB": 4096, "4 KiB": 4096, " 1MiB ": MiB, "2GiB": 2 * GiB, "10MB": 10e6, "1kB": 1000, "7B": 7,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%q written as %q reads as %d, %v", text, got, back, err)
		}
	}
	for _, text := range []string{"", "B", "-1", "-1KiB", "1.5MiB", "4 MiBs", "9223372036854775807KiB", "1e3", "0x10"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is accepted as %d", text, got)
		}
	}
}
