package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// place puts a version of a plugin into a folder as an installer should: the
// artifact first, the manifest last, both by renaming.
func place(t *testing.T, dir, text string, artifact []byte) (digest string) {
	t.Helper()
	sum := sha256.Sum256(artifact)
	digest = hex.EncodeToString(sum[:])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name string
		b    []byte
		mode os.FileMode
	}{{"artifact", artifact, 0o755}, {manifest.File, []byte(text + "sha256: " + digest + "\n"), 0o644}} {
		path := filepath.Join(dir, f.name)
		if err := errors.Join(os.WriteFile(path+".new", f.b, f.mode), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	return digest
}

// reloading runs a host that looks at its plugins' folders when the returned
// function says so, which returns when the log has a phrase once more.
func (w *world) reloading(cfg config.Config) (*hosting, func(phrase string)) {
	w.t.Helper()
	rdb, l := connect(w.t, w.addr)
	ctx, stop := context.WithCancel(context.Background())
	h := &hosting{t: w.t, line: l, stop: stop, done: make(chan struct{})}
	ready, reload := make(chan struct{}), make(chan struct{})
	cfg.Plugins.CacheDir = w.t.TempDir()
	go func() {
		defer close(h.done)
		h.err = Run(ctx, Options{
			Config: cfg, Redis: rdb, Version: "test", Reload: reload, Ready: func() { close(ready) },
			Log: slog.New(slog.NewTextHandler(io.MultiWriter(w.t.Output(), h), nil)),
			Report: func(r Report) {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.reports = append(h.reports, r)
			},
		})
	}()
	w.t.Cleanup(func() { h.end() })
	select {
	case <-ready:
	case <-h.done:
		w.t.Fatalf("host ended at once: %v", h.err)
	}
	return h, func(phrase string) {
		before := h.logged(phrase)
		reload <- struct{}{}
		eventually(w.t, "the log says "+phrase, func() bool { return h.logged(phrase) > before })
	}
}

const echoManifest = "name: echo\nversion: 1.0.0\nprotocol: 1\nruntime: native\nartifact: artifact\nmodels: [{name: echo, continue: true}]\n" +
	"limits: {memory: 1GiB}\nsettings: {type: object}\n"

func echoProgram(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	m, err := manifest.Build(t.Context(), filepath.Join("..", "plugins", "echo", "native.yaml"), dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// One version takes over from another again and again, under fifty streams.
// Every answer is whole, at its first attempt, and names the version that gave
// it; a version that doesn't start, or refuses its settings, never gives one.
func TestHotSwap(t *testing.T) {
	t.Parallel()
	program := echoProgram(t)
	root := t.TempDir()
	dir := filepath.Join(root, "echo")
	served := map[string]bool{place(t, dir, echoManifest, program): true}
	w := newWorld(t, startServer(t).addr)
	h, reload := w.reloading(tuned(func(c *config.Config) {
		c.Plugins.Dirs = []string{root}
		c.Plugins.Config = map[string]config.Plugin{"echo": {Settings: map[string]any{"delay_ms": 5}}}
	}))

	var stop atomic.Bool
	var mu sync.Mutex
	seen := map[string]int{}
	var streams sync.WaitGroup
	for range 50 {
		streams.Go(func() {
			for !stop.Load() {
				l := w.follow(w.create(job.Job{Models: []string{"echo"}, Query: "one two three", Params: json.RawMessage(`{"options":{"tokens":40}}`)}), 0)
				c := l.complete()
				start := decode[job.Start](t, l.frames[0])
				if c.Attempt != 1 {
					t.Errorf("answered at attempt %d: %s", c.Attempt, l)
				}
				mu.Lock()
				seen[start.PluginDigest]++
				mu.Unlock()
			}
		})
	}
	for n := range 12 {
		version := append(program[:len(program):len(program)], fmt.Sprint("version ", n)...)
		served[place(t, dir, echoManifest, version)] = true
		reload("plugin was replaced")
		switch n {
		case 4:
			place(t, dir, echoManifest, []byte("#!/bin/false\n"))
			reload("new version of a plugin is not taken")
		case 6:
			place(t, dir, echoManifest+"models: []\n", program)
			reload("new version of a plugin is not taken")
		}
	}
	stop.Store(true)
	streams.Wait()
	total := 0
	for digest, n := range seen {
		total += n
		if !served[digest] {
			t.Errorf("%d answers of %q, which was never in service", n, digest)
		}
	}
	if len(seen) < 3 {
		t.Errorf("answers of only %d versions", len(seen))
	}
	t.Logf("%d answers of %d versions", total, len(seen))
	eventually(t, "the versions before are drained", func() bool { return h.logged("plugin is drained") == h.logged("plugin was replaced") })
	h.wantOutcomes(map[string]int{"complete": total})
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

// Plugins that come and go while a host runs are noticed without being told.
func TestPluginsComeAndGo(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	w := newWorld(t, startServer(t).addr)
	h := w.host(tuned(func(c *config.Config) { c.Plugins.Dirs = []string{root} }))
	hosts := job.NewHosts(w.store, discard, job.HostsOptions{})
	announced := func() int {
		models, err := hosts.Models(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(models)
	}
	if n := announced(); n != 0 {
		t.Errorf("%d models are announced, want none", n)
	}
	place(t, filepath.Join(root, "echo"), echoManifest, echoProgram(t))
	eventually(t, "its model is announced", func() bool { return announced() == 1 })
	w.follow(w.create(job.Job{Models: []string{"echo"}}), 0).complete()
	if err := os.RemoveAll(filepath.Join(root, "echo")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its model is not announced any more", func() bool { return announced() == 0 })
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

// What has begun in a version ends in it; if that takes too long, it is ended as
// something to be run again, which is nobody's failure.
func TestRetiredPluginIsCut(t *testing.T) {
	root := t.TempDir()
	install(t, root, "p", "p", "")
	begun, stopped := make(chan struct{}), make(chan struct{})
	start := func(_ context.Context, m *manifest.Manifest, _ *egress.Gate) (instance, error) {
		hang := func(ctx context.Context, _ *sdk.Request, _ sdk.Emit) error {
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		}
		return instance{
			provider: provider(m.Name, hang, sdk.Model(m.Models[0])),
			stop:     func(context.Context) error { close(stopped); return nil },
		}, nil
	}
	c := openCatalogue(t.Context(), config.Plugins{Dirs: []string{root}}, nil, map[manifest.Runtime]starter{manifest.Wasm: start}, discard)
	c.drain = time.Millisecond
	r, ok := c.routes.take("p-model")
	if !ok {
		t.Fatal("p-model is not served")
	}
	ended := make(chan error, 1)
	go func() { ended <- r.plugin.generate(t.Context(), &sdk.Request{}, nil) }()
	<-begun
	if err := os.RemoveAll(filepath.Join(root, "p")); err != nil {
		t.Fatal(err)
	}
	if !c.look(t.Context(), true) {
		t.Error("its removal changed nothing")
	}
	if _, ok := c.routes.take("p-model"); ok {
		t.Error("it is still served")
	}
	if err := <-ended; !errors.Is(err, errRetired) {
		t.Errorf("its generation ended with %v, want %v", err, errRetired)
	}
	<-stopped
	r.plugin.done()
	if err := c.close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"away", "unhappy", "fine"} {
		install(t, root, name, name, "")
	}
	stopped := 0
	start := func(_ context.Context, m *manifest.Manifest, _ *egress.Gate) (instance, error) {
		p := provider(m.Name, saying(), sdk.Model(m.Models[0]))
		p.Check = func(context.Context, sdk.Settings) error {
			switch m.Name {
			case "away":
				return &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: "no route"}
			case "unhappy":
				return sdk.Errorf(sdk.Invalid, "region is empty")
			}
			return nil
		}
		return instance{provider: p, stop: func(context.Context) error {
			if m.Name == "unhappy" {
				stopped++
			}
			return nil
		}}, nil
	}
	c := openCatalogue(t.Context(), config.Plugins{Dirs: []string{root}}, nil, map[manifest.Runtime]starter{manifest.Wasm: start}, discard)
	var names []string
	for _, p := range c.inService() {
		names = append(names, p.name)
	}
	if strings.Join(names, " ") != "away fine" || stopped != 1 {
		t.Errorf("in service are %v, want away and fine; unhappy was stopped %d times", names, stopped)
	}
	// A folder is left alone while its files still change.
	for range 2 {
		if c.look(t.Context(), false) {
			t.Error("looking again changed something")
		}
	}
	path := filepath.Join(root, "fine", "more")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c.look(t.Context(), false) {
		t.Error("a change was taken over at once")
	}
	if !c.look(t.Context(), false) {
		t.Error("a change was not taken over")
	}
	if err := c.close(t.Context()); err != nil {
		t.Error(err)
	}
}
