package sdktest

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// step is one check of the table.
type step struct {
	name string
	run  func(ctx context.Context, t Reporter)
	skip string // why it isn't run
}

// extra is a check that a dialect adds.
type extra struct {
	name string
	run  func(ctx context.Context, t Reporter, p sdk.Provider)
}

// Run runs the table against p.
func Run(t *testing.T, p sdk.Provider, o Options) {
	before := goroutines()
	for _, s := range steps(p, o) {
		t.Run(s.name, func(t *testing.T) {
			if s.skip != "" {
				t.Skip(s.skip)
			}
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
	Skipped  string   // why it does not apply
	Took     time.Duration
}

// Check is [Run] outside of a test. It stops early when ctx ends.
func Check(ctx context.Context, p sdk.Provider, o Options) []Result {
	before := goroutines()
	all := steps(p, o)
	if !o.KeepsGoroutines {
		all = append(all, step{name: "no goroutine is left", run: func(_ context.Context, t Reporter) { goroutinesEnd(t, before) }})
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
	if s.skip != "" {
		return Result{Name: s.name, Skipped: s.skip}
	}
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

func goroutines() int { return runtime.NumGoroutine() }

func goroutinesEnd(t Reporter, before int) {
	t.Helper()
	eventually(t, "all goroutines have ended", func() bool { return goroutines() <= before })
}

// steps lists the checks that o makes possible.
func steps(p sdk.Provider, o Options) []step {
	o.idle = open(o)
	plain := o.Plain
	if plain.Name == "" {
		plain.Name = "plain"
	}
	cases := append([]Case{plain}, o.Cases...)
	var all []step
	add := func(name string, run func(ctx context.Context, t Reporter)) {
		all = append(all, step{name: name, run: run})
	}
	for _, c := range cases {
		add(c.Name, func(ctx context.Context, t Reporter) { c.Check(t, c.run(ctx, p)) })
	}
	apply := slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return o.without(c.Name) != "" })
	if !o.Varies {
		add("same answer twice", func(ctx context.Context, t Reporter) {
			first := plain.run(ctx, p)
			again := plain
			again.Chunks, again.Text = first.Chunks, first.Text()
			again.Check(t, plain.run(ctx, p))
		})
	}
	add("all at once", func(ctx context.Context, t Reporter) { allAtOnce(ctx, t, p, apply) })
	add("slow receiver", func(ctx context.Context, t Reporter) { slowReceiver(ctx, t, p, plain, o.Varies) })
	add("receiver fails", func(ctx context.Context, t Reporter) { receiverFails(ctx, t, p, o, plain.Request) })
	add("cancelled before", func(ctx context.Context, t Reporter) { cancelledBefore(ctx, t, p, plain.Request) })
	if o.Long != nil {
		add("cancelled at first chunk", func(ctx context.Context, t Reporter) { cancelledAt(ctx, t, p, o, 1) })
		add("cancelled midway", func(ctx context.Context, t Reporter) { cancelledAt(ctx, t, p, o, 20) })
		add("receiver fails midway", func(ctx context.Context, t Reporter) { receiverFails(ctx, t, p, o, o.Long) })
		add("cancelled while the receiver blocks", func(ctx context.Context, t Reporter) { cancelledBlocked(ctx, t, p, o) })
		add("limit reached", func(ctx context.Context, t Reporter) { limitReached(ctx, t, p, o) })
	}
	if o.Silent != nil {
		add("cancelled in silence", func(ctx context.Context, t Reporter) { cancelledSilent(ctx, t, p, o) })
	}
	for _, e := range o.extra {
		add(e.name, func(ctx context.Context, t Reporter) { e.run(ctx, t, p) })
	}
	add("optional abilities", func(ctx context.Context, t Reporter) { abilities(ctx, t, p, o, plain.Request) })
	for i := range all {
		all[i].skip = o.without(all[i].name)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Without)) {
		if !slices.ContainsFunc(all, func(s step) bool { return matches(name, s.name) }) {
			all = append(all, step{name: name, run: func(_ context.Context, t Reporter) { t.Errorf("Without has %q, and there is no such check", name) }})
		}
	}
	return all
}

func matches(pattern, name string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, head)
	}
	return pattern == name
}

// without is why a check does not apply, "" if it does.
func (o Options) without(name string) string {
	for _, pattern := range slices.Sorted(maps.Keys(o.Without)) {
		if matches(pattern, name) {
			return o.Without[pattern]
		}
	}
	return ""
}
