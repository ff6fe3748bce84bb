package workshop

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/sluicehq/sluice/host/manifest"
)

//go:embed template
var templates embed.FS

// New begins a plugin: its source, both manifests and a test that passes, in a folder that is
// empty or not there yet. A module of its own is made for it unless the folder is in one.
func (b *Bench) New(name, dir string) error {
	if dir == "" {
		dir = name
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty; name another folder: sluice plugin new %s FOLDER", dir, name)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	files := map[string][]byte{}
	for _, file := range []string{"main.go", "main_test.go", "native.yaml", "sandbox.yaml", "go.mod"} {
		t, err := template.ParseFS(templates, "template/"+file+".tmpl")
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := t.Execute(&text, struct{ Name string }{name}); err != nil {
			return err
		}
		files[file] = text.Bytes()
	}
	for _, file := range []string{"native.yaml", "sandbox.yaml"} {
		if _, err := manifest.Parse(files[file]); err != nil {
			return err // of the name
		}
	}
	in, err := inModule(dir)
	if err != nil {
		return err
	}
	if in {
		delete(files, "go.mod")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
			return err
		}
	}
	return b.next(name, dir, in)
}

// next says how to go on from the new folder, in words that work there.
func (b *Bench) next(name, dir string, inModule bool) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the binary to say how to go on: %w", err)
	}
	plugins := filepath.Join(filepath.Dir(exe), "plugins")
	if len(b.Plugins.Dirs) > 0 {
		plugins = b.Plugins.Dirs[0]
	}
	fmt.Fprintf(b.Out, "%s is in %s. Next:\n\n  cd %s\n", name, dir, dir)
	if !inModule {
		if clone := moduleOf(exe); clone != "" {
			fmt.Fprintf(b.Out, "  go mod edit -require %[1]s@v0.0.0 -replace %[1]s=%[2]s\n", module, clone)
		}
		fmt.Fprintf(b.Out, "  go mod tidy\n")
	}
	sluice, artifact := seenFrom(dir, exe), seenFrom(dir, filepath.Join(plugins, name))
	_, err = fmt.Fprintf(b.Out, `  go test .
  go run . Hello
  %[1]s plugin build sandbox.yaml %[2]s
  %[1]s plugin run %[2]s Hello

A Sluice that runs takes it in by itself a moment later.
`, sluice, artifact)
	return err
}

// seenFrom writes a path relative to a folder when that is shorter.
func seenFrom(dir, path string) string {
	from, err := filepath.Abs(dir)
	if err != nil {
		return path
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(from, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

// module is what a plugin imports.
const module = "github.com/sluicehq/sluice"

// moduleOf is the clone that a binary was built in, "" when it isn't in one.
func moduleOf(exe string) string {
	for dir := filepath.Dir(exe); ; dir = filepath.Dir(dir) {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && bytes.HasPrefix(mod, []byte("module "+module+"\n")) {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// inModule reports whether a folder, there or not, is in a Go module.
func inModule(dir string) (bool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return true, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return false, nil
		}
		dir = up
	}
}
