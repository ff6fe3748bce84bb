// Command gateway measures the gateway's transport beside Node's socket.io, in
// one run: connections per second, memory per idle connection, events per
// core-second with their latencies, broadcasts and a reconnect storm. Ours is
// measured twice, with the Socket.IO library encoding each event, and with
// events that were encoded once.
//
// Node needs its packages: `npm ci` in bench/gateway/node.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// settings of a run.
type settings struct {
	conns     int
	rates     []int
	seconds   float64
	broadcast int // per second
	pin       bool
	node      string // folder of the reference server, "" to leave it out
}

// result is what one way of sending showed.
type result struct {
	name    string
	connect struct{ perSecond, cpuMicros float64 }
	idle    float64 // bytes per connection
	loads   []load
	storm   struct {
		took time.Duration
		cpu  float64 // µs per connection
	}
}

// load is one phase of sending.
type load struct {
	name                      string
	sent, received, reordered int
	cpuMicros                 float64 // of the server per delivered event
	p50, p99                  time.Duration
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench gateway:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	s := settings{pin: canPin()}
	flags.IntVar(&s.conns, "conns", 1000, "connections")
	rates := flags.String("rates", "5000,10000,20000,50000", "events per second, one phase each")
	flags.Float64Var(&s.seconds, "seconds", 3, "length of a phase")
	flags.IntVar(&s.broadcast, "broadcasts", 20, "broadcasts per second")
	flags.StringVar(&s.node, "node", "bench/gateway/node", "folder of Node's server, empty to leave it out")
	flags.BoolVar(&s.pin, "pin", s.pin, "server on CPU 0, clients on CPU 1")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, r := range strings.Split(*rates, ",") {
		n, err := strconv.Atoi(r)
		if err != nil {
			return fmt.Errorf("rate %q: %w", r, err)
		}
		s.rates = append(s.rates, n)
	}
	if s.pin && os.Getenv(pinnedEnv) == "" {
		return pinned(args, out)
	}
	return bench(s, out)
}

// pinnedEnv tells the command that it runs on CPU 1 already.
const pinnedEnv = "SLUICE_BENCH_PINNED"

// pinned runs this command again, on CPU 1.
func pinned(args []string, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command("taskset", append([]string{"-c", "1", self}, args...)...)
	cmd.Env = append(os.Environ(), pinnedEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return cmd.Run()
}

func bench(s settings, out io.Writer) error {
	var results []result
	if s.node != "" {
		if _, err := os.Stat(filepath.Join(s.node, "node_modules")); err != nil {
			fmt.Fprintf(out, "Node is left out: run npm ci in %s\n", s.node)
		} else {
			node, err := measure(s, []way{{"node", "E", "B"}}, "node", "--expose-gc", filepath.Join(s.node, "server.mjs"))
			if err != nil {
				return fmt.Errorf("node: %w", err)
			}
			results = append(results, node...)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ours, err := measure(s, []way{{"sluice, library", "E", "B"}, {"sluice, encoded once", "R", "X"}}, self, "serve")
	if err != nil {
		return fmt.Errorf("sluice: %w", err)
	}
	print(out, s, append(results, ours...))
	return nil
}

// way is a name and the feed's commands for it.
type way struct{ name, emit, broadcast string }

// measure runs all phases against one server, the loads once for each way.
func measure(s settings, ways []way, name string, args ...string) ([]result, error) {
	p, err := launch(s.pin, name, args...)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	warm, err := connect(p.port, min(100, s.conns), 32)
	if err != nil {
		return nil, err
	}
	warm.close()
	if err := p.await(0); err != nil {
		return nil, err
	}
	var base result
	before, cpu, begin := p.rss(), p.cpu(), time.Now()
	c, err := connect(p.port, s.conns, 32)
	if err != nil {
		return nil, err
	}
	base.connect.perSecond = float64(s.conns) / time.Since(begin).Seconds()
	base.connect.cpuMicros = micros(p.cpu()-cpu) / float64(s.conns)
	base.idle = float64(p.rss()-before) / float64(s.conns)
	results := make([]result, len(ways))
	for i, w := range ways {
		r := base
		r.name = w.name
		for _, rate := range s.rates {
			l, err := p.load(s, c, w.emit, rate)
			if err != nil {
				return nil, err
			}
			l.name = fmt.Sprintf("%d/s", rate)
			r.loads = append(r.loads, l)
		}
		l, err := p.load(s, c, w.broadcast, s.broadcast)
		if err != nil {
			return nil, err
		}
		l.name = fmt.Sprintf("%d broadcasts/s", s.broadcast)
		r.loads = append(r.loads, l)
		results[i] = r
	}
	c.close()
	if err := p.await(0); err != nil {
		return nil, err
	}
	cpu, begin = p.cpu(), time.Now()
	if c, err = connect(p.port, s.conns, s.conns); err != nil {
		return nil, fmt.Errorf("storm: %w", err)
	}
	defer c.close()
	for i := range results {
		results[i].storm.took = time.Since(begin)
		results[i].storm.cpu = micros(p.cpu()-cpu) / float64(s.conns)
	}
	return results, nil
}

// await waits until the server has n connections.
func (p *process) await(n int) error {
	for range 1000 {
		answer, err := p.ask("N")
		if err != nil {
			return err
		}
		if answer == strconv.Itoa(n) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("the server doesn't come to %d connections", n)
}

// load sends rate commands a second, whatever the server does with them, and
// waits for what comes of it.
func (p *process) load(s settings, c *crowd, command string, rate int) (load, error) {
	total := int(float64(rate) * s.seconds)
	broadcast := command == "B" || command == "X"
	want := total
	if broadcast {
		want *= s.conns
	}
	c.collect()
	cpu := p.cpu()
	begin := time.Since(c.start)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < total; {
		<-tick.C
		due := min(int((time.Since(c.start)-begin).Seconds()*float64(rate)), total)
		for ; sent < due; sent++ {
			at := begin + time.Duration(float64(sent)/float64(rate)*1e9) // when it should have been sent
			if broadcast {
				fmt.Fprintf(p.out, "%s %s\n", command, payload(sent, at))
			} else {
				fmt.Fprintf(p.out, "%s %d %s\n", command, sent%s.conns, payload(sent, at))
			}
		}
		if err := p.out.Flush(); err != nil {
			return load{}, err
		}
	}
	for last, still := -1, 0; still < 20; { // until all is there, or nothing comes any more
		got := c.received()
		if got >= want {
			break
		}
		if still++; got != last {
			last, still = got, 0
		}
		time.Sleep(50 * time.Millisecond)
	}
	l := load{sent: want}
	used := p.cpu() - cpu
	latencies, reordered := c.collect()
	l.received, l.reordered = len(latencies), reordered
	if len(latencies) > 0 {
		slices.Sort(latencies)
		l.cpuMicros = micros(used) / float64(len(latencies))
		l.p50, l.p99 = latencies[len(latencies)/2], latencies[len(latencies)*99/100]
	}
	return l, nil
}

// payload is a chunk as the host publishes it.
func payload(seq int, at time.Duration) string {
	return fmt.Sprintf(`{"jobId":"job-0123456789","userId":"user-1","attempt":1,"seq":%d,"chunk":" twenty characters..","index":%d,"total":null,"t":%d}`, seq, seq, int64(at))
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// print shows a row per measurement and a column per way; a ratio says how many
// times better than the first column the last is.
func print(out io.Writer, s settings, results []result) {
	fmt.Fprintf(out, "%d connections, phases of %g s, server and clients on CPUs of their own: %v\n\n", s.conns, s.seconds, s.pin)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, show func(r result) (string, float64), moreIsBetter bool) {
		fmt.Fprint(w, name, "\t")
		var first, last float64
		for i, r := range results {
			text, v := show(r)
			if i == 0 {
				first = v
			}
			last = v
			fmt.Fprint(w, text, "\t")
		}
		if len(results) > 1 && results[0].name == "node" && first > 0 && last > 0 {
			ratio := first / last
			if moreIsBetter {
				ratio = last / first
			}
			fmt.Fprintf(w, "%.1f ×", ratio)
		}
		fmt.Fprint(w, "\t\n")
	}
	fmt.Fprint(w, "\t")
	for _, r := range results {
		fmt.Fprint(w, r.name, "\t")
	}
	fmt.Fprint(w, "better\t\n")
	number := func(format string, v float64) (string, float64) { return fmt.Sprintf(format, v), v }
	row("connections/s", func(r result) (string, float64) { return number("%.0f", r.connect.perSecond) }, true)
	row("CPU per connection, µs", func(r result) (string, float64) { return number("%.0f", r.connect.cpuMicros) }, false)
	row("memory per idle connection, KB", func(r result) (string, float64) { return number("%.1f", r.idle/1024) }, false)
	for i, l := range results[0].loads {
		row(l.name+": events per core-second", func(r result) (string, float64) {
			if r.loads[i].cpuMicros == 0 {
				return "0", 0
			}
			return number("%.0f", 1e6/r.loads[i].cpuMicros)
		}, true)
		row(l.name+": p50, ms", func(r result) (string, float64) { return number("%.2f", micros(r.loads[i].p50)/1e3) }, false)
		row(l.name+": p99, ms", func(r result) (string, float64) { return number("%.1f", micros(r.loads[i].p99)/1e3) }, false)
		row(l.name+": lost, reordered", func(r result) (string, float64) {
			return fmt.Sprintf("%d, %d", r.loads[i].sent-r.loads[i].received, r.loads[i].reordered), 0
		}, false)
	}
	row("storm: all back after, ms", func(r result) (string, float64) { return number("%.0f", micros(r.storm.took)/1e3) }, false)
	row("storm: CPU per connection, µs", func(r result) (string, float64) { return number("%.0f", r.storm.cpu) }, false)
	w.Flush()
}
