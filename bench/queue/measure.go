package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/host/queue"
	"github.com/sluicehq/sluice/proto/job"
)

type bench struct {
	options
	redis *server
	bull  *node
	log   *slog.Logger
	out   io.Writer
	ids   atomic.Int64
}

func (b *bench) ticket() job.Ticket {
	return job.Ticket{Job: "bench" + strconv.FormatInt(b.ids.Add(1), 10), Attempt: 1}
}

// A host serves tickets until stop.
type host struct {
	q     *queue.Queue
	rdb   *redis.Client
	stop  func() error
	tasks *job.Queue // of a gateway: a client of its own
}

func (b *bench) host(ctx context.Context, concurrency int, h asynq.HandlerFunc) *host {
	rdb, gateway := b.redis.client(), b.redis.client()
	q := queue.New(queue.Options{Redis: rdb, Owner: "bench", Queues: job.Queues(), Concurrency: concurrency, Log: b.log})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- q.Serve(ctx, h) }()
	return &host{q: q, rdb: rdb, tasks: job.NewQueue(gateway), stop: func() error {
		cancel()
		err := <-ended
		rdb.Close()
		gateway.Close()
		return err
	}}
}

// gaps are the pauses between two jobs of an idle host.
func gaps() []int {
	g := make([]int, 64)
	for i := range g {
		g[i] = 2 + rand.IntN(19)
	}
	return g
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// probe measures one pickup after another: the call of Enqueue begins -> the
// handler is entered.
func (b *bench) probe(ctx context.Context, n int, gaps []int) ([]float64, error) {
	entered := make(chan time.Time, 1)
	h := b.host(ctx, 10, func(context.Context, *asynq.Task) error {
		entered <- time.Now()
		return nil
	})
	once := func() (float64, error) {
		begin := time.Now()
		if err := h.tasks.Enqueue(ctx, b.ticket(), "default", 0); err != nil {
			return 0, err
		}
		select {
		case at := <-entered:
			return ms(at.Sub(begin)), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	for range 20 {
		if _, err := once(); err != nil {
			return nil, err
		}
	}
	var all []float64
	for i := range n {
		sleep(ctx, time.Duration(gaps[i%len(gaps)])*time.Millisecond)
		v, err := once()
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, h.stop()
}

func (b *bench) pings(ctx context.Context, n int, gaps []int) ([]float64, error) {
	rdb := b.redis.client()
	defer rdb.Close()
	var all []float64
	for i := range n {
		sleep(ctx, time.Duration(gaps[i%len(gaps)])*time.Millisecond)
		begin := time.Now()
		if err := rdb.Ping(ctx).Err(); err != nil {
			return nil, err
		}
		all = append(all, ms(time.Since(begin)))
	}
	return all, nil
}

// meanwhile pings until the returned function is called, which gives what it saw:
// how noisy the machine was.
func (b *bench) meanwhile(ctx context.Context) func() []float64 {
	ctx, cancel := context.WithCancel(ctx)
	seen := make(chan []float64, 1)
	go func() {
		var all []float64
		for ctx.Err() == nil {
			if some, err := b.pings(ctx, 20, []int{5}); err == nil {
				all = append(all, some...)
			}
		}
		seen <- all
	}()
	return func() []float64 {
		cancel()
		return <-seen
	}
}

func (b *bench) pickup(ctx context.Context) error {
	var ping, ours, bull []float64
	for range b.rounds {
		g := gaps()
		p, err := b.pings(ctx, b.samples, g)
		if err != nil {
			return err
		}
		o, err := b.probe(ctx, b.samples, g)
		if err != nil {
			return err
		}
		ping, ours = append(ping, p...), append(ours, o...)
		if b.bull != nil {
			a, err := b.bull.ask(map[string]any{"op": "pickup", "n": b.samples, "gaps": g})
			if err != nil {
				return err
			}
			bull = append(bull, a.MS...)
		}
	}
	b.head("pickup, idle, one at a time (ms)")
	b.row("PING", at(ping), "")
	b.row("sluice", at(ours), "")
	if bull != nil {
		b.row("BullMQ", at(bull), "")
		b.row("p50 sluice / BullMQ", fmt.Sprintf("%.2f", p(ours, 50)/p(bull, 50)), verdict(p(ours, 50) <= 0.6*p(bull, 50), "≤ 0.6"))
	}
	b.row("p50", fmt.Sprintf("%.2f ms", p(ours, 50)), verdict(p(ours, 50) <= 1.5, "≤ 1.5 ms"))
	b.row("p99", fmt.Sprintf("%.2f ms, %.1f × PING's", p(ours, 99), p(ours, 99)/p(ping, 99)),
		verdict(p(ours, 99) <= 15 || p(ours, 99) <= 3*p(ping, 99), "≤ 15 ms or ≤ 3 × PING's"))
	return nil
}

// killed is pickup while every pub/sub connection is killed again and again.
func (b *bench) killed(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	kills := 0
	killing, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		rdb := b.redis.client()
		defer rdb.Close()
		for killing.Err() == nil {
			if n, err := rdb.ClientKillByFilter(killing, "TYPE", "pubsub").Result(); err == nil {
				kills += int(n)
			}
			sleep(killing, 30*time.Millisecond)
		}
	})
	pings := b.meanwhile(ctx)
	all, err := b.probe(ctx, 2*b.samples, gaps())
	stop()
	wg.Wait()
	ping := pings()
	if err != nil {
		return err
	}
	b.head("pickup with all pub/sub connections killed every 30 ms (ms)")
	b.row("PING", at(ping), "")
	b.row("sluice", at(all), fmt.Sprintf("%d killed", kills))
	b.row("p99", fmt.Sprintf("%.2f ms", p(all, 99)), verdict(p(all, 99) <= 25, "≤ 25 ms"))
	return nil
}

func (b *bench) idleHost(ctx context.Context) error {
	log := slog.New(slog.DiscardHandler)
	h := b.host(ctx, 100, func(context.Context, *asynq.Task) error { return nil })
	var wire sent
	h.rdb.AddHook(&wire)
	sleep(ctx, 7*time.Second) // past the looks at its start
	before := wire.n.Load()
	queueOnly, err := b.commands(ctx, b.idle)
	queueWire := float64(wire.n.Load()-before) / b.idle.Seconds()
	if err != nil {
		return err
	}
	alive, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	hosts := job.NewHosts(job.NewStore(h.rdb, job.Options{}), log, job.HostsOptions{})
	go func() {
		ended <- hosts.Announce(alive, job.HostInfo{ID: "bench"}, func(context.Context, string) {})
	}()
	sleep(ctx, time.Second)
	before = wire.n.Load()
	whole, err := b.commands(ctx, b.idle)
	wholeWire := float64(wire.n.Load()-before) / b.idle.Seconds()
	cancel()
	<-ended
	if err != nil {
		return err
	}
	b.head("idle host (Redis commands/s)")
	b.row("queue", fmt.Sprintf("%.1f sent, %.1f with those inside scripts", queueWire, queueOnly), "")
	b.row("queue and heartbeat", fmt.Sprintf("%.1f sent, %.1f with those inside scripts", wholeWire, whole), verdict(whole <= 12, "≤ 12"))
	return h.stop()
}

// commands is how many commands per second Redis runs.
func (b *bench) commands(ctx context.Context, d time.Duration) (float64, error) {
	rdb := b.redis.client()
	defer rdb.Close()
	read := func() (float64, error) {
		info, err := rdb.Info(ctx, "stats").Result()
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		n, _, _ := strings.Cut(rest, "\r")
		return strconv.ParseFloat(n, 64)
	}
	if err := rdb.Ping(ctx).Err(); err != nil { // connected before we count
		return 0, err
	}
	first, err := read()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	sleep(ctx, d)
	second, err := read()
	return (second - first - 1) / time.Since(begin).Seconds(), err
}

func (b *bench) throughput(ctx context.Context) error {
	b.head(fmt.Sprintf("no-op jobs/s, median of %d rounds of %d jobs", b.rounds, b.jobs))
	for _, c := range []struct {
		concurrency int
		want        float64
	}{{10, 1.5}, {100, 2}, {1000, 2.5}} {
		var ours, bull []float64
		for range b.rounds {
			v, err := b.noop(ctx, c.concurrency)
			if err != nil {
				return err
			}
			ours = append(ours, v)
			if b.bull != nil {
				a, err := b.bull.ask(map[string]any{"op": "noop", "n": b.jobs, "concurrency": c.concurrency})
				if err != nil {
					return err
				}
				bull = append(bull, float64(b.jobs)/a.Seconds)
			}
		}
		b.against(fmt.Sprint("concurrency ", c.concurrency), ours, bull, c.want)
	}
	return nil
}

// noop is the jobs per second of one round, from the start of the host.
func (b *bench) noop(ctx context.Context, concurrency int) (float64, error) {
	if _, err := b.fill(ctx, b.jobs, 16); err != nil {
		return 0, err
	}
	var left atomic.Int64
	left.Store(int64(b.jobs))
	done := make(chan struct{})
	begin := time.Now()
	h := b.host(ctx, concurrency, func(context.Context, *asynq.Task) error {
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil
	})
	select {
	case <-done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	// The last job counts when Redis has its end, as BullMQ's does.
	for h.rdb.LLen(ctx, "asynq:{"+job.QueueDefault+"}:active").Val() > 0 {
		sleep(ctx, time.Millisecond)
	}
	took := time.Since(begin)
	return float64(b.jobs) / took.Seconds(), h.stop()
}

// fill enqueues n tickets from several goroutines and returns them per second.
func (b *bench) fill(ctx context.Context, n, parallel int) (float64, error) {
	rdb := b.redis.client()
	defer rdb.Close()
	tasks := job.NewQueue(rdb)
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		fail atomic.Pointer[error]
	)
	begin := time.Now()
	for range parallel {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := tasks.Enqueue(ctx, b.ticket(), "default", 0); err != nil {
					fail.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := fail.Load(); err != nil {
		return 0, *err
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

func (b *bench) enqueue(ctx context.Context) error {
	var ours, bull []float64
	for range b.rounds {
		v, err := b.fill(ctx, b.jobs, 16)
		if err != nil {
			return err
		}
		ours = append(ours, v)
		rdb := b.redis.client()
		err = rdb.FlushDB(ctx).Err()
		rdb.Close()
		if err != nil {
			return err
		}
		if b.bull != nil {
			a, err := b.bull.ask(map[string]any{"op": "add", "n": b.jobs, "parallel": 16})
			if err != nil {
				return err
			}
			bull = append(bull, float64(b.jobs)/a.Seconds)
		}
	}
	b.head(fmt.Sprintf("enqueue/s, 16 at once, median of %d rounds", b.rounds))
	b.against("enqueue", ours, bull, 0)
	return nil
}

func (b *bench) retryAfter(ctx context.Context) error {
	const n = 60
	type wake struct{ due, at time.Time }
	woken := make(chan wake, n)
	var mu sync.Mutex
	due := map[string]time.Time{}
	h := b.host(ctx, n, func(ctx context.Context, _ *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		mu.Lock()
		defer mu.Unlock()
		if at, ok := due[id]; ok {
			woken <- wake{at, time.Now()}
			return nil
		}
		wait := time.Duration(300+rand.IntN(3000)) * time.Millisecond
		due[id] = time.Now().Add(wait)
		return queue.After(wait, fmt.Errorf("wait %v", wait))
	})
	pings := b.meanwhile(ctx)
	for range n {
		if err := h.tasks.Enqueue(ctx, b.ticket(), "default", 0); err != nil {
			return err
		}
	}
	var late []float64
	early := 0
	for range n {
		select {
		case w := <-woken:
			late = append(late, ms(w.at.Sub(w.due)))
			if w.at.Before(w.due) {
				early++
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.head("Retry-After of 0.3 to 3.3 s, how late (ms)")
	b.row("PING", at(pings()), "")
	b.row("sluice", at(late), "")
	b.row("early", fmt.Sprintf("%d of %d", early, n), verdict(early == 0, "0"))
	b.row("p99", fmt.Sprintf("+%.1f ms", p(late, 99)), verdict(p(late, 99) <= 150, "≤ +150 ms"))
	return h.stop()
}

// appends is how many frames per second one host can append and publish.
func (b *bench) appends(ctx context.Context) error {
	b.head("fenced append and publish (frames/s, one host)")
	for _, streams := range []int{1, 20} {
		rdb := b.redis.client()
		store := job.NewStore(rdb, job.Options{})
		each := max(1, 2*b.jobs/streams)
		var wg sync.WaitGroup
		var fail atomic.Pointer[error]
		var attempts []*job.Attempt
		for range streams {
			t := b.ticket()
			if _, _, err := store.Create(ctx, job.Job{ID: t.Job, User: "bench", Models: []string{"echo"}, Query: "q"}); err != nil {
				return err
			}
			a, err := store.Begin(ctx, t, "bench")
			if err != nil {
				return err
			}
			attempts = append(attempts, a)
		}
		begin := time.Now()
		for _, a := range attempts {
			wg.Go(func() {
				for range each {
					if err := a.Append(ctx, &job.Chunk{Chunk: "a few words of text "}); err != nil {
						fail.Store(&err)
						return
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		rdb.Close()
		if err := fail.Load(); err != nil {
			return *err
		}
		rate := float64(streams*each) / took.Seconds()
		b.row(fmt.Sprintf("%d stream(s)", streams), fmt.Sprintf("%.0f", rate), verdict(rate >= 5000, "≥ 5000"))
	}
	return nil
}
