package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/host/native/box"
)

// table prints what came of the attacks.
type table struct {
	w     *tabwriter.Writer
	worst struct{ late, wait, cycle time.Duration } // guests'
	busy  time.Duration                             // of the cycles beside busy Go code, the shorter
	out   io.Writer
}

func newTable(o options) *table {
	fmt.Fprintf(o.out, "%s %s/%s, %d CPUs. %d neighbours, a chunk every %v each; attacks on every CPU at once until their deadline of %v.\nLoad average of the machine when it began: %s.\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), o.neighbours, o.period, o.deadline, load())
	level := box.Find()
	fmt.Fprintf(o.out, "Native plugins run in a box of %s, which guarantees %s.\n\n", level, strings.Join(level.Held(), ", "))
	t := &table{w: tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0), out: o.out}
	fmt.Fprintln(t.w, "attack\tcontained\tlate\tGC waited\tits cycle\tneighbours p50\tp99\truns\thow it ended")
	return t
}

func (t *table) calm(a *attack, o outcome) {
	name := "(none)"
	if a != nil {
		name = a.name
		if t.busy == 0 || o.collector.cycle < t.busy {
			t.busy = o.collector.cycle
		}
	}
	fmt.Fprintf(t.w, "%s\t\t\t%s\t%s\t%s\t%s\t\t\n", name, ms(o.collector.stop), ms(o.collector.cycle), ms(o.delays.quantile(50)), ms(o.delays.quantile(99)))
}

func (t *table) attack(a *attack, o outcome) {
	contained, late := "yes", "-"
	if o.escape != nil {
		contained, o.ended = "NO", strings.ReplaceAll(o.escape.Error(), "\n", "; ")
	}
	if o.escape == nil && o.unable {
		contained = "not here"
	}
	if o.late >= 0 {
		late = ms(o.late)
	}
	if a.native == nil {
		t.worst.late, t.worst.wait, t.worst.cycle = max(t.worst.late, o.late), max(t.worst.wait, o.collector.stop), max(t.worst.cycle, o.collector.cycle)
	}
	fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", a.name, contained, late, ms(o.collector.stop), ms(o.collector.cycle),
		ms(o.delays.quantile(50)), ms(o.delays.quantile(99)), o.runs, o.ended)
}

func (t *table) refused(name string, err error) {
	contained, how := "yes", "it was loaded"
	if err == nil {
		contained = "NO"
	} else {
		how = err.Error()[strings.LastIndex(err.Error(), ": ")+2:]
	}
	fmt.Fprintf(t.w, "%s\t%s\t\t\t\t\t\t\t%s\n", name, contained, how)
}

func (t *table) flush() {
	t.w.Flush()
	more := max(t.worst.cycle-t.busy, 0)
	fmt.Fprintf(t.out, "\nA guest was stopped at most %s after its deadline (target 100 ms: %s).\n", ms(t.worst.late), verdict(t.worst.late))
	fmt.Fprintf(t.out, "The collector waited at most %s for a guest to stop (target 100 ms: %s).\n", ms(t.worst.wait), verdict(t.worst.wait))
	fmt.Fprintf(t.out, "Its longest cycle beside guests took %s, beside busy Go code %s: %s more (target 100 ms: %s).\n\n", ms(t.worst.cycle), ms(t.busy), ms(more), verdict(more))
	fmt.Fprintln(t.out, "late: from the deadline to the return of the call. GC waited: the longest that the runtime waited to stop the")
	fmt.Fprintln(t.out, "world. its cycle: the longest runtime.GC(), with its marking, for which it has to share the processors with")
	fmt.Fprintln(t.out, "the attackers. neighbours: from when a chunk was due to when the host had it.")
}

// target is how long a guest may go on, and the collector wait for one.
const target = 100 * time.Millisecond

func verdict(d time.Duration) string {
	if d > target {
		return "MISSED"
	}
	return "met"
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// load is the load average of the last minute, to tell a slow machine from a
// slow host.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}
