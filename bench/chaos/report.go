package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// count counts one thing that must not happen, and keeps the first cases.
type count struct {
	r    *report
	name string
	n    int
}

func (c *count) add(format string, args ...any) { c.addN(1, format, args...) }

func (c *count) addN(n int, format string, args ...any) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.n += n
	if len(c.r.cases) < 200 {
		c.r.cases = append(c.r.cases, time.Since(c.r.began).Round(time.Millisecond).String()+" "+c.name+": "+fmt.Sprintf(format, args...))
	}
}

// report is what a run has seen. Safe for concurrent use.
type report struct {
	began time.Time
	seed  uint64
	dir   string // with the logs, if it is kept

	mu    sync.Mutex
	zero  []*count
	cases []string

	// What must stay zero.
	lost, doubled, reordered, endless, digests, ends, uncancelled, forgotten, early, crashed, left, tickets *count

	streams, frames, reconnects, accepted int
	outcomes                              map[string]int // of streams
	faults                                map[string]int
	failovers, disturbed                  []time.Duration
	waits, cancels                        []time.Duration
}

func newReport(seed uint64) *report {
	r := &report{began: time.Now(), seed: seed, outcomes: map[string]int{}, faults: map[string]int{}}
	counter := func(name string) *count {
		c := &count{r: r, name: name}
		r.zero = append(r.zero, c)
		return c
	}
	r.lost = counter("frames lost")
	r.doubled = counter("frames doubled")
	r.reordered = counter("frames reordered")
	r.endless = counter("jobs without an end")
	r.digests = counter("digests that differ")
	r.ends = counter("terminal frames that are not one")
	r.uncancelled = counter("cancels that did not reach the upstream")
	r.forgotten = counter("accepted jobs that are gone")
	r.early = counter("retries before their time")
	r.crashed = counter("processes that ended by themselves")
	r.left = counter("processes left behind or not stopping")
	r.tickets = counter("tickets left in the queue")
	return r
}

func (r *report) waited(late time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = append(r.waits, late)
}

func (r *report) cancelled(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancels = append(r.cancels, took)
}

func (r *report) failover(took time.Duration, disturbed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if disturbed {
		r.disturbed = append(r.disturbed, took)
	} else {
		r.failovers = append(r.failovers, took)
	}
}

func (r *report) injected(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[name]++
}

// stream enters one stream that has come to its end.
func (r *report) stream(outcome string, frames, reconnects int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams++
	r.outcomes[outcome]++
	r.frames += frames
	r.reconnects += reconnects
}

func (r *report) accept() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted++
}

// broken tells whether a figure that must be zero isn't.
func (r *report) broken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.zero, func(c *count) bool { return c.n > 0 })
}

func (r *report) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(w, "\nseed %d, %s\n", r.seed, time.Since(r.began).Round(time.Second))
	fmt.Fprintf(w, "%d jobs accepted; %d streams seen to their end, %d frames, %d connections that were lost and taken up again\n",
		r.accepted, r.streams, r.frames, r.reconnects)
	fmt.Fprintf(w, "streams by their end: %s\n", tally(r.outcomes))
	fmt.Fprintf(w, "faults: %s\n", tally(r.faults))
	for _, c := range r.zero {
		fmt.Fprintf(w, "%8d  %s\n", c.n, c.name)
	}
	fmt.Fprintf(w, "failover after kill -9 of a host, nothing else broken:   %s\n", quantiles(r.failovers))
	fmt.Fprintf(w, "failover after kill -9 of a host, amid other faults:     %s\n", quantiles(r.disturbed))
	fmt.Fprintf(w, "cancel sent to upstream closed, faults included:         %s\n", quantiles(r.cancels))
	fmt.Fprintf(w, "late after a wait that was told, faults included:        %s\n", quantiles(r.waits))
	for _, line := range r.cases {
		fmt.Fprintln(w, "  ", line)
	}
	if r.dir != "" {
		fmt.Fprintln(w, "logs are in", r.dir)
	}
}

func tally(m map[string]int) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s %d", name, m[name])
	}
	return text
}

func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration {
		i := int(q*float64(len(d))+0.9999) - 1
		return d[min(max(i, 0), len(d)-1)].Round(time.Millisecond)
	}
	return fmt.Sprintf("p50 %s, p99 %s, max %s of %d", at(0.5), at(0.99), d[len(d)-1].Round(time.Millisecond), len(d))
}
