package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// counter is a provider that counts aloud until told to finish.
type counter struct {
	said   atomic.Int64
	finish atomic.Bool
	every  time.Duration
}

func (c *counter) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	n := c.said.Load()
	if req.Prefix != "" {
		n = int64(strings.Count(req.Prefix, " "))
	}
	for ; !c.finish.Load(); n++ {
		if err := emit(sdk.Text(fmt.Sprint(n, " "))); err != nil {
			return err
		}
		c.said.Add(1)
		sleep(ctx, c.every)
	}
	return nil
}

// counted checks that a text counts from 0 without a number lost or doubled,
// and returns how far.
func countedText(t *testing.T, text string) int {
	t.Helper()
	words := strings.Fields(text)
	for i, w := range words {
		if w != fmt.Sprint(i) {
			t.Fatalf("word %d is %q: lost or doubled", i, w)
		}
	}
	return len(words)
}

func TestAnswerSurvivesAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	w := newWorld(t, s.addr)
	c := &counter{every: 5 * time.Millisecond}
	h := w.host(tuned(nil), provider("fake", c.generate))
	id := w.create(job.Job{})
	w.waitFor(id, "chunks", func(f job.Frame) bool { return f.Event == job.EventChunk && f.Seq > 5 })
	s.kill()
	before := c.said.Load()
	// The answer goes on for some seconds without Redis.
	eventually(t, "a long answer in the outage", func() bool { return c.said.Load() > before+800 })
	s.start()
	eventually(t, "more after the outage", func() bool { return c.said.Load() > before+900 })
	c.finish.Store(true)
	l := w.follow(id, 0)
	if n := countedText(t, l.complete().Text); int64(n) != c.said.Load() {
		t.Errorf("%d words arrived of %d", n, c.said.Load())
	}
	if l.last().Attempt != 1 {
		t.Errorf("it took attempt %d", l.last().Attempt)
	}
	h.wantOutcomes(map[string]int{"complete": 1})
	eventually(t, "the ticket is settled", func() bool {
		n, err := w.rdb.Exists(t.Context(), "asynq:{"+job.QueueDefault+"}:t:"+(job.Ticket{Job: id, Attempt: 1}).TaskID()).Result()
		return err == nil && n == 0
	})
}

func TestPluginIsHeldBackInAnOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	w := newWorld(t, s.addr)
	c := &counter{every: time.Microsecond}
	w.host(tuned(func(cfg *config.Config) {
		cfg.Host.Buffer.Job = 4 * config.KiB
		// Being held back is not being silent.
		cfg.Plugins.Config = map[string]config.Plugin{"fake": {Limits: config.PluginLimits{Idle: 300 * time.Millisecond}}}
	}), provider("fake", c.generate))
	id := w.create(job.Job{})
	w.waitFor(id, "a chunk", isEvent(job.EventChunk))
	s.kill()
	last, same := int64(-1), 0
	eventually(t, "the plugin stands still", func() bool {
		n := c.said.Load()
		if n != last {
			last, same = n, 0
		}
		same++
		return same > 100
	})
	s.start()
	eventually(t, "the plugin goes on", func() bool { return c.said.Load() > last })
	c.finish.Store(true)
	countedText(t, w.follow(id, 0).complete().Text)
}

func TestRedisThatLostItsDataIsGivenTheAnswerAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	w := newWorld(t, s.addr)
	c := &counter{every: 5 * time.Millisecond}
	w.host(tuned(nil), provider("fake", c.generate))
	id := w.create(job.Job{})
	w.waitFor(id, "chunks", func(f job.Frame) bool { return f.Event == job.EventChunk && f.Seq > 5 })
	s.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "appendonlydir")); err != nil {
		t.Fatal(err)
	}
	s.start()
	before := c.said.Load()
	eventually(t, "the answer goes on", func() bool { return c.said.Load() > before+100 })
	c.finish.Store(true)
	if n := countedText(t, w.follow(id, 0).complete().Text); int64(n) != c.said.Load() {
		t.Errorf("%d words arrived of %d", n, c.said.Load())
	}
}

func TestFencedAttemptStopsAtOnce(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		c := &counter{every: time.Millisecond}
		stopped := make(chan error, 10)
		h := w.host(tuned(func(cfg *config.Config) { cfg.Host.ID = "one" }),
			provider("fake", func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
				if req.Attempt > 1 {
					return emit(sdk.Text("second"))
				}
				err := c.generate(ctx, req, emit)
				stopped <- err
				return err
			}))
		id := w.create(job.Job{})
		w.waitFor(id, "a chunk", isEvent(job.EventChunk))
		// Somebody takes the host for dead.
		err := job.NewHosts(w.store, discard, job.HostsOptions{}).Reclaim(t.Context(), "one", func(ctx context.Context, ticket job.Ticket, priority string, _ time.Time) error {
			return w.tickets.Enqueue(ctx, ticket, priority, 0)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-stopped; !errors.Is(err, job.ErrFenced) {
			t.Errorf("the old generation ended with %v", err)
		}
		l := w.follow(id, 0)
		if done := l.complete(); done.Text != "second" || done.Attempt != 2 {
			t.Errorf("complete is %+v", done)
		}
		h.wantOutcomes(map[string]int{"fenced": 1, "complete": 1})
	})
}

func TestJobsOfALostHostByTheirPolicy(t *testing.T) {
	t.Parallel()
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		c := &counter{every: time.Millisecond}
		gone := make(chan error, 10)
		first := w.host(tuned(nil), provider("fake", func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			err := (&counter{every: time.Millisecond}).generate(ctx, req, emit)
			gone <- err
			return err
		}, sdk.Model{Name: "m", Continue: true}, sdk.Model{Name: "n"}))
		ids := map[string]string{}
		for _, policy := range []string{job.PolicyRestart, job.PolicyContinue, job.PolicyFail, "continue without the ability"} {
			j := job.Job{Policy: policy}
			if policy == "continue without the ability" {
				j.Policy, j.Models = job.PolicyContinue, []string{"n"}
			}
			ids[policy] = w.create(j)
			w.waitFor(ids[policy], "chunks", func(f job.Frame) bool { return f.Event == job.EventChunk && f.Seq > 4 })
		}
		second := w.host(tuned(nil), provider("fake", c.generate, sdk.Model{Name: "m", Continue: true}, sdk.Model{Name: "n"}))
		first.line.cut()
		for policy, id := range ids {
			if policy == job.PolicyFail {
				w.waitFor(id, "its end", job.Frame.Terminal) // it would go on when its host is back
				continue
			}
			w.waitFor(id, "the second attempt", func(f job.Frame) bool { return f.Attempt == 2 && f.Event == job.EventChunk })
		}
		first.line.mend()
		c.finish.Store(true)
		resets := map[string]bool{}
		for policy, id := range ids {
			l := w.follow(id, 0)
			if policy == job.PolicyFail {
				if e := decode[job.Error](t, l.last()); e.Code != codeHostLost || e.Fault != "host" {
					t.Errorf("%s: ended with %s", policy, l.last().Raw)
				}
				continue
			}
			text := l.complete().Text
			if policy == job.PolicyContinue {
				countedText(t, text)
			}
			for _, f := range l.frames {
				if f.Event == job.EventStart && f.Attempt == 2 {
					resets[policy] = decode[job.Start](t, f).Reset
				}
			}
		}
		want := map[string]bool{job.PolicyRestart: true, job.PolicyContinue: false, "continue without the ability": true}
		if !maps.Equal(resets, want) {
			t.Errorf("resets %v, want %v", resets, want)
		}
		for range ids {
			if err := <-gone; !errors.Is(err, job.ErrFenced) {
				t.Errorf("a generation of the lost host ended with %v", err)
			}
		}
		first.wantOutcomes(map[string]int{"fenced": 4})
		second.wantOutcomes(map[string]int{"complete": 3})
	})
}
