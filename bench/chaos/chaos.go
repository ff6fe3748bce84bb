package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

// chaos is one run.
type chaos struct {
	o        options
	root     string // of the repository
	dir      string
	binary   string
	report   *report
	spawn    *spawner
	upstream *upstream
	redis    *redisServer
	hosts    []*member
	gateways []*member
	rdb      redis.UniversalClient // past all proxies
	store    *job.Store
	tickets  *job.Queue
	timeline *os.File
	audits   sync.WaitGroup

	mu     sync.Mutex
	unrest []*disturbance
	kills  []*kill
	active map[string]*plan
	sought map[string]time.Time // when cancels were sent that were acknowledged, by job
}

// kill is the end of a host, and what it was running.
type kill struct {
	host string
	at   time.Time
	jobs map[string]int64 // attempt
}

// The times after the faults are over.
const (
	settleTimeout = 75 * time.Second // for every stream to come to its end
	drainTimeout  = 30 * time.Second // for the queue to be empty
)

const secret = "chaos knows everybody, and everybody is let in" // of the gateways, for this run only

// run is the whole of it. The report is nil when nothing could be started.
func run(ctx context.Context, o options) (_ *report, err error) {
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	c := &chaos{o: o, report: newReport(o.seed), active: map[string]*plan{}, sought: map[string]time.Time{}}
	if c.root, err = moduleRoot(ctx); err != nil {
		return nil, err
	}
	if c.dir, err = os.MkdirTemp("", "chaos"); err != nil {
		return nil, err
	}
	defer func() {
		if !o.keep && err == nil && len(c.report.misses()) == 0 {
			os.RemoveAll(c.dir)
			return
		}
		c.report.dir = c.dir
	}()
	if c.timeline, err = os.Create(filepath.Join(c.dir, "timeline.txt")); err != nil {
		return nil, err
	}
	defer c.timeline.Close()
	fmt.Fprintf(o.out, "seed %d; building\n", o.seed)
	if err := c.build(ctx); err != nil {
		return nil, err
	}
	c.spawn = newSpawner()
	defer c.spawn.close()
	defer c.sweep()
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(o.out, "%d clients, %s\n", o.clients, o.length)
	c.report.began = time.Now()
	c.disturb("")() // hosts judge nobody at first
	beating, stop := context.WithCancel(ctx)
	var pulse sync.WaitGroup
	pulse.Go(func() { c.pulse(beating) })
	c.rage(ctx)
	stop()
	pulse.Wait()
	return c.report, ctx.Err()
}

// quiet is where go-redis's own remarks go.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// build makes the binary, the plugins and their configuration.
func (c *chaos) build(ctx context.Context) error {
	c.binary = filepath.Join(c.dir, "sluice")
	do := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = c.root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := do("go", "build", "-o", c.binary, "."); err != nil {
		return err
	}
	for name, manifest := range map[string]string{
		"echo": "plugins/echo/native.yaml", "echo-sandbox": "plugins/echo/sandbox.yaml", "openai": "plugins/openai/sandbox.yaml",
	} {
		if err := do(c.binary, "plugin", "build", manifest, filepath.Join(c.dir, "plugins", name)); err != nil {
			return err
		}
	}
	var err error
	if c.upstream, err = newUpstream(c.report); err != nil {
		return err
	}
	base := c.upstream.base
	return os.WriteFile(filepath.Join(c.dir, "sluice.yaml"), fmt.Appendf(nil, `
log: {level: info}
gateway: {addr: "127.0.0.1:0", grace: 1s, auth: {mode: hs256, secret: %q}}
host: {ttl: 3m, grace: 2s, concurrency: 100}
plugins:
  dirs: [%q]
  cache_dir: %q
  config:
    openai: {settings: {base_url: %q}, allow_private: [%q]}
`, secret, filepath.Join(c.dir, "plugins"), filepath.Join(c.dir, "cache"), base, strings.TrimPrefix(base, "http://")), 0o600)
}

// start brings everything up.
func (c *chaos) start(ctx context.Context) error {
	redis.SetLogger(quiet{}) // that Redis is away is no news here
	c.redis = &redisServer{c: c, socket: filepath.Join(c.dir, "redis.sock")}
	o := config.RedisDefaults()
	o.Addrs = []string{c.redis.socket}
	c.rdb = redis.NewUniversalClient(o)
	c.store = job.NewStore(c.rdb, job.Options{TTL: 3 * time.Minute})
	c.tickets = job.NewQueue(c.rdb)
	if err := c.redis.start(ctx); err != nil {
		return err
	}
	for _, name := range []string{"host1", "host2", "gateway1", "gateway2"} {
		m := &member{c: c, name: name, word: strings.TrimRight(name, "12")}
		var err error
		if m.way, err = newProxy(filepath.Join(c.dir, name+".sock"), c.redis.socket); err != nil {
			return err
		}
		if m.word == "host" {
			c.hosts = append(c.hosts, m)
		} else {
			c.gateways = append(c.gateways, m)
		}
		if err := m.start(ctx, false); err != nil {
			return err
		}
	}
	return nil
}

// rage streams and breaks until the time is over, then makes everything whole
// and sees to it that everything has come to its end.
func (c *chaos) rage(ctx context.Context) {
	breaking, heal := context.WithTimeout(ctx, c.o.length)
	defer heal()
	streaming, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var clients, lanes sync.WaitGroup
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(c.o.seed, n)) }
	for i := range c.o.clients {
		clients.Go(func() { c.client(streaming, breaking, fmt.Sprintf("user%d", i), random(uint64(i))) })
	}
	gaps := func(rng *rand.Rand, least, most int) func() time.Duration {
		return func() time.Duration { return between(rng, least, most) }
	}
	first, second := random(1001), random(1002)
	lanes.Go(func() { c.lane(breaking, first, c.core(), gaps(first, 500, 7000)) })
	lanes.Go(func() { c.lane(breaking, second, c.edge(), gaps(second, 300, 4000)) })
	lanes.Wait()
	c.note("whole again")

	all := make(chan struct{})
	go func() {
		clients.Wait()
		c.audits.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(settleTimeout):
		c.unfinished(ctx)
		hangUp()
		<-all
	case <-ctx.Done():
		<-all
		return
	}
	c.drained(ctx)
}

// client is one user, asking one thing after the other.
func (c *chaos) client(ctx, breaking context.Context, user string, rng *rand.Rand) {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": user}).SignedString([]byte(secret))
	if err != nil {
		panic(err) // of a constant key and a text
	}
	first := &tab{c: c, user: user, token: token, name: "first", rng: rng}
	defer first.close()
	for pause(breaking, time.Duration(rng.IntN(600))*time.Millisecond) {
		p := newPlan(rng, user)
		v := &view{plan: p, name: "first", r: c.report}
		views := []*view{v}
		var second sync.WaitGroup
		seed := rng.Uint64()
		accepted := func() {
			c.report.accept()
			c.mu.Lock()
			c.active[p.id] = p
			c.mu.Unlock()
			if p.tab {
				other := &view{plan: p, name: "second", r: c.report}
				views = append(views, other)
				second.Go(func() { c.secondTab(ctx, other, token, rand.New(rand.NewPCG(seed, 2))) })
			}
		}
		started := p.policy != ""
		if started {
			// A tab that is open is shown the job by itself. One that asks for
			// all of it meanwhile gets what it asks for, a second time.
			first.close()
			if c.create(ctx, p) != nil {
				return
			}
			accepted()
		}
		reconnects, err := first.see(ctx, v, started, accepted)
		second.Wait()
		c.seen(v, reconnects)
		c.mu.Lock()
		_, begun := c.active[p.id]
		c.mu.Unlock()
		if err == nil && begun {
			c.audits.Go(func() { c.audit(ctx, p, views...) })
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *chaos) secondTab(ctx context.Context, v *view, token string, rng *rand.Rand) {
	if !pause(ctx, time.Duration(rng.IntN(1500))*time.Millisecond) {
		return
	}
	t := &tab{c: c, user: v.plan.user, token: token, name: v.name, rng: rng}
	defer t.close()
	reconnects, _ := t.see(ctx, v, true, nil) // its error is ctx's
	c.seen(v, reconnects)
}

// seen enters a stream into the report.
func (c *chaos) seen(v *view, reconnects int) {
	frames, end, code := v.seen()
	if end == "" {
		return
	}
	if code != "" {
		end += " " + code
	}
	c.report.stream(end, frames, reconnects)
}

// create makes a job as another program would, without a gateway.
func (c *chaos) create(ctx context.Context, p *plan) error {
	params, err := jsonOf(p.params)
	if err != nil {
		return err
	}
	j := job.Job{ID: p.id, User: p.user, Query: p.query, Models: []string{p.model}, Params: params, Policy: p.policy, Priority: p.priority}
	for {
		_, _, err := c.store.Create(ctx, j)
		if err == nil {
			err = c.tickets.Enqueue(ctx, job.Ticket{Job: p.id, Attempt: 1}, p.priority, 0)
		}
		if err == nil || !pause(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// cancelled notes that a cancel was accepted, and when it had been sent: from
// then on the job has one end only.
func (c *chaos) cancelled(p *plan, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.sought[p.id]; !again {
		c.sought[p.id] = at
	}
}

// runningOn reads which of the active jobs a host runs, and their attempts.
func (c *chaos) runningOn(ctx context.Context, host string) map[string]int64 {
	c.mu.Lock()
	var ids []string
	for id := range c.active {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	running := map[string]int64{}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, id := range ids {
		if st, err := c.store.Status(ctx, id); err == nil && st.State == job.StateRunning && st.Host == host {
			running[id] = st.Attempt
		}
	}
	return running
}

// persist does something to Redis until it succeeds.
func (c *chaos) persist(do func(context.Context) error) {
	for range 200 {
		if do(context.Background()) == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *chaos) note(format string, args ...any) {
	fmt.Fprintf(c.timeline, "%s %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// sweep stops everything, in order where that is possible, and whatever is left.
func (c *chaos) sweep() {
	var stopping sync.WaitGroup
	for _, m := range append(c.gateways, c.hosts...) {
		m.way.mend()
		if p := m.process(); p != nil {
			p.signal(syscall.SIGCONT)
			stopping.Go(m.stop)
		}
	}
	stopping.Wait()
	for range 40 { // plugins end with their host
		if len(inFolder(c.dir)) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, pid := range inFolder(c.dir) {
		c.report.left.add("process %d", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, m := range append(c.gateways, c.hosts...) {
		m.way.close()
	}
	if c.redis != nil && c.redis.p != nil {
		c.redis.p.end(syscall.SIGTERM)
		if !c.redis.p.gone(10 * time.Second) {
			c.redis.p.end(syscall.SIGKILL)
			c.redis.p.gone(10 * time.Second)
		}
	}
	if c.rdb != nil {
		_ = c.rdb.Close()
	}
	if c.upstream != nil {
		c.upstream.close()
	}
}
