package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range []string{built.dir, cache.dir} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// guestManifest builds the Go guest once for the whole test binary.
func guestManifest(tb testing.TB, op manifest.Operator) *manifest.Manifest {
	tb.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sluice-guest-*"); built.err == nil {
			_, built.err = manifest.Build(context.Background(), "testdata/guest/plugin.yaml", built.dir)
		}
	})
	if built.err != nil {
		tb.Fatal(built.err)
	}
	m, err := manifest.Load(built.dir)
	if err != nil {
		tb.Fatal(err)
	}
	if m, err = m.Narrow(op); err != nil {
		tb.Fatal(err)
	}
	return m
}

type testLog struct {
	tb testing.TB
	mu sync.Mutex
	b  strings.Builder
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLog(tb testing.TB) (*slog.Logger, *testLog) {
	w := &testLog{tb: tb}
	tb.Cleanup(func() {
		if tb.Failed() {
			text := w.String()
			tb.Log(text[max(0, len(text)-2000):])
		}
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})), w
}

// cache is shared by the tests of one run, so that the guest is compiled once.
var cache struct {
	once sync.Once
	dir  string
	err  error
}

func cacheDir() (string, error) {
	cache.once.Do(func() { cache.dir, cache.err = os.MkdirTemp("", "sluice-cache-*") })
	return cache.dir, cache.err
}

func load(tb testing.TB, m *manifest.Manifest) (*Plugin, *testLog) {
	tb.Helper()
	dir, err := cacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	log, text := newLog(tb)
	rt, err := NewRuntime(tb.Context(), Options{CacheDir: dir, Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	gate, err := egress.New(m, egress.Options{Log: log, LookupEnv: func(name string) (string, bool) { return "sk-very-secret", name == "SLUICE_TEST_KEY" }})
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
		gate.Close()
	})
	return p, text
}

func ask(model, prompt string) *sdk.Request {
	return &sdk.Request{JobID: "j", Attempt: 1, Model: model, Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(prompt)}}}}
}

// collect runs a job and returns its text.
func collect(ctx context.Context, p *Plugin, req *sdk.Request) (string, error) {
	var b strings.Builder
	err := p.Provider().Generate(ctx, req, func(c sdk.Chunk) error {
		if t, ok := c.(sdk.Text); ok {
			b.WriteString(string(t))
		}
		return nil
	})
	return b.String(), err
}

func wantError(t *testing.T, err error, kind sdk.Kind, fault sdk.Fault, text string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want an *sdk.Error", err, err)
	}
	if e.Kind != kind || e.Fault != fault || !strings.Contains(e.Message, text) {
		t.Errorf("error %s/%s %q, want %s/%s with %q", e.Kind, e.Fault, e.Message, kind, fault, text)
	}
}

func TestStreams(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	var got []sdk.Chunk
	err := p.Provider().Generate(t.Context(), ask("echo", "one two three"), func(c sdk.Chunk) error {
		got = append(got, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []sdk.Chunk{sdk.Text("one "), sdk.Text("two "), sdk.Text("three"), sdk.Usage{Input: 1, Output: 2}, sdk.Finish{Reason: sdk.FinishStop}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("chunks %v, want %v", got, want)
	}
	pr := p.Provider()
	if n, err := pr.CountTokens(t.Context(), ask("echo", "a b c")); n != 3 || err != nil {
		t.Errorf("tokens %d, %v", n, err)
	}
	if pr.ListModels != nil || pr.Resume == nil || pr.Name != "guest" || pr.Models[0].Name != "*" {
		t.Errorf("abilities of %+v", pr)
	}
	if err := pr.Check(t.Context(), sdk.Settings(`{"mood":"bad"}`)); err == nil || !strings.Contains(err.Error(), "mood is bad") {
		t.Errorf("check: %v", err)
	}
}

func TestEveryJobIsPristine(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	seen := map[string]bool{}
	for range 5 {
		if text, err := collect(t.Context(), p, ask("state", "")); text != "1" || err != nil {
			t.Errorf("state %q, %v", text, err)
		}
		text, err := collect(t.Context(), p, ask("random", ""))
		if err != nil || seen[text] {
			t.Errorf("random %q again, %v", text, err)
		}
		seen[text] = true
	}
}

// Numbers that nobody counted end the job, and text that isn't UTF-8 is repaired.
func TestForgedChunks(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	for _, forged := range []string{`{"Input":-1}`, `{"Output":4294967296}`, `{"CacheWrite":-9223372036854775808}`} {
		_, err := collect(t.Context(), p, ask("usage", forged))
		wantError(t, err, sdk.Internal, sdk.Plugin, "a chunk that can't be")
	}
	for _, index := range []string{"-1", "65536"} {
		_, err := collect(t.Context(), p, ask("call", index))
		wantError(t, err, sdk.Internal, sdk.Plugin, "a chunk that can't be")
	}
	if _, err := collect(t.Context(), p, ask("usage", `{"Input":2000000,"Output":1}`)); err != nil {
		t.Error(err)
	}
	if text, err := collect(t.Context(), p, ask("garbage", "")); text != "a\uFFFDb" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// Chunks that the host keeps stay as they were emitted.
func TestChunksKeepTheirText(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	var words []string
	for i := range 2000 {
		words = append(words, strings.Repeat(fmt.Sprint(i), 1+i%30)+" ")
	}
	var kept []sdk.Chunk
	err := p.Provider().Generate(t.Context(), ask("echo", strings.TrimSuffix(strings.Join(words, ""), " ")), func(c sdk.Chunk) error {
		kept = append(kept, c)
		return nil
	})
	if err != nil || len(kept) != len(words)+2 {
		t.Fatalf("%d chunks, %v", len(kept), err)
	}
	for i, w := range words {
		if i == len(words)-1 {
			w = strings.TrimSuffix(w, " ")
		}
		if kept[i] != sdk.Text(w) {
			t.Fatalf("chunk %d is %q, emitted as %q", i, kept[i], w)
		}
	}
}

// What the host does for a guest counts as the guest's time.
func TestHostWorkIsCounted(t *testing.T) {
	p, _ := load(t, installed(t, attackModule(t), "memory: 64MiB, cpu: 50ms"))
	_, err := p.invoke(t.Context(), "random", nil, nil)
	wantError(t, err, sdk.Internal, sdk.Plugin, "limit of 50ms of processor time")
}

func TestErrorsCross(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	_, err := collect(t.Context(), p, ask("fail", ""))
	var e *sdk.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if want := (sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Message: "slow down", Wait: 1500 * time.Millisecond, Status: 429, Code: "rate"}); *e != want {
		t.Errorf("%+v, want %+v", *e, want)
	}
	_, err = collect(t.Context(), p, ask("quit", ""))
	wantError(t, err, sdk.Internal, sdk.Plugin, "nobody cancelled this")
}

func TestGuestSeesNothing(t *testing.T) {
	t.Setenv("SLUICE_VISIBLE", "1")
	p, log := load(t, guestManifest(t, manifest.Operator{}))
	if text, err := collect(t.Context(), p, ask("env", "")); text != "0 0" || err != nil {
		t.Errorf("variables and arguments: %q, %v", text, err)
	}
	if text, err := collect(t.Context(), p, ask("readfile", "")); text != "true" || err != nil {
		t.Errorf("refused to read a file: %q, %v", text, err)
	}
	if _, err := collect(t.Context(), p, ask("print", "")); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"to stderr", "to stdout", "provider=guest"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func upstream(t *testing.T, h http.HandlerFunc) (string, manifest.Operator) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL, manifest.Operator{Settings: map[string]any{"url": srv.URL}, AllowPrivate: []string{"127.0.0.1"}}
}

func TestHTTP(t *testing.T) {
	url, op := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s\n%s\n", r.Header.Get("Authorization"), "second")
	})
	p, log := load(t, guestManifest(t, op))
	text, err := collect(t.Context(), p, ask("lines", url))
	if err != nil || text != "Bearer **************second" {
		t.Errorf("%q, %v", text, err)
	}
	_, err = collect(t.Context(), p, ask("get", "https://example.com/"))
	wantError(t, err, sdk.Denied, sdk.Plugin, "not among the origins")
	if strings.Contains(log.String(), "very-secret") {
		t.Error("the log shows the secret")
	}
	_, err = collect(t.Context(), p, ask("open", url))
	wantError(t, err, sdk.Internal, sdk.Plugin, "")
}

// TestCancel cancels a guest in every place it can be in: reading, waiting for
// a head, emitting, sleeping and spinning.
func TestCancel(t *testing.T) {
	closed := make(chan struct{}, 8)
	url, op := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			fmt.Fprintln(w, "first")
			http.NewResponseController(w).Flush()
		}
		r.Body.Read(make([]byte, 100))
		<-r.Context().Done()
		closed <- struct{}{}
	})
	p, _ := load(t, guestManifest(t, op))
	for _, tt := range []struct {
		name, model, prompt string
		upstream            bool
	}{
		{"reading", "lines", url + "/body", true},
		{"sleeping", "sleep", "", false},
		{"spinning", "loop", "", false},
		{"recursing", "recurse", "", false},
		{"emitting without an end", "ignore", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := p.Provider().Generate(ctx, ask(tt.model, tt.prompt), func(sdk.Chunk) error {
				cancel() // on the first chunk
				return nil
			})
			wantError(t, err, sdk.Cancelled, sdk.Caller, "")
			if tt.upstream {
				<-closed
			}
		})
	}
	t.Run("waiting for the head", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := collect(ctx, p, ask("lines", url+"/head"))
		wantError(t, err, sdk.Unavailable, sdk.Upstream, "")
		<-closed
	})
	t.Run("emit fails", func(t *testing.T) {
		gone := errors.New("sink gone")
		err := p.Provider().Generate(t.Context(), ask("ignore", ""), func(sdk.Chunk) error { return gone })
		if !errors.Is(err, gone) {
			t.Errorf("%v, want the sink's error", err)
		}
	})
}

func TestFaultsAreThePlugins(t *testing.T) {
	p, log := load(t, guestManifest(t, manifest.Operator{Limits: manifest.Limits{Output: 100_000, Memory: 32 << 20}}))
	for model, want := range map[string]string{
		"panic":    "boom",
		"gopanic":  "boom in a goroutine",
		"exit":     "exited with code 7",
		"bomb":     "out of memory",
		"deep":     "",
		"flood":    "more than its limit of 100000 bytes",
		"ignore":   "more than its limit of 100000 bytes",
		"deadlock": "deadlock",
	} {
		t.Run(model, func(t *testing.T) {
			_, err := collect(t.Context(), p, ask(model, ""))
			wantError(t, err, sdk.Internal, sdk.Plugin, want)
			if text, err := collect(t.Context(), p, ask("echo", "fine")); text != "fine" || err != nil {
				t.Errorf("the next job: %q, %v", text, err)
			}
		})
	}
	_ = log
}

func TestClose(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- p.Provider().Generate(context.Background(), ask("sleep", ""), func(sdk.Chunk) error {
			close(started)
			return nil
		})
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no patience
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-done, sdk.Unavailable, sdk.Host, "closed")
	_, err := collect(t.Context(), p, ask("echo", "x"))
	wantError(t, err, sdk.Unavailable, sdk.Host, "closed")
}

// An instance that served a job serves the next as if it were new, and one that
// came to a bad end or grew serves none.
func TestInstancesAreReusedPristine(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	if !p.reusable {
		t.Fatal("the Go guest was not frozen")
	}
	idle := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.idle)
	}
	in, err := p.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fresh, _ := in.mod.Memory().Read(0, in.size)
	fresh = append([]byte(nil), fresh...)
	p.put(t.Context(), in, true)
	seen := map[string]bool{}
	for i := range 200 {
		want := "1"
		if text, err := collect(t.Context(), p, ask("state", "")); text != want || err != nil {
			t.Fatalf("job %d: state %q, %v", i, text, err)
		}
		text, err := collect(t.Context(), p, ask("random", ""))
		if err != nil || seen[text] {
			t.Fatalf("job %d: random %q again, %v", i, text, err)
		}
		seen[text] = true
	}
	if n := idle(); n != 1 {
		t.Errorf("%d idle instances after one job at a time", n)
	}
	if in, err = p.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, _ := in.mod.Memory().Read(0, in.size); string(now) != string(fresh) {
		t.Error("the memory of a used instance differs from a new one's")
	}
	for i, g := range in.globals {
		if g.Get() != in.initial[i] {
			t.Errorf("global %d is %d, at first %d", i, g.Get(), in.initial[i])
		}
	}
	p.put(t.Context(), in, true)
	if _, err := collect(t.Context(), p, ask("panic", "")); err == nil || idle() != 0 {
		t.Errorf("after a panic %d instances are idle, %v", idle(), err)
	}
}

// A guest frozen in an earlier process starts from the cache.
func TestInstalledOnce(t *testing.T) {
	dir := t.TempDir()
	m := guestManifest(t, manifest.Operator{})
	bin, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	installs := func() (n int) {
		log, text := newLog(t)
		rt, err := NewRuntime(t.Context(), Options{CacheDir: dir, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close(context.Background())
		gate, err := egress.New(m, egress.Options{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		p, err := rt.Load(t.Context(), m, gate)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close(context.Background())
		if text, err := collect(t.Context(), p, ask("echo", "hello")); text != "hello" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		return strings.Count(text.String(), "guest installed")
	}
	if n := installs(); n != 1 {
		t.Errorf("installed %d times at first", n)
	}
	if n := installs(); n != 0 {
		t.Errorf("installed again")
	}
	log, _ := newLog(t)
	file := (&Runtime{dir: dir, log: log}).imageFile(m, bin)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := installs(); n != 1 {
		t.Errorf("a damaged image: installed %d times", n)
	}
}
