// Package guests holds plugins for the sandbox in other languages than Go, one
// folder each. Its tests build them and run the conformance table.
package guests

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// language is one of the folders, and what it is built with.
type language struct {
	name  string
	tools []string // programs, or files
	get   string   // how to install them
	once  sync.Once
	dir   string // of the built plugin
	err   error
}

var languages = []*language{
	{name: "rust", tools: []string{"make", "/usr/bin/rustc", "/usr/lib/rustlib/wasm32-unknown-unknown", "wasm-ld-14"}, get: "apt-get install rustc libstd-rust-dev-wasm32 lld-14 make"},
	{name: "assemblyscript", tools: []string{"make", "node", "node_modules/.bin/asc"}, get: "npm ci in examples/guests"},
	{name: "javascript", tools: []string{"make", "node", "node_modules/.bin/wasm-merge"}, get: "npm ci in examples/guests"},
	{name: "c", tools: []string{"make", "clang", "wasm-ld"}, get: "apt-get install clang lld make"},
}

// build makes the plugin as `make` does, once for all tests.
func (l *language) build(tb testing.TB) string {
	tb.Helper()
	for _, tool := range l.tools {
		_, err := exec.LookPath(tool)
		if strings.Contains(tool, "/") {
			_, err = os.Stat(tool)
		}
		if err != nil {
			if os.Getenv("SLUICE_REQUIRE") != "" {
				tb.Fatalf("%s is missing: %s", tool, l.get)
			}
			tb.Skipf("%s is missing: %s", tool, l.get)
		}
	}
	l.once.Do(func() {
		stage, out := filepath.Join(scratch, "stage"), filepath.Join(scratch, l.name)
		if text, err := exec.Command("make", l.name, "STAGE="+stage).CombinedOutput(); err != nil {
			l.err = errors.New(err.Error() + "\n" + string(text))
			return
		}
		_, l.err = manifest.Build(context.Background(), filepath.Join(stage, l.name, manifest.File), out)
		l.dir = out
	})
	if l.err != nil {
		tb.Fatalf("build: %v", l.err)
	}
	return l.dir
}

// scratch is where this run builds.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "sluice-guests-*"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

func (l *language) load(tb testing.TB) sdk.Provider {
	tb.Helper()
	m, err := manifest.Load(l.build(tb))
	if err != nil {
		tb.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(tb.Output(), nil))
	rt, err := sandbox.NewRuntime(tb.Context(), sandbox.Options{CacheDir: filepath.Join(scratch, "cache"), Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	gate, err := egress.New(m, egress.Options{Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	p, err := rt.Load(tb.Context(), m, gate)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(p.Close(context.Background()), rt.Close(context.Background())); err != nil {
			tb.Error(err)
		}
	})
	if d := p.Description(); d.Name != m.Name || d.Version != m.Version || !d.Check {
		tb.Errorf("it describes itself as %+v, its manifest says %s %s", d, m.Name, m.Version)
	}
	return p.Provider()
}

func TestConformance(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			p := l.load(t)
			sdktest.Run(t, p, echo(p.Name))
		})
	}
}

// echo is the part of the bundled echo's table that the examples follow.
func echo(model string) sdktest.Options {
	o := sdktest.Echo(model)
	o.Cases = slices.DeleteFunc(o.Cases, func(c sdktest.Case) bool {
		return !slices.Contains([]string{"nothing to say", "option of the wrong type", "many tokens", "other scripts", "output limit"}, c.Name)
	})
	return o
}

func TestSettings(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			p := l.load(t)
			if err := p.Check(t.Context(), sdk.Settings(`{"other":["delay_ms",{"delay_ms":"x"}],"delay_ms": 20}`)); err != nil {
				t.Errorf("good settings: %v", err)
			}
			err := sdk.AsError(p.Check(t.Context(), sdk.Settings(`{"delay_ms":"long"}`)))
			if err == nil || err.Kind != sdk.Invalid || !strings.Contains(err.Message, "delay_ms") {
				t.Errorf("bad settings: %v, want an invalid delay_ms", err)
			}
		})
	}
}
