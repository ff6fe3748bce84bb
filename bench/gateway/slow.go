package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The phases with clients that don't read.
const (
	slowRate  = 5000 // events a second for all together
	slowChunk = 64 << 10
	// tooMuch is how many chunks of slowChunk are more than the kernel and the
	// gateway hold for one client, sent no faster than Redis lets a subscriber be
	// behind; notices is how many messages without a log are too much then.
	tooMuch  = 12
	fillRate = slowRate / 10
	notices  = 2 * pending / slowChunk
	// quiet is how long a client takes nothing at most: the gateway gives it up
	// after 15 s, when it has filled what may wait for it.
	quiet = 38 * time.Second
)

// idlers is how many of the clients stop reading.
func (c *contest) idlers() int { return max(1, c.conns/10) }

var long = strings.Repeat("long text ", slowChunk/10)

// readers measures the clients that read, before others stop and when those have
// all waiting that may wait for them, and whether they have everything in the end.
func (c *contest) readers() error {
	for _, sd := range c.sides {
		if err := sd.crowd.leave(); err != nil {
			return err
		}
		if err := sd.crowd.watch(func(i int) (string, int) { return slow(i), 0 }, true); err != nil {
			return err
		}
		sd.crowd.skip = c.idlers()
	}
	c.rest()
	name := fmt.Sprintf("%d of %d stop reading: ", c.idlers(), c.conns)
	err := c.rounds(c.few(), func(sd *side) error { return c.stopping(sd, name) })
	if err != nil {
		return err
	}
	for _, sd := range c.sides {
		same, err := sd.ends()
		if err != nil {
			return err
		}
		sd.equal(name+"digests equal in the end", same, c.conns)
	}
	return nil
}

// stopping is one turn: all read, some stop and are sent more than may wait for
// them, and in the end these catch up.
func (c *contest) stopping(sd *side, name string) error {
	c.still()
	before, err := c.others(sd)
	if err != nil {
		return err
	}
	base := sd.process.rss()
	goOn := stall(sd.crowd.clients[:c.idlers()])
	peak := sd.process.watchRSS()
	_, err = sd.load(fillRate, tooMuch*c.idlers(), 0, func(n int, at time.Duration) { sd.redis.chunk(slow(n%c.idlers()), at, long) })
	meanwhile := before
	if err == nil {
		meanwhile, err = c.others(sd)
	}
	most, waiting := peak(), sd.metric("pending_bytes")
	goOn()
	if err != nil {
		return err
	}
	compare(&sd.column, name, before, meanwhile)
	sd.add(name+"memory for each of them, KB", "%.0f", float64(most-base)/float64(c.idlers())/1024, neither)
	if !sd.node {
		sd.add(name+"waiting for each of them, KB", "%.0f", waiting/float64(c.idlers())/1024, neither).limit = pending / 1024
	}
	sd.caughtUp()
	return sd.redis.trim()
}

// others sends short chunks to all, and returns what those have seen that don't
// stop.
func (c *contest) others(sd *side) (load, error) {
	send := func(n int, at time.Duration) { sd.redis.chunk(slow(n%c.conns), at, filler) }
	began, err := c.start(sd, slowRate, c.conns, send)
	if err != nil {
		return load{}, err
	}
	each := max(1, int(slowRate*c.counted()/float64(c.conns)))
	l, err := sd.load(slowRate, each*c.conns, each*(c.conns-c.idlers()), send)
	l.sent += began.sent
	l.received += began.received
	l.reordered += began.reordered
	return l, err
}

func compare(col *column, name string, before, meanwhile load) {
	for _, q := range []struct {
		name          string
		before, while time.Duration
	}{{"p50", before.p50, meanwhile.p50}, {"p99", before.p99, meanwhile.p99}} {
		col.spread(name+q.name+" of the others before, ms", "%.2f", millis(q.before), less)
		col.spread(name+q.name+" of the others meanwhile, ms", "%.2f", millis(q.while), less)
	}
	col.lose(name+"others", before)
	col.lose(name+"others", meanwhile)
}

// caughtUp waits until all clients have the last event of their jobs; the digests
// will tell of those that don't get there.
func (sd *side) caughtUp() {
	eventually(20*time.Second, func() bool {
		return sd.crowd.count(func(cl *client) bool { return cl.last == sd.redis.open[cl.job].seq }) == len(sd.crowd.clients)
	})
}

// ends ends the jobs that the clients watch, and counts those whose text has the
// digest that it should have.
func (sd *side) ends() (same int, err error) {
	for _, cl := range sd.crowd.clients {
		sd.redis.end(cl.job)
	}
	if err := sd.flush(); err != nil {
		return 0, err
	}
	eventually(20*time.Second, func() bool {
		same = sd.crowd.count(func(cl *client) bool { return cl.same })
		return same == len(sd.crowd.clients)
	})
	return same, nil
}

// trial is a way of being too slow.
type trial struct {
	name     string
	job      func(i int) string
	notices  int           // messages of older workers, which have no log to be read later
	patience time.Duration // how long the gateway may take to give the clients up
}

// ending is what became of clients that were cut off.
type ending struct {
	name                 string
	told, back, same, of int
}

func (e ending) show(col *column) {
	col.note(e.name+"told too_slow", "%d", e.told)
	col.note(e.name+"closed, and back", "%d", e.back)
	col.equal(e.name+"digests equal in the end", e.same, e.of)
}

// cutOffs has some clients be too slow, in each way. In a hasty run none are
// silent for long.
func (c *contest) cutOffs(sd *side) (all []ending, err error) {
	trials := []trial{{"can't take what has no log", overrun, notices, 2 * time.Second}}
	if !c.hasty {
		trials = append(trials, trial{"take nothing at all", silent, 0, quiet})
	}
	for _, t := range trials {
		e, err := c.cutOff(sd, t)
		if err != nil {
			return nil, fmt.Errorf("%s: clients that %s: %w", sd.name, t.name, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// cutOff has clients stop reading until the gateway gives them up. They begin to
// read then, and are to have everything in the end.
func (c *contest) cutOff(sd *side, t trial) (ending, error) {
	n := min(c.idlers(), 10)
	p := sd.plan
	p.n, p.narrow, p.patient = n, n, !c.hasty
	crowd, err := connect(p)
	if err != nil {
		return ending{}, err
	}
	defer crowd.close()
	crowd.skip = n // nothing of this is timed
	slow := &side{process: sd.process, redis: sd.redis, flush: sd.flush, crowd: crowd}
	for i := range n {
		if err := sd.redis.begin(t.job(i), user(i)); err != nil {
			return ending{}, err
		}
	}
	if err := crowd.watch(func(i int) (string, int) { return t.job(i), 0 }, true); err != nil {
		return ending{}, err
	}
	before := sd.cut()
	goOn := stall(crowd.clients)
	_, err = slow.load(fillRate, tooMuch*n, 0, func(k int, at time.Duration) { sd.redis.chunk(t.job(k%n), at, long) })
	if err == nil {
		_, err = slow.load(fillRate, t.notices*n, 0, func(k int, _ time.Duration) { sd.redis.notice(t.job(k%n), long) })
	}
	if err != nil {
		goOn()
		return ending{}, err
	}
	eventually(t.patience, func() bool { return sd.cut()-before >= n })
	goOn()
	slow.caughtUp()
	e := ending{name: fmt.Sprintf("%d %s: ", n, t.name), of: n}
	e.same, err = slow.ends()
	e.told = crowd.count(func(cl *client) bool { return cl.told })
	e.back = crowd.count(func(cl *client) bool { return cl.back })
	return e, err
}

// cut is how many clients the gateway has given up so far.
func (sd *side) cut() int { return int(sd.metric(`slow_clients_total{what="too_slow"}`)) }

// metric reads one of those that our gateway shows; of Node's they are 0.
func (sd *side) metric(name string) float64 {
	if sd.node {
		return 0
	}
	answer, err := http.Get("http://127.0.0.1:" + sd.process.port + "/metrics")
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	all, _ := io.ReadAll(answer.Body)
	_, rest, _ := strings.Cut(string(all), "\nsluice_gateway_"+name+" ")
	line, _, _ := strings.Cut(rest, "\n")
	value, _ := strconv.ParseFloat(line, 64)
	return value
}
