package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	secret = "0123456789abcdef0123456789abcdef"
	// pending is gateway.limits.pending: what may wait for one client.
	pending = 256 << 10
	// filler is the text of an event.
	filler = " twenty characters.."
	// wantTimes is how many times as many events per core-second as Node's gateway
	// ours is to deliver.
	wantTimes = 2
)

// gateway says how one is started.
type gateway struct {
	name    string
	command func(r *store) []string
}

// gateways measures the gateways behind Redis.
func gateways(s settings) ([]*column, error) {
	os.Setenv("SLUICE_GATEWAY__AUTH__SECRET", secret)
	all := []gateway{{"sluice gateway", func(r *store) []string {
		return []string{s.sluice, "gateway", "--gateway.addr", "127.0.0.1:0", "--redis.url", "unix://" + r.socket, "--log.level", "error",
			"--gateway.auth.mode", "hs256", "--gateway.limits.pending", fmt.Sprint(pending)}
	}}}
	if s.node != "" {
		node := gateway{"node gateway", func(r *store) []string {
			return []string{"node", "--expose-gc", filepath.Join(s.node, "gateway.mjs"), r.socket, secret}
		}}
		all = append([]gateway{node}, all...)
	}
	// A gateway of ours collects its garbage within a second after a rush.
	c := &contest{settings: s, calm: 1200 * time.Millisecond}
	defer c.stop()
	for _, g := range all {
		if err := c.gateway(g); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
	}
	var phases []func() error
	if s.only != "idle" {
		phases = []func() error{c.eachOwn, c.everybody}
		if !s.quick {
			phases = []func() error{c.arrivals, c.eachOwn, c.everybody, c.stampedes, c.readers}
		}
	}
	for _, phase := range append(phases, c.untimed) {
		if err := phase(); err != nil {
			return nil, err
		}
	}
	return c.columns(), nil
}

// gateway starts a side, with a Redis of its own and jobs for all phases.
func (c *contest) gateway(g gateway) error {
	redis, err := startRedis()
	if err != nil {
		return err
	}
	p, err := launch(c.pin, g.command(redis))
	if err != nil {
		redis.stop()
		return err
	}
	tokens := make([]string, c.conns)
	for i := range tokens {
		tokens[i] = token(i)
	}
	sd := &side{process: p, redis: redis, flush: redis.flush, plan: plan{port: p.port, n: c.conns, parallel: 32, stamp: `"chunk":"t=`,
		narrow: c.idlers(), token: func(i int) string { return tokens[i] }}}
	sd.name, sd.node = g.name, g.name == "node gateway"
	sd.one = func(n int, at time.Duration) { redis.chunk(own(n%c.conns), at, filler) }
	sd.all = func(_ int, at time.Duration) { redis.chunk(shared, at, filler) }
	c.sides = append(c.sides, sd)
	if c.only == "idle" {
		return nil
	}
	if err := redis.begin(shared, user(0)); err != nil {
		return err
	}
	for i := range c.conns {
		for _, id := range []string{own(i), slow(i)} {
			if err := redis.begin(id, user(i)); err != nil {
				return err
			}
		}
	}
	if err := warm(sd.plan); err != nil {
		return err
	}
	sd.crowd, err = connect(sd.plan)
	return err
}

func user(i int) string    { return fmt.Sprintf("user-%d", i) }
func own(i int) string     { return fmt.Sprintf("own-%d", i) }
func slow(i int) string    { return fmt.Sprintf("slow-%d", i) }
func silent(i int) string  { return fmt.Sprintf("silent-%d", i) }
func overrun(i int) string { return fmt.Sprintf("overrun-%d", i) }

// shared is the job that all watch.
const shared = "all"

// token makes everybody an admin: all watch one job in the phase of broadcasts.
func token(i int) string {
	t, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": user(i), "role": "admin"}).SignedString([]byte(secret))
	if err != nil {
		panic(err) // a key of bytes always signs
	}
	return t
}

// follow has each client watch a job from where it is now.
func (sd *side) follow(job func(i int) string) error {
	return sd.crowd.watch(func(i int) (string, int) { id := job(i); return id, sd.redis.open[id].seq }, false)
}

// instead has all clients leave what they watch for another job.
func (c *contest) instead(job func(i int) string) error {
	for _, sd := range c.sides {
		if err := sd.crowd.leave(); err != nil {
			return err
		}
		if err := sd.follow(job); err != nil {
			return err
		}
	}
	c.rest()
	return nil
}

// eachOwn is the phases in which each client watches a job of its own.
func (c *contest) eachOwn() error {
	for _, sd := range c.sides {
		if err := sd.follow(own); err != nil {
			return err
		}
	}
	c.rest()
	if err := c.streams(); err != nil {
		return err
	}
	for _, sd := range c.sides {
		for _, rate := range c.rates {
			sd.of(perCore(rateName(rate))).aim = wantTimes
		}
	}
	return nil
}

// everybody is the phase in which all watch one job.
func (c *contest) everybody() error {
	if err := c.instead(func(int) string { return shared }); err != nil {
		return err
	}
	defer c.idled()
	return c.broadcasts()
}

// stampedes has all come at once and watch their jobs again.
func (c *contest) stampedes() error {
	return c.storms(func(sd *side) error { return sd.follow(own) })
}
