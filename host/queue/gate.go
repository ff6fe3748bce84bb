package queue

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A line is one asynq queue as this host sees it.
type line struct {
	name  string
	rings atomic.Uint64 // grows with every ring
	doors atomic.Uint64 // grows when a task may be let in from a room

	// Only asynq's processor goroutine touches these.
	empty   bool      // nothing to take until a ring or again
	shut    bool      // and that because Admit said no, not because Redis did
	emptyAt uint64    // rings as it was before we looked
	again   time.Time // when to look without a ring
	// doors as it was before Rooms let nobody in
	shutDoors uint64

	// held over every claim and every search for lost ones: a claim whose reply
	// is on its way must not be taken for a lost one.
	mu     sync.Mutex
	doubts []time.Time // when to search; guarded by claims.mu
}

func (l *line) quiet(now time.Time) bool {
	return l.empty && l.rings.Load() == l.emptyAt && now.Before(l.again) && l.doors.Load() == l.shutDoors
}

// A gate stands between asynq's processor and Redis: it decides which dequeue is
// worth a round trip, and lets the processor sleep when none is.
//
// take and what it calls belong to the processor goroutine; wake and stop may be
// called from anywhere.
type gate struct {
	lines    map[string]*line
	order    []*line
	claims   *claims
	admit    func(queue string, have int) int
	rooms    Rooms // or nil
	fallback time.Duration
	rdb      redis.UniversalClient
	health   *health
	n        *counters

	ahead   *ahead        // or nil
	handed  bool          // a task was handed to asynq since its handlers were let run
	fails   int           // claims that failed in a row
	woken   chan struct{} // capacity 1
	stopped chan struct{}
	once    sync.Once
}

// wake marks a queue ("" = all) as worth a look.
func (g *gate) wake(queue string) {
	if queue == "" {
		for _, l := range g.order {
			l.rings.Add(1)
		}
	} else if l := g.lines[queue]; l != nil {
		l.rings.Add(1)
	} else {
		return
	}
	g.n.wakes.Add(1)
	poke(g.woken)
}

// stop ends taking: from now on asynq gets no task, and once a claim that is on
// its way has come back, none reaches Redis.
func (g *gate) stop() { g.once.Do(func() { close(g.stopped) }) }

// take answers one dequeue of asynq. keys and args are asynq's own.
func (g *gate) take(ctx context.Context, l *line, keys []string, args []any) *redis.Cmd {
	if g.isStopped() {
		time.Sleep(time.Millisecond) // asynq is told to stop right now: don't spin until it hears
		return nothing(ctx)
	}
	if msg, ok := g.claims.next(l.name); ok {
		g.handed = true
		g.reach(ctx, l, keys, args)
		return task(ctx, msg)
	}
	if g.claims.holding() {
		return nothing(ctx) // those taken from another queue come first
	}
	if g.ahead != nil {
		if err := g.collect(); err != nil {
			return failed(ctx, err)
		}
		return g.take(ctx, l, keys, args)
	}
	if g.handed {
		g.handed = false
		runtime.Gosched() // the handlers of those go first
	}
	if msg, ok := g.enter(ctx, l, args); ok {
		return task(ctx, msg)
	}
	if l.quiet(time.Now()) {
		g.n.local.Add(1)
		return g.idle(ctx, l, args)
	}
	rings := l.rings.Load() // before looking: a ring from here on counts
	n := g.claims.free()
	if g.admit != nil {
		if n = min(n, g.admit(l.name, g.claims.have(l.name))); n <= 0 {
			l.empty, l.shut, l.emptyAt, l.again = true, true, rings, time.Now().Add(g.fallback)
			return g.idle(ctx, l, args)
		}
	}
	got, err := g.claims.take(ctx, l, keys, args, n)
	g.learn(l, rings, n, got, err)
	switch {
	case err != nil:
		return failed(ctx, err)
	case got == 0:
		return g.idle(ctx, l, args)
	case g.isStopped():
		return nothing(ctx) // stopped while the claim was on its way: it goes back
	}
	msg, _ := g.claims.next(l.name)
	g.handed = true
	g.reach(ctx, l, keys, args)
	return task(ctx, msg)
}

// learn notes what a claim of up to n tasks says about a line. rings is what the
// line's were before.
func (g *gate) learn(l *line, rings uint64, n, got int, err error) {
	g.health.note(err)
	if err != nil {
		// asynq would ask again at once, and for ever.
		g.n.errors.Add(1)
		g.fails = min(g.fails+1, 5)
		g.pause(5 * time.Millisecond << g.fails)
		return
	}
	g.fails = 0
	if l.empty = got < n; l.empty { // that was all there is
		l.shut, l.emptyAt, l.again = false, rings, g.later()
	}
}

// idle answers for a queue that has nothing, when there is a reason to ask again.
// The rooms of this queue come first then: asynq asks by weight.
func (g *gate) idle(ctx context.Context, l *line, args []any) *redis.Cmd {
	g.wait()
	if !g.isStopped() {
		if msg, ok := g.enter(ctx, l, args); ok {
			return task(ctx, msg)
		}
	}
	return nothing(ctx)
}

func (g *gate) isStopped() bool {
	select {
	case <-g.stopped:
		return true
	default:
		return false
	}
}

// later is when to look without a ring.
func (g *gate) later() time.Time {
	return time.Now().Add(g.fallback/2 + rand.N(g.fallback))
}

// wait blocks while all queues are quiet.
func (g *gate) wait() {
	now, first := time.Now(), time.Time{}
	for _, l := range g.order {
		if !l.quiet(now) {
			return
		}
		if first.IsZero() || l.again.Before(first) {
			first = l.again
		}
	}
	g.n.waits.Add(1)
	t := time.NewTimer(time.Until(first))
	defer t.Stop()
	select {
	case <-g.woken:
	case <-t.C:
		g.n.fallbacks.Add(1)
		g.look()
	case <-g.stopped:
	}
}

// look asks Redis, in one cheap command, whether any of the empty queues got
// something without a ring. (On Cluster it is one command for each of them.)
func (g *gate) look() {
	var (
		lines []*line
		rings []uint64
		keys  []string
	)
	for _, l := range g.order {
		if l.shut {
			l.empty = false // ask Admit again
			continue
		}
		lines, rings, keys = append(lines, l), append(rings, l.rings.Load()), append(keys, keyOf(l.name, "pending"))
	}
	if len(lines) == 0 {
		return
	}
	again := g.later()
	n, err := exist(g.rdb, keys)
	g.health.note(err)
	if err != nil {
		g.n.errors.Add(1)
		again = time.Now().Add(g.fallback / 8)
	}
	for i, l := range lines {
		l.again = again
		switch {
		case err != nil:
		case n > 0:
			l.empty = false
		case l.rings.Load() == rings[i]:
			l.emptyAt = rings[i]
		}
	}
}

// exist counts those of the keys that there are.
func exist(rdb redis.UniversalClient, keys []string) (int64, error) {
	ctx := context.Background()
	if !isCluster(rdb) {
		return rdb.Exists(ctx, keys...).Result()
	}
	pipe, sum := rdb.Pipeline(), int64(0)
	for _, key := range keys {
		pipe.Exists(ctx, key)
	}
	all, err := pipe.Exec(ctx)
	for _, cmd := range all {
		sum += cmd.(*redis.IntCmd).Val()
	}
	return sum, err
}

// pause sleeps, unless stopped.
func (g *gate) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.stopped:
	}
}

// task is the reply of a dequeue that found one.
func task(ctx context.Context, msg string) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(msg)
	return cmd
}

// failed is the reply of a dequeue that could not be made.
func failed(ctx context.Context, err error) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(err)
	return cmd
}

// nothing is the reply of a dequeue that found no task.
func nothing(ctx context.Context) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(redis.Nil)
	return cmd
}
