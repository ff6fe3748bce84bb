package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// crowd is a provider that notes who runs in it, in order, and how many at the
// same time. Each holds on until hold is closed or has something.
type crowd struct {
	hold chan struct{}

	mu        sync.Mutex
	now, most int
	order     []string
}

func newCrowd() *crowd { return &crowd{hold: make(chan struct{})} }

func (c *crowd) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	c.order = append(c.order, req.JobID)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
	}()
	if err := emit(sdk.Text("a")); err != nil {
		return err
	}
	select {
	case <-c.hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *crowd) began() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order)
}

// waiting counts the tickets in the rooms of a provider.
func (w *world) waiting(provider string) (n int) {
	for queue := range job.Queues() {
		size, err := w.rdb.ZCard(w.t.Context(), "sluice:{"+queue+"}:room:"+provider).Result()
		if err != nil {
			w.t.Fatal(err)
		}
		n += int(size)
	}
	return n
}

func limited(to map[string]int, seats int) config.Config {
	return tuned(func(c *config.Config) {
		c.Host.Concurrency = seats
		c.Plugins.Config = map[string]config.Plugin{}
		for name, n := range to {
			c.Plugins.Config[name] = config.Plugin{Limits: config.PluginLimits{Concurrency: n}}
		}
	})
}

// A provider that is full holds up only its own jobs: those of another one start
// while hundreds wait for it, and theirs begin in the order in which they came,
// each in its first attempt.
func TestAFullProviderHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	onEachRedis(t, func(t *testing.T, addr string) {
		const flood = 200
		w := newWorld(t, addr)
		full, free := newCrowd(), newCrowd()
		close(free.hold)
		h := w.host(limited(map[string]int{"full": 2}, 10),
			provider("full", full.generate, sdk.Model{Name: "a"}), provider("free", free.generate, sdk.Model{Name: "b"}))
		var as []string
		for range flood {
			as = append(as, w.create(job.Job{Models: []string{"a"}}))
		}
		for range 20 {
			w.follow(w.create(job.Job{Models: []string{"b"}}), 0).complete()
		}
		if n := len(full.began()); n > 2 {
			t.Errorf("%d generations of a provider that is full", n)
		}
		eventually(t, "the others to wait", func() bool { return w.waiting("full") == flood-2 })
		eventually(t, "two tasks to hold a handler, and no more", func() bool {
			n, err := w.rdb.LLen(t.Context(), "asynq:{"+job.QueueDefault+"}:active").Result()
			return err == nil && n == 2 // the ends of others are written a little later
		})
		close(full.hold)
		for _, id := range as {
			l := w.follow(id, 0)
			if l.complete(); l.last().Attempt != 1 {
				t.Errorf("job %s needed attempt %d", id, l.last().Attempt)
			}
		}
		if full.most > 2 {
			t.Errorf("%d generations at the same time", full.most)
		}
		// The handlers that look at tickets run beside each other: a job may overtake
		// as many others, not more.
		for i, id := range full.began() {
			if at := slices.Index(as, id); at > i+2*(10+sorters) || at < i-2*(10+sorters) {
				t.Errorf("job %d began as number %d", at, i)
			}
		}
		h.wantOutcomes(map[string]int{outcomeComplete: flood + 20})
	})
}

// A tenant that floods a host doesn't keep another one waiting until the flood is
// over: they take turns, though neither has a provider of its own.
func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startServer(t).addr)
	c := newCrowd()
	w.host(limited(nil, 4), provider("p", c.generate))
	const flood = 300
	var all []string
	for range flood {
		all = append(all, w.create(job.Job{Tenant: "loud", User: "ada"}))
	}
	eventually(t, "the flood to wait", func() bool { return w.waiting("p") == flood-4 })
	quiet := []string{w.create(job.Job{Tenant: "quiet"}), w.create(job.Job{User: "bob"})}
	eventually(t, "the others to wait", func() bool { return w.waiting("p") == flood-4+len(quiet) })
	close(c.hold)
	for _, id := range append(all, quiet...) {
		w.follow(id, 0).complete()
	}
	for _, id := range quiet {
		if at := slices.Index(c.began(), id); at > 20 {
			t.Errorf("%d jobs of the flood began before the one of another tenant", at)
		}
	}
	if c.most > 4 {
		t.Errorf("%d generations at the same time on a host for 4", c.most)
	}
}

// Jobs that wait for a slot on one host are run by another that has one, and by
// another yet when both are gone.
func TestWaitingJobsAreEveryHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startServer(t).addr)
	stuck, free := newCrowd(), newCrowd()
	cfg := limited(map[string]int{"p": 1}, 10)
	cfg.Host.Grace = 0
	first := w.host(cfg, provider("p", stuck.generate))
	var all []string
	for range 20 {
		all = append(all, w.create(job.Job{}))
	}
	eventually(t, "them to wait", func() bool { return w.waiting("p") == 19 })
	second := w.host(cfg, provider("p", stuck.generate))
	eventually(t, "another to begin", func() bool { return len(stuck.began()) == 2 })
	first.line.cut() // as when it dies
	if err := second.end(); err != nil {
		t.Error(err)
	}
	close(free.hold)
	w.host(cfg, provider("p", free.generate))
	for _, id := range all {
		w.follow(id, 0).complete()
	}
	first.line.mend()
}

// A cancel while a job waits for a slot ends it at once, without one; its ticket
// is in nobody's way.
func TestCancelOfAJobThatWaitsForASlot(t *testing.T) {
	t.Parallel()
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		c := newCrowd()
		w.host(limited(map[string]int{"p": 1}, 10), provider("p", c.generate))
		running := w.create(job.Job{})
		w.waitFor(running, "a chunk", isEvent(job.EventChunk))
		var ids []string
		for range 5 {
			ids = append(ids, w.create(job.Job{}))
		}
		eventually(t, "them to wait", func() bool { return w.waiting("p") == 5 })
		places, err := w.store.Places(t.Context(), ids, 100)
		if err != nil {
			t.Fatal(err)
		}
		var ahead []int
		for _, id := range ids {
			if p := places[id]; p.Queue != job.QueueDefault || p.Total != 5 {
				t.Errorf("place %+v", p)
			}
			ahead = append(ahead, places[id].Ahead)
		}
		if slices.Sort(ahead); !slices.Equal(ahead, []int{0, 1, 2, 3, 4}) {
			t.Errorf("places %v", ahead)
		}
		for _, id := range ids[:4] {
			if st := w.cancel(id); st != job.StateCancelled {
				t.Errorf("cancel found it %s", st)
			}
			if l := w.follow(id, 0); l.names() != "task:cancelled" {
				t.Errorf("log: %s", l)
			}
		}
		close(c.hold)
		w.follow(running, 0).complete()
		w.follow(ids[4], 0).complete()
		if n := len(c.began()); n != 2 {
			t.Errorf("%d generations", n)
		}
	})
}

// High priority comes before what waits already, and low isn't starved.
func TestPrioritiesAmongThoseThatWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startServer(t).addr)
	c := newCrowd()
	w.host(limited(map[string]int{"p": 1}, 10), provider("p", c.generate))
	const each = 150 // enough for chance to even out
	var all []string
	for i := range 3 * each {
		all = append(all, w.create(job.Job{Priority: []string{job.PriorityLow, job.PriorityDefault, job.PriorityHigh}[i/each]}))
	}
	eventually(t, "them to wait", func() bool { return w.waiting("p") == 3*each-1 })
	close(c.hold)
	sum := map[int]int{} // of the places at which those of a priority began
	for _, id := range all {
		w.follow(id, 0).complete()
	}
	for at, id := range c.began() {
		sum[slices.Index(all, id)/each] += at
	}
	if sum[2] >= sum[1] || sum[1] >= sum[0] {
		t.Errorf("high began at %d on average, default at %d, low at %d", sum[2]/each, sum[1]/each, sum[0]/each)
	}
}

// While an old version of a plugin drains, what runs in it counts towards the
// limit of the new one, which the operator may have changed.
func TestTheLimitHoldsAcrossVersions(t *testing.T) {
	root := t.TempDir()
	install(t, root, "p", "p", "limits: {concurrency: 2}\n")
	started := 0
	start := func(_ context.Context, m *manifest.Manifest, _ *egress.Gate) (instance, error) {
		started++
		return instance{provider: provider(m.Name, saying(), sdk.Model(m.Models[0])), stop: func(context.Context) error { return nil }}, nil
	}
	c := openCatalogue(t.Context(), config.Plugins{Dirs: []string{root}}, nil, map[manifest.Runtime]starter{manifest.Wasm: start}, discard)
	c.rooms.seats.set(100)
	old, ok := c.routes.take("p-model")
	if !ok {
		t.Fatal("p-model is not served")
	}
	for range 2 {
		if c.rooms.enter(job.QueueDefault, "p", old.plugin.slots) == nil {
			// Until somebody has looked, the room may hold those who came before.
			if name, ok := c.rooms.Next(job.QueueDefault); !ok || name != "p" {
				t.Fatal("a slot is free, and nobody is let in")
			}
			c.rooms.Took(job.QueueDefault, "p", "", nil)
			if name, ok := c.rooms.Next(job.QueueHigh); ok {
				c.rooms.Took(job.QueueHigh, name, "", nil)
			}
			if c.rooms.enter(job.QueueDefault, "p", old.plugin.slots) == nil {
				t.Fatal("no slot of two is free")
			}
		}
	}
	install(t, root, "p", "p", "limits: {concurrency: 3}\n")
	if !c.look(t.Context(), true) || started != 2 {
		t.Fatalf("%d versions were started", started)
	}
	now, ok := c.routes.take("p-model")
	if !ok || now.plugin == old.plugin {
		t.Fatal("the new version isn't served")
	}
	for _, queue := range []string{job.QueueHigh, job.QueueDefault} {
		if name, ok := c.rooms.Next(queue); ok {
			c.rooms.Took(queue, name, "", nil)
		}
	}
	if c.rooms.enter(job.QueueDefault, "p", now.plugin.slots) == nil {
		t.Error("two of three are taken, and there is no third")
	}
	if c.rooms.enter(job.QueueDefault, "p", now.plugin.slots) != nil {
		t.Error("more run in both versions than one may")
	}
	old.plugin.done()
	now.plugin.done()
	if err := c.close(t.Context()); err != nil {
		t.Error(err)
	}
}

// tries takes slots until there are no more, and counts them.
func tries(s *slots) (n int) {
	for s.try() {
		n++
	}
	return n
}

// A limit that becomes lower is kept once enough of what runs has ended.
func TestALimitMayChange(t *testing.T) {
	r := newRooms(100)
	old := r.of("p", 2)
	if n := tries(old); n != 2 {
		t.Fatalf("the limit is %d, not 2", n)
	}
	now := r.of("p", 3)
	if now != old {
		t.Fatal("the new version has slots of its own")
	}
	if !now.try() || now.try() {
		t.Error("with two in the old version, one more may run in the new one of three")
	}
	r.of("p", 1)
	for range 3 {
		if now.try() {
			t.Error("more than the lower limit runs")
		}
		now.give()
	}
	if !now.try() || now.try() {
		t.Error("the lower limit is not 1")
	}
}

// Slots are handed to those who wait in turn, and to nobody who has given up.
func TestSlots(t *testing.T) {
	s := newSlots(1)
	if err := s.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 10)
	var waiters sync.WaitGroup
	queued := func(n int) {
		eventually(t, fmt.Sprintf("%d to wait", n), func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.waiting) == n })
	}
	gone, leave := context.WithCancelCause(t.Context())
	bored := errors.New("bored")
	for i := range 3 {
		ctx := t.Context()
		if i == 1 {
			ctx = gone
		}
		waiters.Go(func() {
			if err := s.take(ctx); err == nil {
				got <- i
			} else if !errors.Is(err, bored) {
				t.Error(err)
			}
		})
		queued(i + 1)
	}
	leave(bored)
	queued(2)
	if s.try() {
		t.Error("somebody who came later was served first")
	}
	s.give()
	if i := <-got; i != 0 {
		t.Errorf("%d was first", i)
	}
	s.give()
	if i := <-got; i != 2 {
		t.Errorf("%d was second", i)
	}
	waiters.Wait()
	s.set(3)
	if n := tries(s); n != 2 {
		t.Errorf("%d are free of a higher limit, not 2", n)
	}
}

// A ring that comes while a room is found empty is not forgotten.
func TestARingBesideAnEmptyRoom(t *testing.T) {
	r := newRooms(2)
	r.of("p", 1)
	r.serve([]string{"p"})
	look := func() bool {
		name, ok := r.Next(job.QueueHigh)
		return ok && name == "p"
	}
	if !look() {
		t.Fatal("a provider that has come into service is not looked for")
	}
	r.Rung(job.QueueHigh, "p")
	r.Took(job.QueueHigh, "p", "", nil)
	if !look() {
		t.Fatal("a ring was forgotten")
	}
	r.Took(job.QueueHigh, "p", "", errors.New("no answer"))
	if !look() {
		t.Fatal("a look that failed is not repeated")
	}
	r.Took(job.QueueHigh, "p", "", nil)
	if look() {
		t.Fatal("an empty room is looked at again")
	}
	r.Rung(job.QueueHigh, "somebody else")
	if look() {
		t.Fatal("the room of another provider is looked at")
	}
	r.Rung(job.QueueHigh, "p")
	if !look() {
		t.Fatal("a ring was not heard")
	}
	r.Took(job.QueueHigh, "p", "task", nil)
	if r.enter(job.QueueHigh, "q", newSlots(1)) == nil || r.enter(job.QueueDefault, "p", r.of("p", 1)) != nil {
		t.Error("the place that was set aside is not taken, or all are")
	}
	if s := r.claimed("task"); s == nil || r.claimed("task") != nil {
		t.Error("the place that was set aside is there twice, or not at all")
	} else {
		s.give()
	}
	if time.Duration(r.of("p", 1).used) != 0 {
		t.Error("a slot was lost")
	}
}
