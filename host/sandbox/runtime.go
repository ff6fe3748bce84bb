// Package sandbox runs provider plugins that are WebAssembly guests. Every job
// gets an instance of its own that starts out pristine, and afterwards is put
// back into that state or thrown away, so a guest can neither remember nor
// infect anything, and what it does to itself costs its own job only.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicehq/sluice/host/cachedir"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/tetratelabs/wazero"
)

// loadTimeout bounds what a guest may run while it is being loaded.
const loadTimeout = 20 * time.Second

// Options configure a Runtime. Log is required.
type Options struct {
	// CacheDir keeps installed guests between runs. It holds machine code, so
	// what is in it is readable and writable by this user only. Empty keeps
	// them in a temporary directory until the Runtime is closed.
	CacheDir string
	Log      *slog.Logger
}

// Runtime installs and holds guests. It is safe for concurrent use.
type Runtime struct {
	cache      wazero.CompilationCache
	dir        string
	temporary  bool
	installCPU time.Duration
	log        *slog.Logger

	mu   sync.Mutex
	held map[string]func() // image: releases the files of a guest that was loaded
}

// NewRuntime opens the cache.
func NewRuntime(_ context.Context, o Options) (*Runtime, error) {
	rt := &Runtime{log: o.Log, dir: o.CacheDir, installCPU: installCPU, held: map[string]func(){}}
	var err error
	if rt.temporary = o.CacheDir == ""; rt.temporary {
		rt.dir, err = os.MkdirTemp("", "sluice-sandbox-*")
	} else {
		rt.dir, err = filepath.Abs(o.CacheDir)
	}
	if err != nil {
		return nil, fmt.Errorf("open sandbox cache: %w", err)
	}
	for _, name := range []string{"images", "code"} {
		dir := filepath.Join(rt.dir, name)
		if err := private(dir); err != nil {
			return nil, fmt.Errorf("open sandbox cache: %w", err)
		}
		if err := cachedir.Prune(dir, time.Now(), cachedir.Default); err != nil {
			return nil, fmt.Errorf("prune sandbox cache: %w", err)
		}
	}
	if err := removeStages(rt.dir); err != nil {
		return nil, fmt.Errorf("prune sandbox cache: %w", err)
	}
	if rt.cache, err = wazero.NewCompilationCacheWithDir(filepath.Join(rt.dir, "code")); err != nil {
		return nil, fmt.Errorf("open sandbox cache: %w", err)
	}
	return rt, nil
}

// removeStages removes what installers left that were killed.
func removeStages(dir string) error {
	stages, err := filepath.Glob(filepath.Join(dir, stagePrefix+"*"))
	if err != nil {
		return err
	}
	for _, stage := range stages {
		if info, err := os.Stat(stage); err != nil || time.Since(info.ModTime()) < 2*installWall {
			continue // one that is at work, or has just ended
		}
		if err := os.RemoveAll(stage); err != nil {
			return err
		}
	}
	return nil
}

// runtimeConfig is the engine's. The guest's own code returns to the host on
// schedule, so the engine need not look after that. Installer and host must
// agree, or the host compiles again.
func runtimeConfig(cache wazero.CompilationCache) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().WithCompilationCache(cache)
}

// private makes a directory that only this user can get at.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Close frees the compiled code. Close the plugins first.
func (rt *Runtime) Close(ctx context.Context) error {
	err := rt.cache.Close(ctx)
	rt.mu.Lock()
	for _, release := range rt.held {
		release()
	}
	clear(rt.held)
	rt.mu.Unlock()
	if rt.temporary {
		err = errors.Join(err, os.RemoveAll(rt.dir))
	}
	return err
}

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
	rt.hold(rt.imageFile(m, bin))
	return p, nil
}
