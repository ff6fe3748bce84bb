// Package nodeplugin holds a native plugin in Node. Its test builds it and runs
// the conformance table.
package nodeplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// start builds a plugin as `make node` in examples/guests does, and runs it.
func start(tb testing.TB, source string, op manifest.Operator) *native.Plugin {
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
	if out, err := exec.Command("node", "build.mjs", filepath.Join(dir, "stage"), source).CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	m, err := manifest.Build(tb.Context(), filepath.Join(dir, "stage", manifest.File), filepath.Join(dir, "plugin"))
	if err != nil {
		tb.Fatal(err)
	}
	if m, err = m.Narrow(op); err != nil {
		tb.Fatal(err)
	}
	run, err := os.MkdirTemp("", "sl") // sockets need short paths
	if err != nil {
		tb.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(tb.Output(), nil))
	gate, err := egress.New(m, egress.Options{Log: log, LookupEnv: func(string) (string, bool) { return "very-secret", true }})
	if err != nil {
		tb.Fatal(err)
	}
	p, err := native.Start(tb.Context(), m, native.Options{Log: log, CacheDir: dir, RunDir: run, StartTimeout: time.Minute, Egress: gate})
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
		gate.Close()
		os.RemoveAll(run)
	})
	if d := p.Description(); d.Name != m.Name || d.Version != m.Version || !d.Check {
		tb.Errorf("it describes itself as %+v, its manifest says %s %s", d, m.Name, m.Version)
	}
	return p
}

func TestConformance(t *testing.T) {
	p := start(t, "echo.mjs", manifest.Operator{}).Provider()
	sdktest.Run(t, p, sdktest.Echo(p.Name))

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

func prompt(model, text string) *sdk.Request {
	return &sdk.Request{
		JobID: "j", Attempt: 1, Model: model,
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(text)}}},
		Options:  map[string]json.RawMessage{"delay_ms": json.RawMessage("0")},
	}
}

func TestThroughTheGate(t *testing.T) {
	closed := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s, %d bytes of secret", body, len(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
		if r.URL.Path == "/open" {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-r.Context().Done()
			close(closed)
		}
	}))
	defer upstream.Close()
	p := start(t, "testdata/fetch.mjs", manifest.Operator{Settings: map[string]any{"url": upstream.URL}, AllowPrivate: []string{"127.0.0.1"}}).Provider()
	tr := sdktest.Record(t.Context(), p, prompt("any", upstream.URL+"/"))
	if tr.Err != nil || tr.Text() != "a body, 11 bytes of secret" {
		t.Errorf("%q, %v", tr.Text(), tr.Err)
	}
	err := sdk.AsError(sdktest.Record(t.Context(), p, prompt("any", "https://elsewhere.example/")).Err)
	if err == nil || err.Kind != sdk.Denied || err.Fault != sdk.Plugin || err.Code != "egress_refused" {
		t.Errorf("error is %+v, want that the gate refused", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = sdk.AsError(p.Generate(ctx, prompt("any", upstream.URL+"/open"), func(sdk.Chunk) error { cancel(); return nil }))
	if err == nil || err.Kind != sdk.Cancelled {
		t.Errorf("error is %+v, want a cancellation", err)
	}
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Error("the upstream's connection is still open")
	}
}

// BenchmarkEmit is one chunk of 20 bytes, from the plugin's generator to the
// host's callback.
func BenchmarkEmit(b *testing.B) {
	p := start(b, "echo.mjs", manifest.Operator{}).Provider()
	const n = 100_000
	req := prompt(p.Name, strings.Repeat(" abcdefghijklmnopqrs", 100))
	req.Options["tokens"] = sdk.JSON(n)
	for b.Loop() {
		if err := p.Generate(b.Context(), req, func(sdk.Chunk) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/chunk")
}
