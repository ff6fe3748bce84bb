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
	worst struct{ late, cycle, stop time.Duration }
	out   io.Writer
}

func newTable(o options) *table {
	fmt.Fprintf(o.out, "%s %s/%s, %d CPUs. %d neighbours, a chunk every %v each; attacks on every CPU at once until their deadline of %v.\nLoad average of the machine when it began: %s.\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), o.neighbours, o.period, o.deadline, load())
	level := box.Find()
	fmt.Fprintf(o.out, "Native plugins run in a box of %s, which guarantees %s.\n\n", level, strings.Join(level.Held(), ", "))
	t := &table{w: tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0), out: o.out}
	fmt.Fprintln(t.w, "attack\tcontained\tlate\tGC cycle\tstop\tneighbours p50\tp99\truns\thow it ended")
	return t
}

func (t *table) calm(a *attack, o outcome) {
	name := "(none)"
	if a != nil {
		name = a.name
	}
	fmt.Fprintf(t.w, "%s\t\t\t%s\t%s\t%s\t%s\t\t\n", name, ms(o.collector.cycle), ms(o.collector.stop), ms(o.delays.quantile(50)), ms(o.delays.quantile(99)))
}

func (t *table) attack(name string, o outcome) {
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
	t.worst.late, t.worst.cycle, t.worst.stop = max(t.worst.late, o.late), max(t.worst.cycle, o.collector.cycle), max(t.worst.stop, o.collector.stop)
	fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", name, contained, late, ms(o.collector.cycle), ms(o.collector.stop),
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
	fmt.Fprintf(t.out, "\nworst: late %s (target 100 ms), GC cycle %s and stop %s (target 100 ms)\n", ms(t.worst.late), ms(t.worst.cycle), ms(t.worst.stop))
	fmt.Fprintln(t.out, "late: from the deadline to the return of the call. GC cycle: the longest runtime.GC(); stop: the longest the")
	fmt.Fprintln(t.out, "runtime waited to stop the world. neighbours: from when a chunk was due to when the host had it.")
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
