package host

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// stuck is a provider that says something and then waits to be stopped. It
// tells how it was.
type stuck struct {
	say     []sdk.Chunk
	last    sdk.Chunk // said on the way out
	waiting chan string
	stopped chan error
}

func newStuck(say ...sdk.Chunk) *stuck {
	return &stuck{say: say, waiting: make(chan string, 100), stopped: make(chan error, 100)}
}

func (s *stuck) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	if err := saying(s.say...)(ctx, req, emit); err != nil {
		return err
	}
	s.waiting <- req.JobID
	<-ctx.Done()
	s.stopped <- context.Cause(ctx)
	if s.last != nil {
		_ = emit(s.last)
	}
	return ctx.Err()
}

// cancel cancels a job and returns the state that was found.
func (w *world) cancel(id string) job.State {
	w.t.Helper()
	state, err := w.store.Cancel(w.t.Context(), id, "ada", false)
	if err != nil {
		w.t.Fatal(err)
	}
	return state
}

// receipt is the end of a job that must have been cancelled.
func (l log) receipt() job.Cancelled {
	l.t.Helper()
	if l.last().Event != job.EventCancelled {
		l.t.Fatalf("job was not cancelled: %s: %s", l, l.last().Raw)
	}
	c := decode[job.Cancelled](l.t, l.last())
	if text := l.text(); c.Text != text {
		l.t.Errorf("receipt says %q, the chunks %q", c.Text, text)
	}
	return c
}

func TestCancelOfAQueuedJob(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		id := w.create(job.Job{})
		if state := w.cancel(id); state != job.StateCancelled {
			t.Errorf("cancel found it %s", state)
		}
		w.follow(id, 0).receipt()
		var runs atomic.Int64
		w.host(tuned(nil), provider("fake", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
			runs.Add(1)
			return emit(sdk.Text("x"))
		}))
		other := w.create(job.Job{}) // behind it in the queue
		w.follow(other, 0).complete()
		if n := runs.Load(); n != 1 {
			t.Errorf("the provider ran %d times, want once, for the other job", n)
		}
	})
}

func TestCancelOfAJobThatWaitsForItsRetry(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(nil), provider("fake", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
		return errors.Join(emit(sdk.Text("some")), &sdk.Error{Kind: sdk.Limited, Wait: time.Hour})
	}))
	id := w.create(job.Job{})
	eventually(t, "the job waits", func() bool {
		st, err := w.store.Status(t.Context(), id)
		return err == nil && st.State == job.StateWaiting
	})
	w.cancel(id)
	if c := w.follow(id, 0).receipt(); c.Text != "some" {
		t.Errorf("receipt is %+v", c)
	}
}

func TestCancelOfARunningJob(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  []sdk.Chunk
		text string
	}{
		{"before the first chunk", nil, ""},
		{"while it thinks", []sdk.Chunk{sdk.Reasoning{Text: "hm"}}, ""},
		{"while it streams", []sdk.Chunk{sdk.Text("one "), sdk.Text("two")}, "one two"},
		{"after its finish", []sdk.Chunk{sdk.Text("all"), sdk.Finish{Reason: sdk.FinishStop}}, "all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onEachRedis(t, func(t *testing.T, addr string) {
				w := newWorld(t, addr)
				s := newStuck(tt.say...)
				s.last = sdk.Usage{Input: 5, Output: 2}
				h := w.host(tuned(nil), provider("fake", s.generate))
				id := w.create(job.Job{})
				<-s.waiting
				if tt.text != "" {
					var b strings.Builder
					w.waitFor(id, "its text", func(f job.Frame) bool {
						if f.Event == job.EventChunk {
							b.WriteString(decode[job.Chunk](t, f).Chunk)
						}
						return b.String() == tt.text
					})
				}
				if state := w.cancel(id); state != job.StateRunning {
					t.Errorf("cancel found it %s", state)
				}
				if cause := <-s.stopped; !errors.Is(cause, job.ErrCancelled) {
					t.Errorf("generation ended with %v", cause)
				}
				c := w.follow(id, 0).receipt()
				if c.Text != tt.text || c.Tokens != 2 || c.Usage == nil || c.Usage.Input != 5 {
					t.Errorf("receipt is %+v with usage %+v", c, c.Usage)
				}
				h.wantOutcomes(map[string]int{"cancelled": 1})
				if state := w.cancel(id); state != job.StateCancelled {
					t.Errorf("a second cancel found it %s", state)
				}
			})
		})
	}
}

func TestCancelOfAProviderThatDoesNotListen(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	running, release := make(chan bool), make(chan bool)
	h := w.host(tuned(nil), provider("deaf", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
		running <- true
		<-release
		return emit(sdk.Text("too late"))
	}))
	id := w.create(job.Job{})
	<-running
	w.cancel(id)
	l := w.follow(id, 0)
	if h.logged("plugin goes on") > 0 {
		t.Error("the receipt waited until the plugin was given up")
	}
	close(release)
	if c := l.receipt(); c.Text != "" {
		t.Errorf("receipt is %+v", c)
	}
	h.wantOutcomes(map[string]int{"cancelled": 1})
}

func TestCancelAfterTheEnd(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(nil), provider("fake", saying(sdk.Text("done"))))
	id := w.create(job.Job{})
	w.follow(id, 0).complete()
	if state := w.cancel(id); state != job.StateComplete {
		t.Errorf("cancel found it %s", state)
	}
	if frames, _, err := w.store.Read(t.Context(), id, 0, 0); err != nil || frames[len(frames)-1].Event != job.EventComplete {
		t.Errorf("a late cancel changed the log: %v", err)
	}
}

// A cancel whose publication the host did not hear is found when it is back.
func TestCancelThatTheHostDidNotHear(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	s := newStuck(sdk.Text("x"))
	h := w.host(tuned(nil), provider("fake", s.generate))
	id := w.create(job.Job{})
	<-s.waiting
	w.waitFor(id, "a chunk", isEvent(job.EventChunk))
	h.line.cut()
	w.cancel(id)
	h.line.mend()
	w.follow(id, 0).receipt()
}

// Whenever a cancel comes: exactly one terminal frame, a cancel that was
// accepted while the job ran is honoured, and the generation is stopped.
func TestCancelRacesWithTheEnd(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	var active atomic.Int64
	w.host(tuned(func(c *config.Config) { c.Host.Coalesce = time.Millisecond }),
		provider("fake", func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
			active.Add(1)
			defer active.Add(-1)
			for range 5 {
				if err := emit(sdk.Text("word ")); err != nil {
					return err
				}
				sleep(ctx, 500*time.Microsecond)
			}
			return nil
		}))
	var wg sync.WaitGroup
	var completed, cancelled atomic.Int64
	limit := make(chan bool, 16)
	for range 300 {
		limit <- true
		wg.Go(func() {
			defer func() { <-limit }()
			id := w.create(job.Job{})
			sleep(t.Context(), rand.N(12*time.Millisecond))
			state, err := w.store.Cancel(t.Context(), id, "ada", false)
			if err != nil {
				t.Error(err)
				return
			}
			l := w.follow(id, 0)
			switch l.last().Event {
			case job.EventComplete:
				completed.Add(1)
				if state != job.StateComplete {
					t.Errorf("job was %s when it was cancelled, and completed", state)
				}
			case job.EventCancelled:
				cancelled.Add(1)
				if c := decode[job.Cancelled](t, l.last()); c.Text != l.text() {
					t.Errorf("receipt says %q, the chunks %q", c.Text, l.text())
				}
			default:
				t.Errorf("job ended with %s", l.last().Raw)
			}
		})
	}
	wg.Wait()
	t.Logf("%d completed, %d cancelled", completed.Load(), cancelled.Load())
	eventually(t, "no generation goes on", func() bool { return active.Load() == 0 })
}
