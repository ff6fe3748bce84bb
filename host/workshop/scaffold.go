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
	fmt.Fprintf(b.Out, "%s is in %s. Next:\n\n  cd %s\n", name, dir, dir)
	if !in {
		fmt.Fprintf(b.Out, "  go mod tidy\n")
	}
	fmt.Fprintf(b.Out, "  go test .\n  go run . Hello\n  sluice plugin build sandbox.yaml PLUGINS/%[1]s\n  sluice plugin run PLUGINS/%[1]s Hello\n\nPLUGINS is a folder of plugins.dirs.\n", name)
	return nil
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
