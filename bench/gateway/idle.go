package main

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// untimed is what the clock says nothing of: memory, and what becomes of clients
// that are cut off. They run beside each other.
func (c *contest) untimed() error {
	for _, sd := range c.sides {
		if sd.crowd != nil {
			sd.crowd.close()
		}
	}
	var group errgroup.Group
	var ends [][]ending
	if c.only != "idle" && !c.quick {
		ends = make([][]ending, len(c.sides))
		for i, sd := range c.sides {
			group.Go(func() (err error) {
				ends[i], err = c.cutOffs(sd)
				return err
			})
		}
	}
	err := c.idle()
	if err := group.Wait(); err != nil {
		return fmt.Errorf("cut off: %w", err)
	}
	for i, all := range ends {
		for _, e := range all {
			e.show(&c.sides[i].column)
		}
	}
	return err
}

func idleRow(n int) string { return fmt.Sprintf("memory per idle connection of %d, KB", n) }

func (c *contest) idle() error {
	for _, n := range c.settings.idle {
		for _, sd := range c.sides {
			size, err := c.idleSize(sd, n)
			if err != nil {
				return fmt.Errorf("%s: %d idle connections: %w", sd.name, n, err)
			}
			sd.add(idleRow(n), "%.1f", size/1024, less).aim = 1
		}
	}
	return nil
}

// idleSize is the memory of one of many connections of a process of their own, in
// bytes, some seconds after they have come, and with Node's garbage collected; ours
// is to have thought of that itself.
func (c *contest) idleSize(sd *side, n int) (float64, error) {
	p, err := launch(c.pin, sd.process.command)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	want := plan{port: p.port, n: n, parallel: 32, token: token, stamp: "none"}
	if err := warm(want); err != nil {
		return 0, err
	}
	settle := func() int {
		time.Sleep(c.pause(2 * time.Second))
		if sd.node {
			p.cmd.Process.Signal(syscall.SIGUSR2)
			time.Sleep(c.pause(time.Second))
		}
		return p.rss()
	}
	before := settle()
	crowd, err := connect(want)
	if err != nil {
		return 0, err
	}
	defer crowd.close()
	return float64(settle()-before) / float64(n), nil
}

// warm connects some clients, which are forgotten again.
func warm(c plan) error {
	c.n = min(100, c.n)
	w, err := connect(c)
	if err != nil {
		return err
	}
	w.close()
	time.Sleep(200 * time.Millisecond)
	return nil
}

// watchRSS samples the resident memory until peak is called.
func (p *process) watchRSS() (peak func() int) {
	var stop atomic.Bool
	most := make(chan int)
	go func() {
		m := 0
		for !stop.Load() {
			m = max(m, p.rss())
			time.Sleep(50 * time.Millisecond)
		}
		most <- m
	}()
	return func() int {
		stop.Store(true)
		return <-most
	}
}
