// Package guests holds plugins for the sandbox in other languages than Go, one
// folder each. Its tests build them and run the conformance table.
package guests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	{name: "c", tools: []string{"make", "clang", "wasm-ld"}, get: "apt-get install make clang lld"},
	{
		name: "rust", tools: []string{"make", "wasm-ld-14", "/usr/bin/rustc", "/usr/lib/rustlib/wasm32-unknown-unknown"},
		get: "apt-get install make rustc libstd-rust-dev-wasm32 lld-14",
	},
	{name: "assemblyscript", tools: npm, get: getNpm},
	javascript,
}

var javascript = &language{name: "javascript", tools: npm, get: getNpm}

var npm = []string{"make", "node", "node_modules/.bin/asc", "node_modules/.bin/wasm-merge", "node_modules/quickjs-wasi"}

const getNpm = "apt-get install make nodejs npm, and npm ci in examples/guests"

// build makes the plugin as `make` does, once for all tests.
func (l *language) build(tb testing.TB) string {
	tb.Helper()
	for _, tool := range l.tools {
		_, err := exec.LookPath(tool)
		if strings.Contains(tool, "/") {
			_, err = os.Stat(tool)
		}
		if err != nil && os.Getenv("SLUICE_REQUIRE") != "" {
			tb.Fatalf("%s is missing: %s", tool, l.get)
		}
		if err != nil {
			tb.Skipf("%s is missing: %s", tool, l.get)
		}
	}
	l.once.Do(func() {
		if out, err := exec.Command("make", l.name, "STAGE="+stage()).CombinedOutput(); err != nil {
			l.err = fmt.Errorf("make %s: %w\n%s", l.name, err, out)
			return
		}
		l.dir = filepath.Join(scratch, l.name)
		_, l.err = builder().Build(context.Background(), filepath.Join(stage(), l.name, manifest.File), l.dir)
	})
	if l.err != nil {
		tb.Fatal(l.err)
	}
	return l.dir
}

func stage() string { return filepath.Join(scratch, "stage") }

func builder() manifest.Builder {
	return manifest.Builder{Engine: filepath.Join(stage(), "javascript", "engine.wasm")}
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

// text is a log that can be read.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// try loads a plugin, or says why it can't be.
func try(tb testing.TB, dir string, op manifest.Operator) (*sandbox.Plugin, *text, error) {
	tb.Helper()
	m, err := manifest.Load(dir)
	if err != nil {
		tb.Fatal(err)
	}
	if m, err = m.Narrow(op); err != nil {
		tb.Fatal(err)
	}
	out := new(text)
	log := slog.New(slog.NewTextHandler(out, nil))
	rt, err := sandbox.NewRuntime(tb.Context(), sandbox.Options{CacheDir: filepath.Join(scratch, "cache"), Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	gate, err := egress.New(m, egress.Options{Log: log, LookupEnv: func(string) (string, bool) { return "very-secret", true }})
	if err != nil {
		tb.Fatal(err)
	}
	p, err := rt.Load(tb.Context(), m, gate)
	tb.Cleanup(func() {
		if p != nil {
			err = p.Close(context.Background())
		}
		gate.Close()
		if err := errors.Join(err, rt.Close(context.Background())); err != nil && p != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Log(out)
		}
	})
	return p, out, err
}

func (l *language) load(tb testing.TB) sdk.Provider {
	tb.Helper()
	p, log, err := try(tb, l.build(tb), manifest.Operator{})
	if err != nil {
		tb.Fatal(err)
	}
	// A job's instance is cheap only if it needs no initialisation of its own.
	if strings.Contains(log.String(), "can't be frozen") {
		tb.Errorf("it can't be frozen: %s", log)
	}
	if d, m := p.Description(), p.Manifest(); d.Name != m.Name || d.Version != m.Version || !d.Check {
		tb.Errorf("it describes itself as %+v, its manifest says %s %s", d, m.Name, m.Version)
	}
	return p.Provider()
}

// install makes a plugin that the tests use out of its artifact, or of a script.
func install(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/plugin.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := "try.wasm"
	if filepath.Ext(source) == ".js" {
		file = filepath.Base(source)
		text = append(text, "script: "+file+"\n"...)
	}
	b, err := os.ReadFile(source)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, file), b, 0o644), os.WriteFile(filepath.Join(dir, manifest.File), text, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := builder().Build(t.Context(), filepath.Join(dir, manifest.File), filepath.Join(dir, "built")); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "built")
}

func TestConformance(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			p := l.load(t)
			sdktest.Run(t, p, echo(p.Name))
		})
	}
}

// echo is the bundled echo's table, and what readers of requests that are written by hand get wrong.
func echo(model string) sdktest.Options {
	o := sdktest.Echo(model)
	talk := question(model, "one", nil)
	talk.Messages = []sdk.Message{
		{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("not this")}},
		{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("nor this")}},
		{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.TextPart("or this")}},
		{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("one "), sdk.ImagePart{MediaType: "image/png", Data: []byte{0}}, sdk.TextPart("two")}},
		{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ToolCallPart{ID: "1", Name: "n", Arguments: "{}"}}},
	}
	temperature, seed := 0.5, int64(-1)
	talk.Temperature, talk.Seed, talk.Stop = &temperature, &seed, []string{"never"}
	misled := question(model, "one", nil)
	delete(misled.Options, "delay_ms")
	misled.Settings = sdk.Settings(`{"a":[{"delay_ms":1}],"delay_ms":"long"}`)
	escapes := question(model, "one", nil)
	escapes.Options["error"] = json.RawMessage(`{ "kind" : "limited", "other": {"message": ["no"]}, "message": "\"q\" \\ \t \u00fc \ud83d\ude42 ü" }`)
	off := question(model, "one", nil)
	for _, option := range []string{"reasoning", "refusal", "tool_call"} {
		off.Options[option] = json.RawMessage("false")
	}
	tool := question(model, "", map[string]any{"tool_call": true, "usage": false})
	wrong, long := question(model, "one two", nil), question(model, "one two", nil)
	wrong.Prefix, long.Prefix = "one three", "one two three"
	o.Cases = append(o.Cases,
		sdktest.Case{Name: "escapes", Request: escapes, Chunks: []sdk.Chunk{}, Err: &sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Message: "\"q\" \\ \t ü 🙂 ü"}},
		sdktest.Case{Name: "options that are off", Request: off, Text: "one"},
		sdktest.Case{Name: "a tool of its own", Request: tool, Answer: []sdk.Chunk{
			sdk.ToolCall{ID: "call_1", Name: "echo", Arguments: `{"text":"echo"}`}, sdk.Finish{Reason: sdk.FinishToolCalls},
		}},
		sdktest.Case{Name: "another prefix", Request: wrong, Resume: true, Err: &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		sdktest.Case{Name: "a longer prefix", Request: long, Resume: true, Err: &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		sdktest.Case{Name: "talk", Request: talk, Text: "one two"},
		sdktest.Case{Name: "bad settings", Request: misled, Chunks: []sdk.Chunk{}, Err: &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
	)
	return o
}

// TestRequests sends one through the host from each language; JavaScript has a
// test of its own.
func TestRequests(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if got := []string{r.Method, r.Header.Get("Authorization"), r.Header.Get("X-Job"), string(body)}; !slices.Equal(got, []string{"POST", "Bearer very-secret", "bench", "a body"}) {
			t.Errorf("the request is %q", got)
		}
		switch r.URL.Path {
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case "/cut":
			w.Header().Set("Content-Length", "100")
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, strings.Repeat("0123456789", 9))
	}))
	defer upstream.Close()
	for _, l := range languages[:3] {
		t.Run(l.name, func(t *testing.T) {
			l.build(t)
			artifact := filepath.Join(stage(), l.name, "testdata", "fetch.wasm")
			if out, err := exec.Command("make", artifact, "STAGE="+stage()).CombinedOutput(); err != nil {
				t.Fatalf("make: %v\n%s", err, out)
			}
			p, _, err := try(t, install(t, artifact), manifest.Operator{Settings: map[string]any{"url": upstream.URL}, AllowPrivate: []string{"127.0.0.1"}})
			if err != nil {
				t.Fatal(err)
			}
			for url, want := range map[string]sdk.Error{
				upstream.URL + "/":           {},
				upstream.URL + "/busy":       {Kind: sdk.Unavailable, Fault: sdk.Upstream},
				upstream.URL + "/cut":        {Kind: sdk.Truncated, Fault: sdk.Upstream},
				"https://elsewhere.example/": {Kind: sdk.Denied, Fault: sdk.Plugin},
			} {
				req := question("any", "", nil)
				req.Settings = sdk.Settings(`{"url":"` + url + `"}`)
				tr := sdktest.Record(t.Context(), p.Provider(), req)
				e := sdk.AsError(tr.Err)
				if e == nil {
					e = new(sdk.Error)
				}
				if e.Kind != want.Kind || e.Fault != want.Fault {
					t.Errorf("%s: error is %+v, want %s of %s", url, tr.Err, want.Kind, want.Fault)
				}
				if tr.Err == nil && tr.Text() != strings.Repeat("0123456789", 9) {
					t.Errorf("%s: text is %q", url, tr.Text())
				}
			}
		})
	}
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

// TestReadmeSizes: the sizes that the README gives are those of today's artifacts, by and large.
func TestReadmeSizes(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			file, err := os.Stat(filepath.Join(l.build(t), "echo.wasm"))
			if err != nil {
				t.Fatal(err)
			}
			row := regexp.MustCompile(`(?m)^\| \[` + l.name + `\].*\| (\d+) KB \|`).FindSubmatch(readme)
			if row == nil {
				t.Fatal("it has no row with a size")
			}
			said, err := strconv.ParseFloat(string(row[1]), 64)
			if err != nil {
				t.Fatal(err)
			}
			if is := float64(file.Size()) / 1000; math.Abs(said-is) > is/10 {
				t.Errorf("it is said to have %.0f KB, and has %.0f", said, is)
			}
		})
	}
}

// TestExamplesAreShort: what an author writes fits on two screens, and a README
// says how it is built.
func TestExamplesAreShort(t *testing.T) {
	for _, file := range []string{"c/echo.c", "rust/echo.rs", "assemblyscript/echo.ts", "javascript/echo.js", "../node-plugin/echo.mjs"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "\n"); n >= 100 {
			t.Errorf("%s has %d lines, want less than 100", file, n)
		}
		if b, err = os.ReadFile(filepath.Join(filepath.Dir(file), "README.md")); err != nil || !strings.Contains(string(b), "make -C ") {
			t.Errorf("the README beside %s doesn't say how to make it: %v", file, err)
		}
	}
}
