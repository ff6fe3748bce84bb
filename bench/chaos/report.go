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
	lost, doubled, reordered, differ, endless, digests, ends, failed, refused, uncancelled, forgotten, early, crashed, left, tickets *count

	streams, frames, reconnects, accepted int
	outcomes                              map[string]int // of streams
	faults                                map[string]int
	failovers, disturbed                  []time.Duration
	waits, cancels                        []time.Duration
	stalls                                int // of the machine: see pulse
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
	r.differ = counter("frames that differ from the log")
	r.endless = counter("jobs without an end")
	r.digests = counter("digests that differ")
	r.ends = counter("terminal frames that are not one")
	r.failed = counter("jobs that failed without a reason of theirs")
	r.refused = counter("starts refused while nothing was away")
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

// mostFailover is what 99 of 100 undisturbed failovers may take.
const mostFailover = 3 * time.Second

func (r *report) stalled() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stalls++
}

// misses names every figure that isn't as it must be.
func (r *report) misses() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.zero {
		if c.n > 0 {
			names = append(names, fmt.Sprintf("%d %s", c.n, c.name))
		}
	}
	if at := quantile(r.failovers, 0.99); at > mostFailover {
		names = append(names, fmt.Sprintf("failover after kill -9: p99 %s, at most %s", at, mostFailover))
	}
	return names
}

func (r *report) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(w, "\nseed %d, %s\n", r.seed, time.Since(r.began).Round(time.Second))
	fmt.Fprintf(w, "%d jobs accepted; %d streams seen to their end, %d frames, %d connections that were lost and taken up again\n",
		r.accepted, r.streams, r.frames, r.reconnects)
	fmt.Fprintf(w, "streams by their end: %s\n", tally(r.outcomes))
	fmt.Fprintf(w, "faults: %s\n", tally(r.faults))
	fmt.Fprintf(w, "      is  must be\n")
	for _, c := range r.zero {
		fmt.Fprintf(w, "%8d  0  %s\n", c.n, c.name)
	}
	fmt.Fprintf(w, "failover after kill -9 of a host, nothing else broken: %s; p99 must be at most %s\n", quantiles(r.failovers), mostFailover)
	fmt.Fprintf(w, "failover after kill -9 of a host, amid other faults:   %s\n", quantiles(r.disturbed))
	fmt.Fprintf(w, "cancel sent to upstream closed, faults included:       %s; each must within %s\n", quantiles(r.cancels), upstreamTimeout)
	fmt.Fprintf(w, "late after a wait that was told, faults included:      %s\n", quantiles(r.waits))
	fmt.Fprintf(w, "stalls of this machine, which count as other faults:   %d\n", r.stalls)
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
	return fmt.Sprintf("p50 %s, p99 %s, max %s of %d", quantile(d, 0.5), quantile(d, 0.99), quantile(d, 1), len(d))
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	i := int(q*float64(len(d))+0.9999) - 1
	return d[min(max(i, 0), len(d)-1)].Round(time.Millisecond)
}
