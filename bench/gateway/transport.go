package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// transports measures the transports alone.
func transports(s settings) ([]column, error) {
	var columns []column
	if s.node != "" {
		node, err := measure(s, []way{{"node", "E", "B"}}, "node", "--expose-gc", filepath.Join(s.node, "server.mjs"))
		if err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
		columns = node
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ours, err := measure(s, []way{{"sluice, library", "E", "B"}, {"sluice, encoded once", "R", "X"}}, self, "serve")
	if err != nil {
		return nil, fmt.Errorf("sluice: %w", err)
	}
	return append(columns, ours...), nil
}

// way is a name and the feed's commands for it.
type way struct{ name, emit, broadcast string }

// measure runs all phases against one server, the loads once for each way.
func measure(s settings, ways []way, name string, args ...string) ([]column, error) {
	p, err := launch(s.pin, name, args...)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := p.openFeed(); err != nil {
		return nil, err
	}
	warm, err := connect(plan{port: p.port, n: min(100, s.conns), parallel: 32, stamp: `"t":`})
	if err != nil {
		return nil, err
	}
	warm.close()
	if err := p.await(0); err != nil {
		return nil, err
	}
	columns := make([]column, len(ways))
	before, cpu, begin := p.collectedRSS(), p.cpu(), time.Now()
	c, err := connect(plan{port: p.port, n: s.conns, parallel: 32, stamp: `"t":`})
	if err != nil {
		return nil, err
	}
	took, used := time.Since(begin), p.cpu()-cpu
	idle := float64(p.collectedRSS()-before) / float64(s.conns)
	for i, w := range ways {
		col := &columns[i]
		col.name = w.name
		connected(col, s.conns, took, used)
		col.add("memory per idle connection, KB", "%.1f", idle/1024, less)
		for _, rate := range s.rates {
			l, err := p.load(s, c, w.emit, rate)
			if err != nil {
				return nil, err
			}
			l.show(col, fmt.Sprintf("%d/s", rate))
		}
		l, err := p.load(s, c, w.broadcast, s.broadcast)
		if err != nil {
			return nil, err
		}
		l.show(col, fmt.Sprintf("%d broadcasts/s", s.broadcast))
	}
	c.close()
	if err := p.await(0); err != nil {
		return nil, err
	}
	cpu, begin = p.cpu(), time.Now()
	if c, err = connect(plan{port: p.port, n: s.conns, parallel: s.conns, stamp: `"t":`}); err != nil {
		return nil, fmt.Errorf("storm: %w", err)
	}
	defer c.close()
	took, used = time.Since(begin), p.cpu()-cpu
	for i := range columns {
		stormed(&columns[i], s.conns, took, used)
	}
	return columns, nil
}

func connected(col *column, conns int, took, cpu time.Duration) {
	col.add("connections/s", "%.0f", float64(conns)/took.Seconds(), more)
	col.add("CPU per connection, µs", "%.0f", micros(cpu)/float64(conns), less)
}

func stormed(col *column, conns int, took, cpu time.Duration) {
	col.add("storm: all back after, ms", "%.0f", millis(took), less)
	col.add("storm: CPU per connection, µs", "%.0f", micros(cpu)/float64(conns), less)
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

// load sends rate commands a second to the server's feed.
func (p *process) load(s settings, c *crowd, command string, rate int) (load, error) {
	broadcast := command == "B" || command == "X"
	want := int(float64(rate) * s.seconds)
	if broadcast {
		want *= s.conns
	}
	return c.load(p, rate, s.seconds, want, func(sent int, at time.Duration) {
		if broadcast {
			fmt.Fprintf(p.out, "%s %s\n", command, payload(sent, at))
		} else {
			fmt.Fprintf(p.out, "%s %d %s\n", command, sent%s.conns, payload(sent, at))
		}
	}, p.out.Flush)
}

// payload is a chunk as the host publishes it.
func payload(seq int, at time.Duration) string {
	return fmt.Sprintf(`{"jobId":"job-0123456789","userId":"user-1","attempt":1,"seq":%d,"chunk":" twenty characters..","index":%d,"total":null,"t":%d}`, seq, seq, int64(at))
}

// load is what came of one phase of sending.
type load struct {
	sent, received, reordered int
	cpu                       time.Duration // of the server
	p50, p99                  time.Duration
}

// load calls send at a rate, whatever the server does with it, flush after each
// millisecond's worth, and waits for want events to come of it.
func (c *crowd) load(p *process, rate int, seconds float64, want int, send func(n int, at time.Duration), flush func() error) (load, error) {
	total := int(float64(rate) * seconds)
	c.collect()
	cpu := p.cpu()
	begin := time.Since(c.start)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < total; {
		<-tick.C
		now := time.Since(c.start)
		due := min(int((now-begin).Seconds()*float64(rate)), total)
		for ; sent < due; sent++ {
			send(sent, now)
		}
		if err := flush(); err != nil {
			return load{}, err
		}
	}
	c.settle(want)
	l := load{sent: want, cpu: p.cpu() - cpu}
	var latencies []time.Duration
	latencies, l.received, l.reordered = c.collect()
	l.p50, l.p99 = quantiles(latencies)
	return l, nil
}

// settle waits until n events have come, or none come any more.
func (c *crowd) settle(n int) {
	for last, still := -1, 0; still < 40; {
		got := c.received()
		if got >= n {
			return
		}
		if still++; got != last {
			last, still = got, 0
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func quantiles(latencies []time.Duration) (p50, p99 time.Duration) {
	if len(latencies) == 0 {
		return 0, 0
	}
	slices.Sort(latencies)
	return latencies[len(latencies)/2], latencies[len(latencies)*99/100]
}

func (l load) show(col *column, name string) {
	perSecond := 0.0
	if l.cpu > 0 {
		perSecond = float64(l.received) / l.cpu.Seconds()
	}
	col.add(name+": events per core-second", "%.0f", perSecond, more)
	col.add(name+": p50, ms", "%.2f", millis(l.p50), less)
	col.add(name+": p99, ms", "%.1f", millis(l.p99), less)
	col.note(name+": lost, reordered", "%d, %d", l.sent-l.received, l.reordered)
}
