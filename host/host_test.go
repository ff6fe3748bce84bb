package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// world is a Redis, seen from the side of the gateway.
type world struct {
	t       testing.TB
	addr    string
	rdb     redis.UniversalClient
	line    *line
	store   *job.Store
	tickets *job.Queue
}

func newWorld(t testing.TB, addr string) *world {
	rdb, l := connect(t, addr)
	return &world{t: t, addr: addr, rdb: rdb, line: l, store: job.NewStore(rdb, job.Options{}), tickets: job.NewQueue(rdb)}
}

// create accepts a job and hands its ticket out.
func (w *world) create(j job.Job) string {
	w.t.Helper()
	if j.ID == "" {
		j.ID = job.NewID()
	}
	if j.User == "" {
		j.User = "ada"
	}
	if j.Query == "" && j.Messages == nil {
		j.Query = "why?"
	}
	if j.Models == nil {
		j.Models = []string{"m"}
	}
	if _, _, err := w.store.Create(w.t.Context(), j); err != nil {
		w.t.Fatal(err)
	}
	if err := w.tickets.Enqueue(w.t.Context(), job.Ticket{Job: j.ID, Attempt: 1}, j.Priority, 0); err != nil {
		w.t.Fatal(err)
	}
	return j.ID
}

// log is what a client sees of a job.
type log struct {
	frames []job.Frame
	t      testing.TB
}

// follow reads a job's frames after a seq until it has ended, and checks what
// holds for every job: seq without a gap, one terminal frame, and it is last.
func (w *world) follow(id string, after int64) log {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	l := log{t: w.t}
	seq := after
	for f, err := range w.store.Follow(ctx, id, after) {
		if err != nil {
			w.t.Fatalf("follow %s after %d frames %s: %v", id, len(l.frames), l, err)
		}
		if f.Seq != seq+1 {
			w.t.Errorf("job %s: seq %d follows %d", id, f.Seq, seq)
		}
		seq = f.Seq
		l.frames = append(l.frames, f)
	}
	if len(l.frames) == 0 || !l.frames[len(l.frames)-1].Terminal() {
		w.t.Errorf("job %s has no terminal frame at its end: %s", id, l)
	}
	if n := len(l.frames); n > 0 {
		for _, f := range l.frames[:n-1] {
			if f.Terminal() {
				w.t.Errorf("job %s: terminal frame %s before the end", id, f.Event)
			}
		}
	}
	return l
}

// waitFor reads a job's frames until one satisfies want.
func (w *world) waitFor(id string, what string, want func(job.Frame) bool) job.Frame {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	for f, err := range w.store.Follow(ctx, id, 0) {
		if err != nil {
			w.t.Fatalf("wait for %s: %v", what, err)
		}
		if want(f) {
			return f
		}
	}
	w.t.Fatalf("job %s ended without %s", id, what)
	return job.Frame{}
}

func isEvent(name string) func(job.Frame) bool {
	return func(f job.Frame) bool { return f.Event == name }
}

// names lists the events, runs of chunks as one.
func (l log) names() string {
	var out []string
	for _, f := range l.frames {
		name := strings.TrimSuffix(f.Event, ":v1")
		if f.Event == job.EventProgress {
			name += "/" + decode[job.Progress](l.t, f).Status
		}
		if n := len(out); name == "model:chunk" && n > 0 && out[n-1] == name {
			continue
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func (l log) String() string { return l.names() }

func (l log) last() job.Frame { return l.frames[len(l.frames)-1] }

// text is the answer as a client puts it together.
func (l log) text() string {
	text, err := job.Text(l.frames)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

func decode[T any](t testing.TB, f job.Frame) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(f.Data, &v); err != nil {
		t.Fatalf("decode %s: %v", f.Raw, err)
	}
	return v
}

// complete is the end of a job that must have been answered, with its digest
// checked against the chunks.
func (l log) complete() job.Complete {
	l.t.Helper()
	if l.last().Event != job.EventComplete {
		l.t.Fatalf("job did not complete: %s: %s", l, l.last().Raw)
	}
	c := decode[job.Complete](l.t, l.last())
	if text := l.text(); c.Text != text || c.Digest != job.Digest(text) {
		l.t.Errorf("text of the end (%d bytes) and of the chunks (%d bytes) differ, or the digest does", len(c.Text), len(text))
	}
	return c
}

// hosting is a host running in the test.
type hosting struct {
	t       testing.TB
	line    *line
	stop    context.CancelFunc
	done    chan struct{}
	err     error
	mu      sync.Mutex
	reports []Report
	logs    strings.Builder
}

// Write takes the host's log.
func (h *hosting) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs.Write(b)
	return len(b), nil
}

// logged counts the lines of the host's log with a phrase.
func (h *hosting) logged(phrase string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.logs.String(), phrase)
}

// tuned is a configuration with short times.
func tuned(change func(*config.Config)) config.Config {
	cfg := config.Default()
	cfg.Host.Grace = 10 * time.Second
	cfg.Host.Backoff = config.Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// host runs a host until the test ends, and returns once it takes tickets.
func (w *world) host(cfg config.Config, providers ...sdk.Provider) *hosting {
	w.t.Helper()
	rdb, l := connect(w.t, w.addr)
	ctx, stop := context.WithCancel(context.Background())
	h := &hosting{t: w.t, line: l, stop: stop, done: make(chan struct{})}
	ready := make(chan struct{})
	cfg.Plugins.CacheDir = w.t.TempDir()
	go func() {
		defer close(h.done)
		h.err = Run(ctx, Options{
			Config: cfg, Redis: rdb, Providers: providers, Version: "test",
			Log:   slog.New(slog.NewTextHandler(io.MultiWriter(w.t.Output(), h), &slog.HandlerOptions{Level: slog.LevelDebug})),
			Ready: func() { close(ready) },
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
	case <-time.After(3 * time.Minute): // plugins may have to be compiled
		w.t.Fatal("host is never ready")
	}
	return h
}

// end stops the host in order and returns what Run did.
func (h *hosting) end() error {
	h.t.Helper()
	h.stop()
	select {
	case <-h.done:
	case <-time.After(60 * time.Second):
		h.t.Error("host does not stop")
	}
	return h.err
}

func (h *hosting) outcomes() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]int{}
	for _, r := range h.reports {
		out[r.Outcome]++
	}
	return out
}

func (h *hosting) wantOutcomes(want map[string]int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("outcomes %v", want), func() bool { return maps.Equal(h.outcomes(), want) })
}

// provider is one in this process.
func provider(name string, generate func(context.Context, *sdk.Request, sdk.Emit) error, models ...sdk.Model) sdk.Provider {
	if models == nil {
		models = []sdk.Model{{Name: "m"}}
	}
	return sdk.Provider{Name: name, Version: "1", Models: models, Generate: generate}
}

// saying emits chunks and returns.
func saying(chunks ...sdk.Chunk) func(context.Context, *sdk.Request, sdk.Emit) error {
	return func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
		for _, c := range chunks {
			if err := emit(c); err != nil {
				return err
			}
		}
		return nil
	}
}

func (w *world) archived() []*asynq.TaskInfo {
	w.t.Helper()
	tasks, err := asynq.NewInspectorFromRedisClient(w.rdb).ListArchivedTasks(job.QueueDefault)
	if err != nil {
		w.t.Fatal(err)
	}
	return tasks
}
