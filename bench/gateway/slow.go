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
	slowRate  = 5000     // chunks a second for all together
	slowChunk = 64 << 10 // what the slow ones get in each
	// tooMuch is more chunks than the kernel and the gateway hold for one client,
	// and notices how many messages without a log overflow what waits for it.
	tooMuch = 32
	notices = 2 * pending / slowChunk
	// quiet is how long a client takes nothing at most: the gateway gives it up
	// after 30 s, when it has filled what may wait for it.
	quiet = 38 * time.Second
)

// idlers is how many of the clients stop reading.
func (c *contest) idlers() int { return c.conns / 10 }

var long = strings.Repeat("long text ", slowChunk/10)

// readers measures the clients that read, before others stop and meanwhile, and
// whether those have everything in the end.
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
	base, most := map[*side]int{}, map[*side]int{}
	name := fmt.Sprintf("%d of %d stop reading: ", c.idlers(), c.conns)
	err := c.rounds(c.few(), func(sd *side) error {
		before, err := c.mixed(sd)
		if err != nil {
			return err
		}
		if base[sd] == 0 {
			base[sd] = sd.process.rss()
		}
		goOn := stall(sd.crowd.clients[:c.idlers()])
		peak := sd.process.watchRSS()
		meanwhile, err := c.mixed(sd)
		most[sd] = max(most[sd], peak())
		goOn()
		if err != nil {
			return err
		}
		compare(&sd.column, name, before, meanwhile)
		sd.caughtUp()
		return sd.redis.trim()
	})
	if err != nil {
		return err
	}
	for _, sd := range c.sides {
		sd.add(name+"memory for each of them, KB", "%.0f", float64(most[sd]-base[sd])/float64(c.idlers())/1024, less)
		same, err := sd.ends()
		if err != nil {
			return err
		}
		sd.equal(name+"digests equal in the end", same, c.conns)
	}
	return nil
}

// mixed sends short chunks to most clients and long ones to those that may stop,
// and returns what those have seen that don't.
func (c *contest) mixed(sd *side) (load, error) {
	total := int(slowRate * c.seconds)
	want := 0
	for n := range total {
		if n%c.conns >= c.idlers() {
			want++
		}
	}
	return sd.load(slowRate, total, want, func(n int, at time.Duration) {
		i, text := n%c.conns, "short text"
		if i < c.idlers() {
			text = long
		}
		sd.redis.chunk(slow(i), at, text)
	})
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
		trials = append(trials, trial{"take nothing for 30 s", silent, 0, quiet})
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
	// No faster than Redis lets a subscriber be behind.
	_, err = slow.load(slowRate/10, tooMuch*n, 0, func(k int, at time.Duration) { sd.redis.chunk(t.job(k%n), at, long) })
	if err == nil {
		_, err = slow.load(slowRate/10, t.notices*n, 0, func(k int, _ time.Duration) { sd.redis.notice(t.job(k%n), long) })
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

// cut is how many clients the gateway has given up so far; Node's gives up nobody.
func (sd *side) cut() int {
	if sd.node {
		return 0
	}
	answer, err := http.Get("http://127.0.0.1:" + sd.process.port + "/metrics")
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	all, _ := io.ReadAll(answer.Body)
	_, rest, _ := strings.Cut(string(all), `slow_clients_total{what="too_slow"} `)
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.Atoi(line)
	return n
}
