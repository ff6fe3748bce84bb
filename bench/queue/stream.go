package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	hosts "github.com/sluicehq/sluice/host"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// A whole is a host with a provider of its own process, and what a gateway has:
// a store, a queue and a tail.
type whole struct {
	store   *job.Store
	tasks   *job.Queue
	tail    *job.Tail
	reports chan hosts.Report
	stop    func() error
}

// paced emits as many tokens as it is asked for, at a rate per second.
var paced = sdk.Provider{
	Name: "paced", Version: "1.0.0", Models: []sdk.Model{{Name: "paced"}},
	Generate: func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
		var n, rate int
		if _, err := req.Option("tokens", &n); err != nil {
			return err
		}
		if _, err := req.Option("rate", &rate); err != nil {
			return err
		}
		begin := time.Now()
		for i := range n {
			if rate > 0 {
				sleep(ctx, time.Until(begin.Add(time.Duration(i)*time.Second/time.Duration(rate))))
			}
			if err := emit(sdk.Text("token ")); err != nil {
				return err
			}
		}
		return nil
	},
}

func (b *bench) whole(ctx context.Context) (*whole, error) {
	c := config.Default()
	c.Host.ID, c.Host.Grace = "bench", time.Second
	rdb, gateway := b.redis.client(), b.redis.client()
	if err := rdb.FlushDB(ctx).Err(); err != nil { // else it would take over what the other parts left
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &whole{store: job.NewStore(gateway, job.Options{}), tasks: job.NewQueue(gateway), reports: make(chan hosts.Report, 1024)}
	w.tail = job.NewTail(w.store, slog.New(slog.DiscardHandler), job.TailOptions{})
	ready, ended, tailed := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- hosts.Run(ctx, hosts.Options{
			Config: c, Redis: rdb, Log: b.log, Providers: []sdk.Provider{paced}, Ready: func() { close(ready) },
			Report: func(r hosts.Report) {
				select {
				case w.reports <- r:
				default:
				}
			},
		})
	}()
	go func() { tailed <- w.tail.Run(ctx) }()
	w.stop = func() error {
		cancel()
		err := <-ended
		<-tailed
		rdb.Close()
		gateway.Close()
		return err
	}
	select {
	case <-ready:
		return w, nil
	case err := <-ended:
		ended <- err
		return nil, errors.Join(errors.New("the host does not start"), w.stop())
	}
}

// ask has a job answered; first is the time from Enqueue to its first chunk.
func (b *bench) ask(ctx context.Context, w *whole, tokens, rate int) (first time.Duration, err error) {
	t, started := b.ticket(), time.Now()
	params := fmt.Appendf(nil, `{"tokens":%d,"rate":%d}`, tokens, rate)
	if _, _, err := w.store.Create(ctx, job.Job{ID: t.Job, User: "bench", Models: []string{"paced"}, Query: "q", Params: params}); err != nil {
		return 0, err
	}
	var got atomic.Int64 // since started
	done := make(chan struct{})
	stop := w.tail.Watch(t.Job, 0, job.WatchFunc(func(frames []job.Frame) {
		for _, f := range frames {
			if f.Event == job.EventChunk {
				got.CompareAndSwap(0, int64(time.Since(started)))
			}
			if f.Event == job.EventComplete || f.Event == job.EventError {
				close(done)
			}
		}
	}), 0)
	defer stop()
	sleep(ctx, 3*time.Millisecond) // a gateway subscribes before it creates the job
	begin := time.Since(started)
	if err := w.tasks.Enqueue(ctx, t, "default", 0); err != nil {
		return 0, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if got.Load() == 0 {
		return 0, errors.New("an answer without a chunk")
	}
	return time.Duration(got.Load()) - begin, nil
}

// firstChunk is what lies between the gateway's Enqueue and the first chunk in
// its hands: queue, host and log, without a model.
func (b *bench) firstChunk(ctx context.Context) error {
	w, err := b.whole(ctx)
	if err != nil {
		return err
	}
	var ping, ours []float64
	for i := range 20 + 2*b.samples {
		d, err := b.ask(ctx, w, 1, 0)
		if err != nil {
			return errors.Join(err, w.stop())
		}
		p, err := b.pings(ctx, 1, []int{2 + i%19})
		if err != nil {
			return errors.Join(err, w.stop())
		}
		if i >= 20 { // the first are to warm up
			ours, ping = append(ours, ms(d)), append(ping, p...)
		}
	}
	b.head("Enqueue to the first chunk at the gateway, in-process provider (ms)")
	b.row("PING", at(ping), "")
	b.row("sluice", at(ours), "no target of its own")
	return w.stop()
}

// writes is what a stream costs Redis at the pace of real models.
func (b *bench) writes(ctx context.Context) error {
	w, err := b.whole(ctx)
	if err != nil {
		return err
	}
	const d = 3 // seconds
	b.head(fmt.Sprintf("Redis writes per 1,000 tokens (streams of %d s, scaled)", d))
	for _, c := range []struct {
		rate int
		most float64
	}{{20, 1000}, {100, 400}, {500, 100}} {
		for len(w.reports) > 0 {
			<-w.reports
		}
		n := d * c.rate
		if _, err := b.ask(ctx, w, n, c.rate); err != nil {
			return errors.Join(err, w.stop())
		}
		var r hosts.Report
		select {
		case r = <-w.reports:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.Model != "paced" || r.Appends == 0 {
			return errors.Join(fmt.Errorf("not the report of a stream: %+v", r), w.stop())
		}
		seen := float64(r.Appends) * 1000 / float64(n)
		b.row(fmt.Sprintf("%d tokens/s", c.rate), fmt.Sprintf("%.0f", seen), verdict(seen <= c.most, fmt.Sprintf("≤ %.0f", c.most)))
	}
	return w.stop()
}

// sent counts the commands that a client sends.
type sent struct{ n atomic.Int64 }

// DialHook implements redis.Hook.
func (*sent) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (s *sent) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s.n.Add(1)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (s *sent) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		s.n.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}
