package sandbox

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/cachedir"
	"github.com/sluicehq/sluice/host/manifest"
)

// Of what is installed, the guests in use stay whole, however long ago they were installed; others go,
// and are installed again when they are needed.
func TestInstalledGuestsArePruned(t *testing.T) {
	m, err := manifest.Build(t.Context(), "../../plugins/echo/sandbox.yaml", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if m, err = m.Narrow(manifest.Operator{}); err != nil {
		t.Fatal(err)
	}
	bin, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	open := func() (*Runtime, *Plugin) {
		t.Helper()
		rt, err := NewRuntime(t.Context(), Options{CacheDir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		p, err := rt.Load(t.Context(), m, nil)
		if err != nil {
			t.Fatal(err)
		}
		return rt, p
	}
	shut := func(rt *Runtime, p *Plugin) {
		if err := errors.Join(p.Close(t.Context()), rt.Close(t.Context())); err != nil {
			t.Error(err)
		}
	}
	rt, p := open()
	files, err := installedFiles(rt.imageFile(m, bin))
	if err != nil || len(files) < 3 {
		t.Fatalf("installed are %v, %v; want an image, a list and code", files, err)
	}
	there := func() (n int) {
		for _, file := range files {
			if _, err := os.Stat(file); err == nil {
				n++
			}
		}
		return n
	}
	long := time.Now().Add(-cachedir.Default.Unused - time.Hour)
	age := func() {
		for _, file := range files {
			if err := os.Chtimes(file, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	age()
	left := filepath.Join(dir, stagePrefix+"left")
	if err := errors.Join(os.Mkdir(left, 0o700), os.Chtimes(left, long, long)); err != nil {
		t.Fatal(err)
	}
	other, q := open() // another host, which prunes as it opens the cache
	if n := there(); n != len(files) {
		t.Errorf("of %d files in use %d are left", len(files), n)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what an installer left is still there")
	}
	shut(other, q)
	shut(rt, p)
	age()
	empty, err := NewRuntime(t.Context(), Options{CacheDir: dir, Log: rt.log})
	if err != nil {
		t.Fatal(err)
	}
	if n := there(); n != 0 {
		t.Errorf("%d files are left of a guest that nobody uses", n)
	}
	if err := empty.Close(t.Context()); err != nil {
		t.Error(err)
	}

	// Without its code an image is not what was installed.
	shut(open())
	if files, err = installedFiles(rt.imageFile(m, bin)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := readPrepared(files[0]); !errors.Is(err, errNoImage) {
		t.Errorf("without its code: %v, want %v", err, errNoImage)
	}
	shut(open())
	if n := there(); n != len(files) {
		t.Errorf("installed again are %d of %d files", n, len(files))
	}
}
