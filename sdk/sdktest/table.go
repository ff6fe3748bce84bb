package sdktest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// step is one check of the table.
type step struct {
	name string
	run  func(ctx context.Context, t Reporter)
}

// Run runs the table against p.
func Run(t *testing.T, p sdk.Provider, o Options) {
	before := runtime.NumGoroutine()
	for _, s := range steps(p, o) {
		t.Run(s.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s.run(ctx, t)
		})
	}
	if !o.KeepsGoroutines && !t.Failed() {
		goroutinesEnd(t, before)
	}
}

// Result is what came of one check.
type Result struct {
	Name     string
	Problems []string // none: it passed
	Took     time.Duration
}

// Check is [Run] outside of a test. It stops early when ctx ends.
func Check(ctx context.Context, p sdk.Provider, o Options) []Result {
	before := runtime.NumGoroutine()
	all := steps(p, o)
	if !o.KeepsGoroutines {
		all = append(all, step{"no goroutine is left", func(_ context.Context, t Reporter) { goroutinesEnd(t, before) }})
	}
	var results []Result
	for _, s := range all {
		if ctx.Err() != nil {
			break
		}
		results = append(results, s.check(ctx))
	}
	return results
}

func (s step) check(ctx context.Context) (r Result) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var c collector
	began := time.Now()
	defer func() {
		if v := recover(); v != nil {
			c.Errorf("panic: %v", v)
		}
		r = Result{Name: s.name, Problems: c.problems, Took: time.Since(began)}
	}()
	s.run(ctx, &c)
	return r
}

// collector keeps what is reported. Safe for concurrent use.
type collector struct {
	mu       sync.Mutex
	problems []string
}

func (c *collector) Helper() {}

func (c *collector) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func goroutinesEnd(t Reporter, before int) {
	t.Helper()
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

// steps lists the checks that o makes possible.
func steps(p sdk.Provider, o Options) []step {
	plain := o.Plain
	if plain.Name == "" {
		plain.Name = "plain"
	}
	cases := append([]Case{plain}, o.Cases...)
	var all []step
	add := func(name string, run func(ctx context.Context, t Reporter)) { all = append(all, step{name, run}) }
	for _, c := range cases {
		add(c.Name, func(ctx context.Context, t Reporter) { c.Check(t, c.run(ctx, p)) })
	}
	if !o.Varies {
		add("same answer twice", func(ctx context.Context, t Reporter) {
			first := plain.run(ctx, p)
			again := plain
			again.Chunks, again.Text = first.Chunks, first.Text()
			again.Check(t, plain.run(ctx, p))
		})
	}
	add("all at once", func(ctx context.Context, t Reporter) { allAtOnce(ctx, t, p, cases) })
	add("slow receiver", func(ctx context.Context, t Reporter) { slowReceiver(ctx, t, p, plain, o.Varies) })
	add("receiver fails", func(ctx context.Context, t Reporter) { receiverFails(ctx, t, p, plain.Request) })
	add("cancelled before", func(ctx context.Context, t Reporter) { cancelledBefore(ctx, t, p, plain.Request) })
	if o.Long != nil {
		add("cancelled at first chunk", func(ctx context.Context, t Reporter) { cancelledAt(ctx, t, p, o, 1) })
		add("cancelled midway", func(ctx context.Context, t Reporter) { cancelledAt(ctx, t, p, o, 20) })
		add("receiver fails midway", func(ctx context.Context, t Reporter) { receiverFails(ctx, t, p, o.Long) })
		add("cancelled while the receiver blocks", func(ctx context.Context, t Reporter) { cancelledBlocked(ctx, t, p, o) })
		add("limit reached", func(ctx context.Context, t Reporter) { limitReached(ctx, t, p, o.Long) })
	}
	if o.Silent != nil {
		add("cancelled in silence", func(ctx context.Context, t Reporter) { cancelledSilent(ctx, t, p, o) })
	}
	add("optional abilities", func(ctx context.Context, t Reporter) { abilities(ctx, t, p, plain.Request) })
	return all
}
