package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const small = `# kept
name: tiny
version: 0.1.0
protocol: 1
runtime: RUNTIME
artifact: tiny
models: [{name: tiny}]
`

func TestBuildCompiles(t *testing.T) {
	for runtime, magic := range map[string]string{"wasm": "\x00asm", "native": ""} {
		t.Run(runtime, func(t *testing.T) {
			src, out := t.TempDir(), filepath.Join(t.TempDir(), "tiny")
			write(t, src, map[string]string{
				"go.mod":    "module tiny\n\ngo 1.26\n",
				"main.go":   "package main\n\nfunc main() {}\n",
				"some.yaml": strings.Replace(small, "RUNTIME", runtime, 1),
			})
			m, err := Build(t.Context(), filepath.Join(src, "some.yaml"), out)
			if err != nil {
				t.Fatal(err)
			}
			b, err := m.Read()
			if err != nil || !strings.HasPrefix(string(b), magic) {
				t.Errorf("artifact %q, %v", b[:min(4, len(b))], err)
			}
			text, err := os.ReadFile(filepath.Join(out, File))
			if err != nil || !strings.Contains(string(text), "# kept") {
				t.Errorf("manifest %q, %v", text, err)
			}
			// A second build that fails leaves the first.
			write(t, src, map[string]string{"main.go": "package main\n\nfunc main() { broken }\n"})
			if _, err := Build(t.Context(), filepath.Join(src, "some.yaml"), out); err == nil || !strings.Contains(err.Error(), "broken") {
				t.Errorf("a source that doesn't compile: %v", err)
			}
			if _, err := Load(out); err != nil {
				t.Errorf("after a failed build: %v", err)
			}
			entries, err := os.ReadDir(out)
			if err != nil || len(entries) != 2 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

func TestBuildCopies(t *testing.T) {
	src, out := t.TempDir(), t.TempDir()
	write(t, src, map[string]string{"plugin.yaml": strings.Replace(small, "RUNTIME", "wasm", 1) + "sha256: '" + strings.Repeat("0", 64) + "'\n", "tiny": "bytes"})
	m, err := Build(t.Context(), filepath.Join(src, File), out)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := m.Read(); err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}
}

// A digest may look like a number, which YAML would take it for.
func TestDigestStaysText(t *testing.T) {
	for _, digest := range []string{strings.Repeat("1", 64), strings.Repeat("1", 31) + "e" + strings.Repeat("2", 32)} {
		for _, text := range []string{small, small + "sha256: '" + strings.Repeat("0", 64) + "'\n"} {
			b, err := withDigest([]byte(strings.Replace(text, "RUNTIME", "wasm", 1)), digest)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := Parse(b); err != nil || m.SHA256 != digest {
				t.Errorf("%s: %v\n%s", digest, err, b)
			}
		}
	}
}
