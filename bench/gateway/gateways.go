package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	secret = "0123456789abcdef0123456789abcdef"
	// pending is gateway.limits.pending: what may wait for one client.
	pending = 256 << 10
	// The phase with clients that don't read: chunks a second for all together,
	// and the size of the chunks that the slow ones get.
	slowRate  = 5000
	slowChunk = 64 << 10
)

// gateways measures the gateways behind Redis.
func gateways(s settings) ([]column, error) {
	os.Setenv("SLUICE_GATEWAY__AUTH__SECRET", secret)
	type server struct {
		name    string
		command func(r *store) (string, []string)
	}
	servers := []server{{"sluice gateway", func(r *store) (string, []string) {
		return s.sluice, []string{"gateway", "--gateway.addr", "127.0.0.1:0", "--redis.url", "unix://" + r.socket, "--log.level", "error",
			"--gateway.auth.mode", "hs256", "--gateway.limits.pending", fmt.Sprint(pending)}
	}}}
	if s.node != "" {
		node := server{"node gateway", func(r *store) (string, []string) {
			return "node", []string{"--expose-gc", filepath.Join(s.node, "gateway.mjs"), r.socket, secret}
		}}
		servers = []server{node, servers[0]}
	}
	var columns []column
	for _, sv := range servers {
		col := column{name: sv.name}
		err := func() error {
			redis, err := startRedis()
			if err != nil {
				return err
			}
			defer redis.stop()
			name, args := sv.command(redis)
			return col.gateway(s, redis, name, args)
		}()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sv.name, err)
		}
		columns = append(columns, col)
	}
	if len(columns) > 1 {
		for _, n := range s.idle {
			judge(columns, idleRow(n))
		}
	}
	return columns, nil
}

// judge says of the last column whether it is no worse than the first.
func judge(columns []column, name string) {
	first, last := columns[0].value(name), columns[len(columns)-1].value(name)
	verdict := "met"
	if last > first {
		verdict = "MISSED"
	}
	target := "at most Node's: " + name
	for i := range columns[1:] {
		columns[i].note(target, "")
	}
	columns[len(columns)-1].note(target, "%s", verdict)
}

func user(i int) string { return fmt.Sprintf("user-%d", i) }

// token makes everybody an admin: all watch one job in the phase of broadcasts.
func token(i int) string {
	t, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": user(i), "role": "admin"}).SignedString([]byte(secret))
	if err != nil {
		panic(err) // a key of bytes always signs
	}
	return t
}

// gateway runs all phases against one process.
func (col *column) gateway(s settings, redis *store, name string, args []string) error {
	for _, n := range s.idle {
		if err := col.idle(s, n, name, args); err != nil {
			return err
		}
	}
	if s.only == "idle" {
		return nil
	}
	p, err := launch(s.pin, name, args...)
	if err != nil {
		return err
	}
	defer p.stop()
	tokens := make([]string, s.conns)
	for i := range tokens {
		tokens[i] = token(i)
	}
	own := func(i int) string { return fmt.Sprintf("own-%d", i) }
	slow := func(i int) string { return fmt.Sprintf("slow-%d", i) }
	for i := range s.conns {
		for _, id := range []string{own(i), slow(i)} {
			if err := redis.begin(id, user(i)); err != nil {
				return err
			}
		}
	}
	if err := redis.begin("all", user(0)); err != nil {
		return err
	}
	idlers := s.conns / 10
	want := plan{port: p.port, n: s.conns, parallel: 32, stamp: `"chunk":"t=`, narrow: idlers, token: func(i int) string { return tokens[i] }}
	if err := warm(want); err != nil {
		return err
	}
	cpu, begin := p.cpu(), time.Now()
	c, err := connect(want)
	if err != nil {
		return err
	}
	defer func() { c.close() }()
	connected(col, s.conns, time.Since(begin), p.cpu()-cpu)
	time.Sleep(time.Second)

	last := func(job func(int) string) func(int) (string, int) {
		return func(i int) (string, int) { id := job(i); return id, redis.open[id].seq }
	}
	if err := c.watch(last(own), false); err != nil {
		return err
	}
	filler := " twenty characters.."
	for _, rate := range s.rates {
		stop := redis.pings()
		l, err := c.load(p, rate, s.seconds, int(float64(rate)*s.seconds), func(n int, at time.Duration) {
			redis.chunk(own(n%s.conns), at, filler)
		}, redis.flush)
		ping50, ping99 := quantiles(stop())
		if err != nil {
			return err
		}
		l.show(col, fmt.Sprintf("%d/s", rate))
		col.note(fmt.Sprintf("%d/s: PING meanwhile, p50 and p99, ms", rate), "%.2f, %.1f", millis(ping50), millis(ping99))
	}
	c.leave()
	if err := c.watch(last(func(int) string { return "all" }), false); err != nil {
		return err
	}
	l, err := c.load(p, s.broadcast, s.seconds, int(float64(s.broadcast)*s.seconds)*s.conns, func(n int, at time.Duration) {
		redis.chunk("all", at, filler)
	}, redis.flush)
	if err != nil {
		return err
	}
	l.show(col, fmt.Sprintf("%d broadcasts/s", s.broadcast))
	if s.quick {
		return nil
	}

	c.close()
	time.Sleep(time.Second) // both have seen the ends
	cpu, begin = p.cpu(), time.Now()
	storm := want
	storm.parallel = s.conns
	if c, err = connect(storm); err != nil {
		return fmt.Errorf("storm: %w", err)
	}
	if err := c.watch(last(own), false); err != nil {
		return fmt.Errorf("storm: %w", err)
	}
	stormed(col, s.conns, time.Since(begin), p.cpu()-cpu)
	c.leave()
	return col.slow(s, redis, p, c, slow, idlers)
}

// slow has some clients stop reading.
func (col *column) slow(s settings, redis *store, p *process, c *crowd, job func(int) string, idlers int) error {
	if err := c.watch(func(i int) (string, int) { return job(i), 0 }, true); err != nil {
		return err
	}
	long := strings.Repeat("long text ", slowChunk/10)
	send := func(n int, at time.Duration) {
		i, filler := n%s.conns, "short text"
		if i < idlers {
			filler = long
		}
		redis.chunk(job(i), at, filler)
	}
	c.skip = idlers
	total := int(slowRate * s.seconds)
	want := 0
	for n := range total {
		if n%s.conns >= idlers {
			want++
		}
	}
	name := fmt.Sprintf("%d of %d stop reading: ", idlers, s.conns)
	all, err := c.load(p, slowRate, s.seconds, want, send, redis.flush)
	if err != nil {
		return err
	}
	col.add(name+"p99 of the others before, ms", "%.1f", millis(all.p99), less)
	gate := make(chan struct{})
	for _, cl := range c.clients[:idlers] {
		cl.pause.Store(&gate)
	}
	before := p.rss()
	peak := p.watchRSS()
	some, err := c.load(p, slowRate, s.seconds, want, send, redis.flush)
	most := peak()
	if err != nil {
		return err
	}
	col.add(name+"p99 of the others meanwhile, ms", "%.1f", millis(some.p99), less)
	col.note(name+"lost, reordered of the others", "%d, %d", all.sent+some.sent-all.received-some.received, all.reordered+some.reordered)
	col.add(name+"memory for each of them, KB", "%.0f", float64(most-before)/float64(idlers)/1024, less)
	for _, cl := range c.clients[:idlers] {
		cl.pause.Store(nil)
	}
	close(gate)
	for i := range s.conns {
		redis.end(job(i))
	}
	if err := redis.flush(); err != nil {
		return err
	}
	same := 0
	for range 400 {
		same = 0
		for _, cl := range c.clients {
			cl.mu.Lock()
			same += cl.ends
			cl.mu.Unlock()
		}
		if same == s.conns {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	col.note(name+"digests equal in the end", "%d", same)
	col.note(name+"cut off and back", "%d", c.again.Load())
	return nil
}

// warm connects some clients, which are forgotten again.
func warm(c plan) error {
	c.n = min(100, c.n)
	w, err := connect(c)
	if err != nil {
		return err
	}
	w.close()
	time.Sleep(500 * time.Millisecond)
	return nil
}

func idleRow(n int) string { return fmt.Sprintf("memory per idle connection of %d, KB", n) }

// idle looks at the memory of many connections of a process of their own, some
// seconds after they have come, and with Node's garbage collected; ours is to
// have thought of that itself.
func (col *column) idle(s settings, n int, name string, args []string) error {
	p, err := launch(s.pin, name, args...)
	if err != nil {
		return err
	}
	defer p.stop()
	want := plan{port: p.port, n: n, parallel: 32, token: token, stamp: "none"}
	if err := warm(want); err != nil {
		return err
	}
	settle := func() int {
		time.Sleep(2 * time.Second)
		if name == "node" {
			p.cmd.Process.Signal(syscall.SIGUSR2)
			time.Sleep(time.Second)
		}
		return p.rss()
	}
	before := settle()
	c, err := connect(want)
	if err != nil {
		return err
	}
	defer c.close()
	col.add(idleRow(n), "%.1f", float64(settle()-before)/float64(n)/1024, less)
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
