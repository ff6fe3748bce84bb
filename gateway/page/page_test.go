package page

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// own lists the scripts that are written here.
func own(t *testing.T) []string {
	t.Helper()
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if path.Ext(e.Name()) == ".js" && e.Name() != "sluice.js" {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatal("the page has no scripts")
	}
	return names
}

// The logic behind the page is tested where it runs: in JavaScript.
func TestLogic(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("this test needs Node 20 or later: https://nodejs.org")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type": "module"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Glob("*_test.mjs")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	for _, name := range append(own(t), tests...) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, append([]string{"--test"}, tests...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The page shows what strangers wrote, so nothing of it may become markup, and
// it asks nothing of any other server.
func TestNoMarkupFromText(t *testing.T) {
	for _, name := range own(t) {
		b, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, sink := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment", "setHTML", "eval(", "new Function", "srcdoc", "fetch(", "XMLHttpRequest"} {
			if strings.Contains(string(b), sink) {
				t.Errorf("%s uses %s", name, sink)
			}
		}
	}
}

func TestClientIsFresh(t *testing.T) {
	built, err := os.ReadFile("../client/dist/sluice.js")
	if err != nil {
		t.Fatal(err)
	}
	if here, err := files.ReadFile("sluice.js"); err != nil || !bytes.Equal(here, built) {
		t.Errorf("sluice.js is not gateway/client/dist/sluice.js: run go generate ./gateway/page (%v)", err)
	}
}

// Every file that the page names is served, and with its type.
func TestNamesWhatIsServed(t *testing.T) {
	index, err := files.ReadFile("index.html")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(index), `"/page/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if _, err := files.ReadFile(name); err != nil {
			t.Errorf("index.html names %s: %v", name, err)
		}
	}
	for _, e := range entries {
		if types[path.Ext(e.Name())] == "" {
			t.Errorf("%s has no type", e.Name())
		}
	}
}
