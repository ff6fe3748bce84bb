package main

import (
	"fmt"
	"time"
)

// side is one of the servers that are compared, live with its clients from the
// first phase to the last, and what it showed.
type side struct {
	column
	process *process
	plan    plan
	crowd   *crowd
	redis   *store // of a gateway

	// one sends the n-th event to one client, all to everybody; flush sends what
	// was written.
	one, all func(n int, at time.Duration)
	flush    func() error

	turns, waited time.Duration // while others had their turn: wall clock, and CPU used
}

// contest has sides take turns at each phase, so that what changes in the course
// of a run changes for all.
type contest struct {
	settings
	sides []*side
	calm  time.Duration // how long after many have come or gone a side may still begin to work
}

// rounds gives each side n turns, and each round to another to begin. Meanwhile
// the others wait, with their clients connected.
func (c *contest) rounds(n int, turn func(*side) error) error {
	for round := range n {
		for i := range c.sides {
			sd := c.sides[(i+round)%len(c.sides)]
			begin, used := time.Now(), make([]time.Duration, len(c.sides))
			for i, other := range c.sides {
				used[i] = other.process.cpu()
			}
			if err := turn(sd); err != nil {
				return fmt.Errorf("%s: %w", sd.name, err)
			}
			for i, other := range c.sides {
				if other != sd {
					other.turns += time.Since(begin)
					other.waited += other.process.cpu() - used[i]
				}
			}
		}
	}
	return nil
}

// rest lets what follows a rush pass.
func (c *contest) rest() {
	if !c.hasty {
		time.Sleep(c.calm)
		c.still()
	}
}

// still waits until no side has anything to do.
func (c *contest) still() {
	const look = 100 * time.Millisecond
	for range 50 {
		busy := time.Duration(0)
		for _, sd := range c.sides {
			busy -= sd.process.cpu()
		}
		time.Sleep(look)
		for _, sd := range c.sides {
			busy += sd.process.cpu()
		}
		if busy < look/20 {
			return
		}
	}
}

// few is how many rounds the phases have that take much time.
func (c *contest) few() int { return min(c.settings.rounds, 3) }

// reconnect has the clients of a side go and, when all is still, come again, so
// many at a time, and do what then says.
func (c *contest) reconnect(sd *side, parallel int, then func(*side) error) (took, cpu time.Duration, err error) {
	if sd.crowd != nil {
		sd.crowd.close()
	}
	c.rest()
	p := sd.plan
	p.parallel = parallel
	cpu, begin := sd.process.cpu(), time.Now()
	if sd.crowd, err = connect(p); err != nil {
		return 0, 0, err
	}
	if then != nil {
		err = then(sd)
	}
	return time.Since(begin), sd.process.cpu() - cpu, err
}

// arrivals measures connections, one after another.
func (c *contest) arrivals() error {
	return c.rounds(c.few(), func(sd *side) error {
		took, cpu, err := c.reconnect(sd, sd.plan.parallel, nil)
		if err != nil {
			return fmt.Errorf("connections: %w", err)
		}
		sd.add("connections/s", "%.0f", float64(c.conns)/took.Seconds(), more)
		sd.add("CPU per connection, µs", "%.0f", micros(cpu)/float64(c.conns), less)
		return nil
	})
}

// storms has everybody come at once, and do what then says.
func (c *contest) storms(then func(*side) error) error {
	return c.rounds(c.few(), func(sd *side) error {
		took, cpu, err := c.reconnect(sd, c.conns, then)
		if err != nil {
			return fmt.Errorf("storm: %w", err)
		}
		sd.add("storm: all back after, ms", "%.0f", millis(took), less)
		sd.add("storm: CPU per connection, µs", "%.0f", micros(cpu)/float64(c.conns), less)
		return nil
	})
}

func rateName(rate int) string { return fmt.Sprintf("%d/s", rate) }

// streams measures events for single clients, at each rate.
func (c *contest) streams() error {
	for _, rate := range c.rates {
		err := c.rounds(c.settings.rounds, func(sd *side) error {
			return c.turn(sd, rateName(rate), rate, c.conns, sd.one)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// broadcasts measures events for everybody.
func (c *contest) broadcasts() error {
	name := fmt.Sprintf("%d broadcasts/s", c.broadcast)
	return c.rounds(c.settings.rounds, func(sd *side) error {
		return c.turn(sd, name, c.broadcast, 1, sd.all)
	})
}

// underWay is how many events a connection gets before they are counted. One that
// was idle takes more of the kernel, on both ends: Linux acknowledges the next 16
// segments one by one.
const underWay = 20

// counted is how many seconds of a turn are measured.
func (c *contest) counted() float64 { return c.seconds * 2 / 3 }

// turn is one load of one side. every is how many calls of send it takes for each
// client to get one event.
func (c *contest) turn(sd *side, name string, rate, every int, send func(n int, at time.Duration)) error {
	began, err := c.start(sd, rate, every, send)
	if err != nil {
		return err
	}
	stop := func() {}
	if sd.redis != nil {
		stop = sd.pings(name)
	}
	total := max(1, int(float64(rate)*c.counted()))
	l, err := sd.load(rate, total, total*c.conns/every, send)
	if err == nil {
		l.show(&sd.column, name)
		sd.lose(name, began)
	}
	stop()
	if err != nil || sd.redis == nil {
		return err
	}
	return sd.redis.trim()
}

// start gets a turn under way.
func (c *contest) start(sd *side, rate, every int, send func(n int, at time.Duration)) (load, error) {
	first := underWay * every
	return sd.load(max(rate, int(float64(first)/(c.seconds-c.counted()))), first, underWay*(c.conns-sd.crowd.skip), send)
}

// pings measures how fast Redis is, until stop is called.
func (sd *side) pings(name string) (stop func()) {
	end := sd.redis.pings()
	return func() {
		p50, p99 := quantiles(end())
		sd.add(name+": Redis' PING meanwhile, p50, ms", "%.2f", millis(p50), neither)
		sd.add(name+": Redis' PING meanwhile, p99, ms", "%.1f", millis(p99), neither)
	}
}

// idled says what waiting for the other sides' turns has cost each.
func (c *contest) idled() {
	for _, sd := range c.sides {
		if sd.turns > 0 {
			sd.add("CPU while it waits for its turn, %", "%.2f", 100*sd.waited.Seconds()/sd.turns.Seconds(), neither)
		}
	}
}

func (c *contest) columns() (all []*column) {
	for _, sd := range c.sides {
		all = append(all, &sd.column)
	}
	return all
}

func (c *contest) stop() {
	for _, sd := range c.sides {
		if sd.crowd != nil {
			sd.crowd.close()
		}
		sd.process.stop()
		if sd.redis != nil {
			sd.redis.stop()
		}
	}
}
