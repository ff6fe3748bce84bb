package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// A host that has stopped its work by itself gives the jobs back, without
// spending one of their attempts.
func TestSelfFencedJobIsHandedOver(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		s := newStuck(sdk.Text("x"))
		cfg := tuned(func(c *config.Config) { c.Host.MaxAttempts = 1 }).Host
		report := make(chan Report, 1)
		k := &worker{
			id: "alone", config: cfg, store: w.store, enqueue: w.tickets.Enqueue, running: &running{}, log: discard,
			rooms: newRooms(10), canWait: func() bool { return false },
			routes: newRoutes([]*plugin{newPlugin("embedded", provider("fake", s.generate), nil, manifest.Defaults())}, discard),
			budget: semaphore.NewWeighted(int64(cfg.Buffer.Total)), report: func(r Report) { report <- r },
		}
		id := w.create(job.Job{})
		done := make(chan error, 1)
		go func() { done <- k.process(t.Context(), job.Ticket{Job: id, Attempt: 1}) }()
		<-s.waiting
		k.running.stop(errSelfFence)
		if err := <-done; err != nil {
			t.Errorf("process returned %v", err)
		}
		if r := <-report; r.Outcome != outcomeHandedOver {
			t.Errorf("report is %+v", r)
		}
		st, err := w.store.Status(t.Context(), id)
		if err != nil || st.State != job.StateQueued || st.Attempt != 1 {
			t.Errorf("job is %+v, error %v", st, err)
		}
		w.host(tuned(nil), provider("fake", saying(sdk.Text("whole"))))
		if c := w.follow(id, 0).complete(); c.Text != "whole" || c.Attempt != 2 {
			t.Errorf("complete is %+v", c)
		}
	})
}

// A host that must stop while Redis is away leaves in bounded time, and what it
// ran is taken over.
func TestStopWithoutRedis(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	w := newWorld(t, s.addr)
	stuck := newStuck(sdk.Text("half"))
	h := w.host(tuned(func(c *config.Config) { c.Host.Grace = 0 }), provider("fake", stuck.generate))
	id := w.create(job.Job{})
	<-stuck.waiting
	w.waitFor(id, "a chunk", isEvent(job.EventChunk))
	s.kill()
	if err := h.end(); err != nil {
		t.Logf("host ended with %v", err)
	}
	h.wantOutcomes(map[string]int{"left": 1})
	s.start()
	w.host(tuned(nil), provider("fake", saying(sdk.Text("whole"))))
	if c := w.follow(id, 0).complete(); c.Text != "whole" || c.Attempt != 2 {
		t.Errorf("complete is %+v", c)
	}
}

// stream answers jobs that count to 100.
func countTo100(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
	for i := range 100 {
		if err := emit(sdk.Text(fmt.Sprint(i, " "))); err != nil {
			return err
		}
		sleep(ctx, 2*time.Millisecond)
	}
	return nil
}

func TestConnectionsAreKilledAllTheTime(t *testing.T) {
	killConnections(t, newWorld(t, startServer(t).addr))
}

// killConnections kills the connections of a host again and again, which costs nothing.
func killConnections(t *testing.T, w *world) {
	t.Helper()
	h := w.host(tuned(nil), provider("fake", countTo100))
	ids := make([]string, 30)
	for i := range ids {
		ids[i] = w.create(job.Job{})
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for sleep(ctx, 30*time.Millisecond) {
			h.line.cut()
			h.line.mend()
		}
	})
	for _, id := range ids {
		l := w.follow(id, 0)
		if n := countedText(t, l.complete().Text); n != 100 {
			t.Errorf("%d words", n)
		}
		if l.last().Attempt != 1 {
			t.Errorf("took attempt %d", l.last().Attempt)
		}
	}
	stop()
	wg.Wait()
	h.wantOutcomes(map[string]int{"complete": 30})
}

func TestRedisIsOutOfMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startServer(t).addr)
	c := &counter{every: 2 * time.Millisecond}
	h := w.host(tuned(nil), provider("fake", c.generate))
	id := w.create(job.Job{})
	w.waitFor(id, "a chunk", isEvent(job.EventChunk))
	limit := func(bytes string) {
		t.Helper()
		if err := w.rdb.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	before := c.said.Load()
	eventually(t, "the plugin goes on meanwhile", func() bool { return c.said.Load() > before+300 })
	limit("0")
	c.finish.Store(true)
	if n := countedText(t, w.follow(id, 0).complete().Text); int64(n) != c.said.Load() {
		t.Errorf("%d words arrived of %d", n, c.said.Load())
	}
	h.wantOutcomes(map[string]int{"complete": 1})
}

// Two tickets of one job in one host at the same time: the second is dropped,
// the first is not disturbed.
func TestTicketIsDeliveredTwiceAtOnce(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	running, release := make(chan bool, 10), make(chan bool)
	h := w.host(tuned(nil), provider("fake", func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
		running <- true
		select {
		case <-release:
			return emit(sdk.Text("x"))
		case <-ctx.Done():
			return errors.Join(ctx.Err(), context.Cause(ctx))
		}
	}))
	id := w.create(job.Job{})
	<-running
	if err := w.tickets.Enqueue(t.Context(), job.Ticket{Job: id, Attempt: 1}, job.PriorityHigh, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second is dropped", func() bool { return h.logged("ticket is of no use any more") == 1 })
	close(release)
	if c := w.follow(id, 0).complete(); c.Attempt != 1 {
		t.Errorf("complete is %+v", c)
	}
	h.wantOutcomes(map[string]int{"complete": 1})
}

func TestProvidersConcurrencyIsKept(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	var mu sync.Mutex
	now, most := 0, 0
	w.host(tuned(func(c *config.Config) {
		c.Plugins.Config = map[string]config.Plugin{"fake": {Limits: config.PluginLimits{Concurrency: 2}}}
	}), provider("fake", func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			now--
		}()
		sleep(ctx, 10*time.Millisecond)
		return emit(sdk.Text("x"))
	}))
	ids := make([]string, 12)
	for i := range ids {
		ids[i] = w.create(job.Job{})
	}
	for _, id := range ids {
		w.follow(id, 0).complete()
	}
	if most != 2 {
		t.Errorf("%d generations at the same time, want 2", most)
	}
}
