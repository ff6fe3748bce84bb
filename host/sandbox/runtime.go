// Package sandbox runs provider plugins that are WebAssembly guests. Every job
// gets an instance of its own that starts out pristine and is thrown away
// afterwards, so a guest can neither remember nor infect anything, and what it
// does to itself costs its own job only.
package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/tetratelabs/wazero"
)

// loadTimeout bounds what a guest may run while it is being loaded.
const loadTimeout = 20 * time.Second

// Options configure a Runtime. Log is required.
type Options struct {
	// CacheDir keeps compiled guests between runs. It holds machine code, so
	// it is made readable and writable to this user only. Empty compiles anew.
	CacheDir string
	Log      *slog.Logger
}

// Runtime compiles and holds guests. It is safe for concurrent use.
type Runtime struct {
	cache wazero.CompilationCache
	dir   string
	log   *slog.Logger
}

// NewRuntime opens the cache.
func NewRuntime(_ context.Context, o Options) (*Runtime, error) {
	rt := &Runtime{log: o.Log, dir: o.CacheDir}
	if o.CacheDir == "" {
		rt.cache = wazero.NewCompilationCache()
		return rt, nil
	}
	for _, name := range []string{"images", "code"} {
		dir := filepath.Join(o.CacheDir, name)
		if err := private(dir); err != nil {
			return nil, fmt.Errorf("open sandbox cache: %w", err)
		}
		if err := prune(dir, time.Now()); err != nil {
			return nil, fmt.Errorf("prune sandbox cache: %w", err)
		}
	}
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(o.CacheDir, "code"))
	if err != nil {
		return nil, fmt.Errorf("open sandbox cache: %w", err)
	}
	rt.cache = cache
	return rt, nil
}

// private makes a directory that only this user can get at.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Close frees the compiled code. Close the plugins first.
func (rt *Runtime) Close(ctx context.Context) error { return rt.cache.Close(ctx) }

// Load prepares a guest: checks its digest, its imports and exports and its
// ABI, compiles it, and asks it for its description and whether it can use the
// manifest's settings. The gate is the guest's only way out; it stays the
// caller's to close.
func (rt *Runtime) Load(ctx context.Context, m *manifest.Manifest, gate *egress.Gate) (*Plugin, error) {
	if m.Runtime != manifest.Wasm {
		return nil, fmt.Errorf("load plugin %s: its runtime is %s, not wasm", m.Name, m.Runtime)
	}
	bin, err := m.Read()
	if err != nil {
		return nil, err
	}
	p, err := rt.load(ctx, m, gate, bin)
	if err != nil {
		return nil, fmt.Errorf("load plugin %s, %s: %w", m.Name, m.Artifact, err)
	}
	return p, nil
}
