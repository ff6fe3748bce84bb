package main

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"
)

// plan says how a crowd connects.
type plan struct {
	port     string
	n        int
	parallel int                // connecting at a time
	stamp    string             // what stands before an event's time of sending
	token    func(i int) string // nil: none
	narrow   int                // so many of the first have a small receive buffer
	patient  bool               // who is told to come back later does
}

// crowd is a number of WebSocket clients that count what they get.
type crowd struct {
	plan
	clients []*client
	start   time.Time // stamps are nanoseconds since then
	skip    int       // so many of the first are not counted at the moment
	closed  atomic.Bool
}

// connect opens the connections and waits until all have joined the main namespace.
func connect(c plan) (*crowd, error) {
	all := &crowd{plan: c, clients: make([]*client, c.n), start: time.Now()}
	errs := make(chan error, c.n)
	slots := make(chan struct{}, c.parallel)
	for i := range c.n {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			cl := &client{crowd: all, i: i, last: -1, acked: make(chan struct{}, 1)}
			r, err := cl.join()
			if err == nil {
				all.clients[i] = cl
				go cl.run(r)
			}
			errs <- err
		}()
	}
	var first error
	for range c.n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		all.close()
	}
	return all, first
}

func (c *crowd) close() {
	c.closed.Store(true)
	for _, cl := range c.clients {
		if cl != nil {
			cl.mu.Lock()
			cl.nc.Close()
			cl.mu.Unlock()
		}
	}
}

// watch has each client follow a job, which is after its given event, and waits
// until the gateway has said yes to all. digest has them hash the text.
func (c *crowd) watch(job func(i int) (id string, last int), digest bool) error {
	for i, cl := range c.clients {
		id, last := job(i)
		select {
		case <-cl.acked: // of a resumption nobody waited for
		default:
		}
		cl.mu.Lock()
		cl.job, cl.last, cl.text, cl.same = id, last, nil, false
		if digest {
			cl.text = sha256.New()
		}
		cl.mu.Unlock()
		cl.resume(id, last)
	}
	return c.acks()
}

// leave has each client leave its job.
func (c *crowd) leave() error {
	for _, cl := range c.clients {
		cl.mu.Lock()
		cl.nc.Write(text(fmt.Sprintf(`421["job:leave:v1",{"jobId":%q}]`, cl.job)))
		cl.mu.Unlock()
	}
	return c.acks()
}

// acks waits for the answer to what each client has asked.
func (c *crowd) acks() error {
	patience := time.NewTimer(30 * time.Second)
	defer patience.Stop()
	for i, cl := range c.clients {
		select {
		case <-cl.acked:
		case <-patience.C:
			return fmt.Errorf("client %d waits for an answer about its job", i)
		}
	}
	return nil
}

// collect takes what the clients have counted since the last time.
func (c *crowd) collect() (latencies []time.Duration, events, reordered int) {
	for i, cl := range c.clients {
		cl.mu.Lock()
		if i >= c.skip {
			latencies = append(latencies, cl.latencies...)
			events += cl.events
		}
		reordered += cl.reordered
		cl.latencies, cl.events, cl.reordered = cl.latencies[:0], 0, 0
		if cl.job == "" {
			cl.last = -1
		}
		cl.mu.Unlock()
	}
	return latencies, events, reordered
}

// count is how many clients have what is asked for.
func (c *crowd) count(has func(*client) bool) (n int) {
	for _, cl := range c.clients {
		cl.mu.Lock()
		if has(cl) {
			n++
		}
		cl.mu.Unlock()
	}
	return n
}

func (c *crowd) received() (n int) {
	for _, cl := range c.clients[c.skip:] {
		cl.mu.Lock()
		n += cl.events
		cl.mu.Unlock()
	}
	return n
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

// stall has clients stop reading until goOn is called.
func stall(clients []*client) (goOn func()) {
	gate := make(chan struct{})
	for _, cl := range clients {
		cl.pause.Store(&gate)
	}
	return func() {
		for _, cl := range clients {
			cl.pause.Store(nil)
		}
		close(gate)
	}
}

// eventually asks until the answer is yes, or patience has passed.
func eventually(patience time.Duration, ask func() bool) {
	for begin := time.Now(); !ask() && time.Since(begin) < patience; {
		time.Sleep(50 * time.Millisecond)
	}
}
