package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// way is a server with a feed, and the feed's commands for an event and for a
// broadcast.
type way struct {
	name            string
	emit, broadcast string
	command         []string
}

// transports measures the transports alone, in fewer and shorter rounds than the
// gateways have.
func transports(s settings) ([]*column, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ways := []way{
		{"sluice, library", "E", "B", []string{self, "serve"}},
		{"sluice, encoded once", "R", "X", []string{self, "serve"}},
	}
	if s.node != "" {
		node := way{"node", "E", "B", []string{"node", "--expose-gc", filepath.Join(s.node, "server.mjs")}}
		ways = append([]way{node}, ways...)
	}
	s.rounds, s.seconds = min(s.rounds, 2), s.seconds/3
	c := &contest{settings: s, calm: 100 * time.Millisecond}
	defer c.stop()
	for _, w := range ways {
		if err := c.transport(w); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	for _, phase := range []func() error{
		c.arrivals, c.streams, c.broadcasts,
		func() error { return c.storms(nil) },
	} {
		if err := phase(); err != nil {
			return nil, err
		}
	}
	c.idled()
	return c.columns(), nil
}

// transport starts a side, and looks at the memory of its first clients.
func (c *contest) transport(w way) error {
	p, err := launch(c.pin, w.command)
	if err != nil {
		return err
	}
	sd := &side{process: p, flush: func() error { return p.out.Flush() },
		plan: plan{port: p.port, n: c.conns, parallel: 32, stamp: `"t":`}}
	sd.name, sd.node = w.name, w.name == "node"
	sd.one = func(n int, at time.Duration) {
		fmt.Fprintf(p.out, "%s %d %s\n", w.emit, n%c.conns, payload(n, at))
	}
	sd.all = func(n int, at time.Duration) { fmt.Fprintf(p.out, "%s %s\n", w.broadcast, payload(n, at)) }
	c.sides = append(c.sides, sd)
	if err := p.openFeed(); err != nil {
		return err
	}
	if err := warm(sd.plan); err != nil {
		return err
	}
	c.rest()
	before := p.collectedRSS()
	if sd.crowd, err = connect(sd.plan); err != nil {
		return err
	}
	sd.add("memory per idle connection, KB", "%.1f", float64(p.collectedRSS()-before)/float64(c.conns)/1024, less)
	return nil
}

// payload is a chunk as the host publishes it.
func payload(seq int, at time.Duration) string {
	return fmt.Sprintf(`{"jobId":"job-0123456789","userId":"user-1","attempt":1,"seq":%d,"chunk":" twenty characters..","index":%d,"total":null,"t":%d}`, seq, seq, int64(at))
}
