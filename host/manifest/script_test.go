package manifest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// engine is a module with a place for a script, and a section after it.
func engine() []byte {
	return module("here goes the script of a plugin")
}

func module(data string) []byte {
	section := append([]byte("\x01\x01"), sized([]byte(data))...)
	return slices.Concat([]byte(wasmMagic+"\x01\x00"), []byte{dataSection}, sized(section), []byte("\x00\x05\x04kept"))
}

func TestBuildScript(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "weather")
	source, script := filepath.Join(dir, File), "plugin({})"+strings.Repeat(" ", 200)
	text := strings.Replace(small, "RUNTIME", "wasm", 1) + "script: weather.js\n"
	write(t, dir, map[string]string{
		File: text, "weather.js": script, "engine.wasm": string(engine()),
		"other.wasm": string(module("another")), "cut.wasm": string(engine()[:30]), "text.wasm": "no module",
	})
	for name, want := range map[string]string{
		"":             "the engine that weather.js runs on is missing",
		"nowhere.wasm": "nowhere.wasm\"); make it once, in a clone of Sluice, with Node and npm: make -C examples/guests javascript",
		"other.wasm":   "other.wasm: " + errNoEngine.Error(),
		"cut.wasm":     errNoEngine.Error(),
		"text.wasm":    errNoEngine.Error(),
	} {
		b := Builder{}
		if name != "" {
			b.Engine = filepath.Join(dir, name)
		}
		if _, err := b.Build(t.Context(), source, out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with the engine %q: %v, want %q", name, err, want)
		}
	}
	b := Builder{Engine: filepath.Join(dir, "engine.wasm")}
	m, err := b.Build(t.Context(), source, out)
	if err != nil {
		t.Fatal(err)
	}
	// The size of the name, of the script, and both.
	want := module("\x0b\x00\x00\x00\xd3\x00\x00\x00weather.js\x00" + script + "\x00")
	if got, err := m.Read(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the artifact is %q, %v; want %q", got, err, want)
	}
	if _, err := b.Build(t.Context(), filepath.Join(dir, "weather.js"), out); err == nil || !strings.Contains(err.Error(), "build the manifest beside it instead, with runtime: wasm, artifact: weather.wasm and script: weather.js") {
		t.Errorf("the script in place of its manifest: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "weather.js")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), source, out); err == nil || !strings.Contains(err.Error(), "build plugin tiny: open "+filepath.Join(dir, "weather.js")) {
		t.Errorf("without the script: %v", err)
	}
}

func FuzzWithScript(f *testing.F) {
	f.Add(engine())
	f.Add(engine()[:30])
	f.Add([]byte(wasmMagic + "\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, engine []byte) {
		if b, err := withScript(engine, "a.js", []byte("text")); err == nil && !bytes.Contains(b, []byte("a.js\x00text\x00")) {
			t.Errorf("%q lacks the script", b)
		}
	})
}
