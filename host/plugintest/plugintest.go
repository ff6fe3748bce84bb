// Package plugintest runs the conformance tables of package sdktest against everything that a plugin's
// source builds into, as its users will have it: the provider in the test's process, its native
// artifact as a process in a box, and its sandboxed one as a guest; the latter two behind the host's
// door, with the limits of their manifests. It is for tests:
//
//	func TestConformance(t *testing.T) { plugintest.RunHTTP(t, provider, dialect) }
package plugintest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// manifests lie beside a plugin's source, as `sluice plugin new` makes them. One may be missing.
var manifests = []string{"native.yaml", "sandbox.yaml"}

// Run runs a table against p, and against the artifacts that the package under test builds into. The
// manifests may name different models, so the table is made for one.
func Run(t *testing.T, p sdk.Provider, table func(model string) sdktest.Options) {
	t.Helper()
	t.Run("in process", func(t *testing.T) { sdktest.Run(t, p, table(p.Models[0].Name)) })
	artifacts(t, func(t *testing.T, m *manifest.Manifest) {
		whole(t, func() { sdktest.Run(t, Start(t, m, Operator{}), alive(table(m.Models[0].Name))) })
	})
}

// RunHTTP is [Run] for a provider whose answers come from an HTTP upstream, which is the kit's.
func RunHTTP(t *testing.T, p sdk.Provider, d sdktest.Dialect) {
	t.Helper()
	t.Run("in process", func(t *testing.T) { sdktest.RunHTTP(t, p, d) })
	artifacts(t, func(t *testing.T, m *manifest.Manifest) { Dialect(t, m, d) })
}

// Dialect runs the table of a dialect against one artifact, whatever it was made with.
func Dialect(t *testing.T, m *manifest.Manifest, d sdktest.Dialect) {
	t.Helper()
	whole(t, func() {
		u := d.Listen()
		defer u.Close()
		sdktest.Run(t, Start(t, m, Operator{Settings: d.Settings(u.URL), Env: d.Env}), alive(u.Options()))
	})
}

// alive is a table for what has goroutines of its own for as long as it runs.
func alive(o sdktest.Options) sdktest.Options {
	o.KeepsGoroutines = true
	return o
}

// artifacts builds and tests each.
func artifacts(t *testing.T, run func(t *testing.T, m *manifest.Manifest)) {
	t.Helper()
	n := 0
	for _, file := range manifests {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			continue
		}
		n++
		t.Run(file, func(t *testing.T) {
			m, err := manifest.Build(t.Context(), file, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			run(t, m)
		})
	}
	if n == 0 {
		t.Errorf("there is none of %v in the folder of the test", manifests)
	}
}

// whole runs a test and what it cleans up, and wants nothing of it to be left.
func whole(t *testing.T, test func()) {
	t.Helper()
	before := runtime.NumGoroutine()
	// The first cleanup is the last to run.
	t.Cleanup(func() {
		end := time.NewTimer(30 * time.Second)
		defer end.Stop()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for runtime.NumGoroutine() > before && !t.Failed() {
			select {
			case <-tick.C:
			case <-end.C:
				buf := make([]byte, 1<<20)
				t.Errorf("goroutines are left of the plugin\n%s", buf[:runtime.Stack(buf, true)])
			}
		}
	})
	test()
}

// Operator is what a test sets for a plugin. Loopback addresses may always be reached, as far as the
// manifest allows their origin.
type Operator struct {
	Settings map[string]any
	Env      map[string]string // what env: references of secrets find
}

// Start starts a built plugin until the test ends.
func Start(t testing.TB, m *manifest.Manifest, op Operator) sdk.Provider {
	t.Helper()
	m, err := m.Narrow(manifest.Operator{Settings: op.Settings, AllowPrivate: []string{"127.0.0.1", "localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	gate, err := egress.New(m, egress.Options{Log: log, LookupEnv: func(name string) (string, bool) {
		v, ok := op.Env[name]
		return v, ok
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gate.Close)
	if m.Runtime == manifest.Wasm {
		return guest(t, m, gate, log)
	}
	return process(t, m, gate, log)
}

// cacheDir is shared by the tests of a user, so that a guest that has not changed is not compiled again.
func cacheDir() string { return filepath.Join(os.TempDir(), "sluice-test-cache") }

func guest(t testing.TB, m *manifest.Manifest, gate *egress.Gate, log *slog.Logger) sdk.Provider {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	rt, err := sandbox.NewRuntime(ctx, sandbox.Options{CacheDir: cacheDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p, err := rt.Load(ctx, m, gate)
	t.Cleanup(func() {
		var closing error
		if p != nil {
			if n := p.Instances(); n > 0 {
				t.Errorf("%d instances are in use after the last call", n)
			}
			closing = p.Close(ctx)
		}
		if err := errors.Join(closing, rt.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Provider()
}

func process(t testing.TB, m *manifest.Manifest, gate *egress.Gate, log *slog.Logger) sdk.Provider {
	t.Helper()
	run, err := os.MkdirTemp("", "sl") // the paths of sockets are short, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	ctx := context.WithoutCancel(t.Context())
	p, err := native.Start(ctx, m, native.Options{Log: log, CacheDir: t.TempDir(), RunDir: run, StartTimeout: time.Minute, Egress: gate})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		if st := p.State(); st.Calls > 0 || st.Restarts > 0 || st.Replaced > 0 {
			t.Errorf("after the last call there are %d under way; there were %d restarts, the last after %v, and %d replacements", st.Calls, st.Restarts, st.Death, st.Replaced)
		}
		if err := errors.Join(p.Close(ctx), <-ended); err != nil {
			t.Error(err)
		}
	})
	return p.Provider()
}
