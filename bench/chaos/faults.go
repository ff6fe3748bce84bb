package main

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A fault breaks something, and returns when it is whole again. It heals at once
// when ctx ends.
type fault struct {
	name   string
	weight int
	do     func(ctx context.Context, rng *rand.Rand)
}

// core breaks hosts and Redis, one thing after the other, so that a failover can
// be told from an outage; now and then two things at once.
func (c *chaos) core() []fault {
	host := func(rng *rand.Rand) *member { return c.hosts[rng.IntN(len(c.hosts))] }
	return []fault{
		{"host killed", 10, func(ctx context.Context, rng *rand.Rand) { c.killHost(ctx, rng, host(rng)) }},
		{"host paused", 3, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			c.freeze(ctx, host(rng).process(), between(rng, 300, 5000))
		}},
		{"host restarted in order", 2, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			c.restart(ctx, host(rng), syscall.SIGTERM, false)
		}},
		{"host cut off", 3, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			w := host(rng).way
			w.refuse()
			pause(ctx, between(rng, 100, 6000))
			w.mend()
		}},
		{"host's commands held back", 3, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			w := host(rng).way
			w.swallow()
			pause(ctx, between(rng, 100, 5000))
			if rng.IntN(2) == 0 {
				w.sever()
			}
			w.mend()
		}},
		{"host's way slow", 2, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			w := host(rng).way
			w.slow(between(rng, 5, 80))
			pause(ctx, between(rng, 500, 3000))
			w.mend()
		}},
		{"redis killed", 2, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			c.killRedis(ctx, between(rng, 0, 3000))
		}},
		{"redis paused", 2, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			c.freeze(ctx, c.redis.p, between(rng, 100, 4000))
		}},
		{"redis asleep", 2, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			_ = c.rdb.Do(ctx, "DEBUG", "SLEEP", between(rng, 100, 2000).Seconds()).Err()
		}},
		{"redis full", 1, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			_ = c.rdb.ConfigSet(ctx, "maxmemory", "1mb").Err()
			pause(ctx, between(rng, 200, 2500))
			c.persist(func(ctx context.Context) error { return c.rdb.ConfigSet(ctx, "maxmemory", "0").Err() })
		}},
		{"connections killed", 4, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			kind := []string{"normal", "pubsub"}[rng.IntN(2)]
			for range 1 + rng.IntN(10) {
				_ = c.rdb.Do(ctx, "CLIENT", "KILL", "TYPE", kind).Err()
				pause(ctx, between(rng, 10, 100))
			}
		}},
		{"host killed while redis is away", 1, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			var both sync.WaitGroup
			both.Go(func() { c.killRedis(ctx, 2*time.Second) })
			pause(ctx, between(rng, 0, 1500))
			c.killHost(ctx, rng, host(rng))
			both.Wait()
		}},
		{"both hosts killed", 1, func(ctx context.Context, rng *rand.Rand) {
			defer c.disturb("")()
			var both sync.WaitGroup
			for _, h := range c.hosts {
				both.Go(func() { c.restart(ctx, h, syscall.SIGKILL, false) })
			}
			both.Wait()
		}},
	}
}

// edge breaks gateways and plugins, beside what the core does.
func (c *chaos) edge() []fault {
	gateway := func(rng *rand.Rand) *member { return c.gateways[rng.IntN(len(c.gateways))] }
	return []fault{
		{"gateway killed", 4, func(ctx context.Context, rng *rand.Rand) { c.restart(ctx, gateway(rng), syscall.SIGKILL, false) }},
		{"gateway restarted in order", 2, func(ctx context.Context, rng *rand.Rand) { c.restart(ctx, gateway(rng), syscall.SIGTERM, false) }},
		{"gateway paused", 3, func(ctx context.Context, rng *rand.Rand) {
			c.freeze(ctx, gateway(rng).process(), between(rng, 200, 4000))
		}},
		{"gateway cut off", 3, func(ctx context.Context, rng *rand.Rand) {
			w := gateway(rng).way
			w.refuse()
			pause(ctx, between(rng, 100, 6000))
			w.mend()
		}},
		{"gateway's way held back", 3, func(ctx context.Context, rng *rand.Rand) {
			w := gateway(rng).way
			w.swallow()
			pause(ctx, between(rng, 100, 5000))
			w.mend()
		}},
		{"gateway's connections severed", 3, func(_ context.Context, rng *rand.Rand) { gateway(rng).way.sever() }},
		{"plugin killed", 4, func(_ context.Context, rng *rand.Rand) { c.plugin(rng, syscall.SIGKILL) }},
		{"plugin paused", 2, func(ctx context.Context, rng *rand.Rand) {
			if pid := c.plugin(rng, syscall.SIGSTOP); pid != 0 {
				pause(ctx, between(rng, 200, 3000))
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
		}},
	}
}

// lane breaks one thing after the other until ctx ends.
func (c *chaos) lane(ctx context.Context, rng *rand.Rand, faults []fault, gap func() time.Duration) {
	var mine []fault
	sum := 0
	for _, f := range faults {
		if strings.Contains(f.name, c.o.only) {
			mine = append(mine, f)
			sum += f.weight
		}
	}
	for sum > 0 && pause(ctx, gap()) {
		n := rng.IntN(sum)
		for _, f := range mine {
			if n -= f.weight; n < 0 {
				c.note("%s", f.name)
				c.report.injected(f.name)
				f.do(ctx, rng)
				c.note("%s: over", f.name)
				break
			}
		}
	}
}

// disturbance is a time in which a failover isn't an undisturbed one.
type disturbance struct {
	host     string // the place whose end it is: its own failover isn't disturbed by it; "" is any other
	from, to time.Time
}

// disturb notes that something is broken, from now until the returned function
// is called, and for the time in which hosts then judge nobody.
func (c *chaos) disturb(host string) (over func()) {
	d := &disturbance{host: host, from: time.Now()}
	c.mu.Lock()
	c.unrest = append(c.unrest, d)
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		d.to = time.Now().Add(calmAfter)
	}
}

// calmAfter is how long a host judges nobody after it has begun or was disturbed,
// and a little.
const calmAfter = 4 * time.Second

// disturbed tells whether anything but the death of one host was going on
// between two times. The caller holds mu.
func (c *chaos) disturbed(host string, from, to time.Time) bool {
	for _, d := range c.unrest {
		if (d.host == "" || d.host != host) && d.from.Before(to) && (d.to.IsZero() || d.to.After(from)) {
			return true
		}
	}
	return false
}

// stall is how late a timer or a PING may be before the machine itself is what
// is slow: hosts judge nobody who find Redis that slow.
const stall = 200 * time.Millisecond

// pulse notes when the machine stands still, until ctx ends.
func (c *chaos) pulse(ctx context.Context) {
	const beat = 50 * time.Millisecond
	for {
		began := time.Now()
		if !pause(ctx, beat) {
			return
		}
		_ = c.rdb.Ping(ctx).Err() // that Redis is away is a fault of its own
		if time.Since(began) < beat+stall || ctx.Err() != nil {
			continue
		}
		now := time.Now()
		c.mu.Lock()
		known := c.disturbed("", began, now)
		c.unrest = append(c.unrest, &disturbance{from: began, to: now.Add(calmAfter)})
		c.mu.Unlock()
		if !known {
			c.note("the machine stood still for %s", now.Sub(began))
			c.report.stalled()
		}
	}
}

// killHost kills a host, notes who ran there, and starts it again.
func (c *chaos) killHost(ctx context.Context, rng *rand.Rand, h *member) {
	defer c.disturb(h.name)()
	running := c.runningOn(ctx, h.hostID())
	at := time.Now()
	h.process().end(syscall.SIGKILL)
	c.mu.Lock()
	c.kills = append(c.kills, &kill{host: h.name, at: at, jobs: running})
	c.mu.Unlock()
	// Long enough to be found dead, or so short that it comes back before.
	pause(ctx, []time.Duration{0, between(rng, 0, 400), between(rng, 2500, 5000)}[rng.IntN(3)])
	c.restart(ctx, h, syscall.SIGKILL, rng.IntN(3) == 0)
}

// restart ends a process and starts another in its place.
func (c *chaos) restart(ctx context.Context, m *member, sig syscall.Signal, again bool) {
	if sig == syscall.SIGTERM {
		m.stop()
	} else {
		m.process().end(sig)
		m.process().gone(time.Minute)
	}
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	for range 3 {
		err := m.start(context.WithoutCancel(ctx), again)
		if err == nil {
			return
		}
		c.report.crashed.add("%s: %v", m.name, err)
	}
}

func (c *chaos) killRedis(ctx context.Context, away time.Duration) {
	c.redis.broken.Lock()
	defer c.redis.broken.Unlock()
	c.redis.p.end(syscall.SIGKILL)
	c.redis.p.gone(time.Minute)
	pause(ctx, away)
	if err := c.redis.start(context.WithoutCancel(ctx)); err != nil {
		c.report.crashed.add("redis-server: %v", err)
	}
}

// freeze stops a process and lets it go on.
func (c *chaos) freeze(ctx context.Context, p *process, d time.Duration) {
	p.signal(syscall.SIGSTOP)
	pause(ctx, d)
	p.signal(syscall.SIGCONT)
}

// plugin signals some plugin of some host, and returns its pid.
func (c *chaos) plugin(rng *rand.Rand, sig syscall.Signal) int {
	pids := children(c.hosts[rng.IntN(len(c.hosts))].process().cmd.Process.Pid)
	if len(pids) == 0 {
		return 0
	}
	pid := pids[rng.IntN(len(pids))]
	_ = syscall.Kill(pid, sig)
	return pid
}

// between is a time in ms, short ones more often.
func between(rng *rand.Rand, least, most int) time.Duration {
	x := rng.Float64()
	return time.Duration(float64(least)+x*x*float64(most-least)) * time.Millisecond
}
