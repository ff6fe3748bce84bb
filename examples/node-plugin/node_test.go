// Package nodeplugin holds a native plugin in Node. Its test builds it and runs
// the conformance table.
package nodeplugin

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// start builds the plugin as `make node` in examples/guests does, and runs it.
func start(tb testing.TB) sdk.Provider {
	tb.Helper()
	for tool, get := range map[string]string{"node": "install Node 20 or later", "node_modules/.bin/esbuild": "npm ci in examples/node-plugin"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("SLUICE_REQUIRE") != "" {
				tb.Fatalf("%s is missing: %s", tool, get)
			}
			tb.Skipf("%s is missing: %s", tool, get)
		}
	}
	dir := tb.TempDir()
	if out, err := exec.Command("node", "build.mjs", filepath.Join(dir, "stage")).CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	m, err := manifest.Build(tb.Context(), filepath.Join(dir, "stage", manifest.File), filepath.Join(dir, "plugin"))
	if err != nil {
		tb.Fatal(err)
	}
	if m, err = m.Narrow(manifest.Operator{}); err != nil {
		tb.Fatal(err)
	}
	run, err := os.MkdirTemp("", "sl") // sockets need short paths
	if err != nil {
		tb.Fatal(err)
	}
	p, err := native.Start(tb.Context(), m, native.Options{
		Log:      slog.New(slog.NewTextHandler(tb.Output(), nil)),
		CacheDir: dir, RunDir: run, StartTimeout: time.Minute,
	})
	if err != nil {
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(context.Background()) }()
	tb.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			tb.Error(err)
		}
		if err := <-ended; err != nil {
			tb.Error(err)
		}
		os.RemoveAll(run)
	})
	if d := p.Description(); d.Name != m.Name || d.Version != m.Version || !d.Check {
		tb.Errorf("it describes itself as %+v, its manifest says %s %s", d, m.Name, m.Version)
	}
	return p.Provider()
}

func TestConformance(t *testing.T) {
	p := start(t)
	o := sdktest.Echo(p.Name)
	o.Cases = slices.DeleteFunc(o.Cases, func(c sdktest.Case) bool { // what the example leaves out
		return !slices.Contains([]string{"nothing to say", "option of the wrong type", "many tokens", "other scripts", "output limit"}, c.Name)
	})
	sdktest.Run(t, p, o)

	t.Run("settings", func(t *testing.T) {
		if err := p.Check(t.Context(), sdk.Settings(`{"delay_ms":20}`)); err != nil {
			t.Errorf("good settings: %v", err)
		}
		err := sdk.AsError(p.Check(t.Context(), sdk.Settings(`{"delay_ms":"long"}`)))
		if err == nil || err.Kind != sdk.Invalid || !strings.Contains(err.Message, "delay_ms") {
			t.Errorf("bad settings: %v, want an invalid delay_ms", err)
		}
	})
	t.Run("a mistake of its own", func(t *testing.T) {
		err := sdk.AsError(p.Check(t.Context(), sdk.Settings(`no JSON`)))
		if err == nil || err.Kind != sdk.Internal || err.Fault != sdk.Plugin || !strings.Contains(err.Message, "JSON") {
			t.Errorf("error is %v, want an internal one of the plugin", err)
		}
	})
}
