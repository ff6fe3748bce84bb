// Package queue takes tickets from asynq the moment they are there.
//
// asynq polls: a worker that finds its queues empty sleeps for about a second.
// It also retries its bookkeeping with a dead context after an outage of Redis
// (and so runs finished tasks again), loses a task when the reply to a dequeue
// is lost, takes nothing while Redis is out of memory, and rounds the time of a
// retry down to whole seconds. All of its state changes are Lua scripts whose
// KEYS tell which one it is, and it accepts any redis.UniversalClient. So a
// Queue hands it a client of its own, recognises the scripts as they pass, and
// repairs each of these without a fork:
//
//   - a queue known to be empty is answered here; with all of them empty the
//     call blocks until somebody rings (gate.go, bell.go)
//   - tasks are taken several in a round trip, never by a command that is sent
//     twice, and stamped with the owner so that those whose reply was lost are
//     found again (claim.go); under load the next are on their way while the last
//     are handed out (ahead.go)
//   - a handler that is done doesn't wait until Redis knows it: the ends of tasks
//     go along with the next claim (done.go)
//   - the end of a task is written with a live context until Redis is back
//     (done.go, settle.go)
//   - times are kept to the millisecond, and the forwarder sleeps until the
//     first of them (delay.go)
//   - a task that its handler can't run for want of something only some tasks
//     need waits in a room, not in a handler (room.go)
//
// What is not here: who owns a job, whether an attempt is stale, cancelling.
// That is in the job's own record (package job); a ticket may be delivered
// twice, and its handler must find out from the record that it is too late.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// Options say what to take and how. The zero value of a field means the default
// named with it; Redis, Owner and Queues are required.
type Options struct {
	// Redis is shared, and not closed. Single, Sentinel or Cluster.
	Redis redis.UniversalClient
	// Owner is the id of this host, stamped on every task it takes. No two live
	// hosts may share one. See Reclaim.
	Owner string
	// Queues maps queue names to weights: with all of them full, tasks are taken
	// in this proportion.
	Queues map[string]int
	// Strict serves a queue only while those of higher weight are empty.
	Strict bool
	// Concurrency is how many handlers may run at once. Default 100.
	Concurrency int
	// Batch is how many tasks are taken in one round trip at most, and never more
	// than there are handlers free. Default 64; 1 spreads bursts over the hosts.
	Batch int
	// Admit, when not nil, is asked before tasks of a queue are taken, how many
	// more of them may start now; have is how many of them this host has (taken
	// and not ended). A limit is `return limit - have`. After a no (0 or less) it
	// is asked again when a task of the queue ends or is rung for, when Wake is
	// called, and once per Fallback. It is called from one goroutine and must not
	// block.
	Admit func(queue string, have int) int
	// Rooms, when not nil, say when tasks come back that handlers have sent to
	// wait (Wait). They come before those that were never taken.
	Rooms Rooms
	// Fallback is the mean time between two looks at Redis when nobody rings: a
	// lost wake-up costs at most one and a half of it. Default 1 s.
	Fallback time.Duration
	// RetryDelay is how long a task waits whose handler returned an error, when
	// the error doesn't say (see After). retried counts from 0. The default
	// doubles from 200 ms to 30 s, with jitter.
	RetryDelay func(retried int, err error) time.Duration
	// Grace is how long handlers may go on after Serve's context has ended.
	// Default 30 s; negative means not at all.
	Grace time.Duration
	// Abandon is how long a handler may take to return once its context has been
	// cancelled, after that it is left behind. Default 10 s.
	Abandon time.Duration
	// Log also receives what asynq logs. Default: nothing is logged.
	Log *slog.Logger
}

// ErrStopping is the cause (context.Cause) of a handler's context that was
// cancelled because the host stops and its grace is over: hand the job over
// and return nil.
var ErrStopping = errors.New("host is stopping")

// ErrHandler reports that handlers did not return after their context was cancelled.
var ErrHandler = errors.New("handlers did not return")

// A Queue feeds one asynq server. Its methods are safe for concurrent use.
type Queue struct {
	opt     Options
	log     *slog.Logger
	flags   flags
	n       counters
	health  *health
	gate    *gate
	claims  *claims
	settler *settler
	clerk   *clerk
	delays  *delays
	client  *client
	crew    crew
	served  atomic.Bool
	plain   atomic.Bool // asynq is on its own; set before it starts

	// recognise tells whether asynq's scripts are those we know.
	recognise func() error
}

// New prepares a queue. Nothing runs and nothing is sent before Serve.
func New(opt Options) *Queue {
	if opt.Concurrency <= 0 {
		opt.Concurrency = 100
	}
	if opt.Batch <= 0 {
		opt.Batch = 64
	}
	if opt.Fallback <= 0 {
		opt.Fallback = time.Second
	}
	if opt.RetryDelay == nil {
		opt.RetryDelay = retryDelay
	}
	if opt.Grace == 0 {
		opt.Grace = 30 * time.Second
	}
	opt.Grace = max(opt.Grace, 0)
	if opt.Abandon <= 0 {
		opt.Abandon = 10 * time.Second
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{opt: opt, log: opt.Log, recognise: recognised}
	q.health = &health{log: q.log}
	q.claims = &claims{
		rdb: opt.Redis, owner: opt.Owner, concurrency: opt.Concurrency, batch: opt.Batch,
		flags: &q.flags, n: &q.n, health: q.health, ring: q.ring,
		known: map[string]map[string]*claim{}, busy: map[string]int{}, held: map[string][]held{}, doubt: make(chan struct{}, 1),
	}
	q.gate = &gate{
		lines: map[string]*line{}, claims: q.claims, admit: opt.Admit, rooms: opt.Rooms, fallback: opt.Fallback,
		rdb: opt.Redis, health: q.health, n: &q.n,
		woken: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	q.delays = &delays{
		rdb: opt.Redis, flags: &q.flags, n: &q.n, health: q.health, ring: q.ring, stopped: q.gate.stopped,
		sets: map[string]*set{}, changed: make(chan struct{}, 1),
	}
	for name := range opt.Queues {
		l := &line{name: name}
		q.gate.lines[name] = l
		q.gate.order = append(q.gate.order, l)
		for _, kind := range []string{"scheduled", "retry"} {
			s := &set{queue: name}
			q.delays.sets[keyOf(name, kind)] = s
			q.delays.order = append(q.delays.order, s)
		}
	}
	hurry := make(chan struct{})
	q.settler = &settler{rdb: opt.Redis, n: &q.n, health: q.health, hurry: hurry}
	q.clerk = &clerk{
		rdb: opt.Redis, flags: &q.flags, n: &q.n, health: q.health, claims: q.claims, hurry: hurry,
		room: make(chan struct{}, backlog), more: make(chan struct{}, 1), now: make(chan struct{}, 1),
		piles: map[string]*pile{},
	}
	q.claims.clerk = q.clerk
	q.client = &client{UniversalClient: opt.Redis, q: q}
	q.crew.left = make(chan struct{}, 1)
	return q
}

func (q *Queue) check() error {
	switch {
	case q.opt.Redis == nil:
		return errors.New("queue has no Redis")
	case q.opt.Owner == "":
		return errors.New("queue has no owner")
	case len(q.opt.Queues) == 0:
		return errors.New("queue has no names to take from")
	}
	for name, weight := range q.opt.Queues {
		if name == "" || weight <= 0 {
			return fmt.Errorf("queue %q has weight %d", name, weight)
		}
	}
	return nil
}

// Serve takes tasks and runs h on them, until ctx ends; then it stops in order
// and returns nil once everything it started has ended:
//
//  1. no further task is taken; what was taken but not started goes back
//  2. handlers go on for up to Grace
//  3. the contexts of the rest are cancelled with cause ErrStopping
//
// The context of a handler ends for no other reason: neither asynq's deadline
// and cancellation nor a lost lease reach it. (The lease of a ticket says
// nothing about who owns the job.) Its values are asynq's, so asynq.GetTaskID
// and the like work.
//
// A handler that returns nil, or asynq.RevokeTask, is done with the task. On
// another error the task is retried after the time the error asks for (After),
// or Options.RetryDelay; asynq.SkipRetry archives it.
//
// Serve may be called once. It fails at once when the options can't be used,
// and with ErrHandler when handlers had to be left behind.
func (q *Queue) Serve(ctx context.Context, h asynq.Handler) error {
	if err := q.check(); err != nil {
		return err
	}
	if q.served.Swap(true) {
		return errors.New("queue was served before")
	}
	work, cancelWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelWork(nil)
	side, cancelSide := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSide()
	var helpers errgroup.Group

	rdb, look, forward := redis.UniversalClient(q.client), time.Duration(1), time.Millisecond
	if err := q.recognise(); err != nil {
		// Slower and with asynq's own faults, but it runs.
		q.log.Warn("asynq is not the version this was made for, polling it every 10 ms", "error", err)
		q.plain.Store(true)
		rdb, look, forward = q.opt.Redis, 10*time.Millisecond, time.Second
	} else {
		b := &bell{wake: q.heard, quiet: quietFor}
		for _, subscribe := range subscriptions(q.opt.Redis, q.gate.order) {
			helpers.Go(func() error { return b.listen(side, subscribe) })
		}
		for _, l := range q.gate.order {
			q.claims.suspect(l) // an earlier life of this host may have left something
		}
		helpers.Go(func() error { return q.claims.heal(side, q.gate.order) })
		helpers.Go(func() error { return q.clerk.run(side) })
	}
	text := asynqLog{q.log}
	server := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency:              q.opt.Concurrency,
		Queues:                   q.opt.Queues,
		StrictPriority:           q.opt.Strict,
		TaskCheckInterval:        look,
		DelayedTaskCheckInterval: forward,
		ShutdownTimeout:          q.opt.Grace + q.opt.Abandon,
		RetryDelayFunc:           q.retryDelay,
		Logger:                   text,
		LogLevel:                 text.level(),
	})
	err := server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		return q.handle(work, ctx, h, t)
	}))
	if err != nil {
		cancelSide()
		return errors.Join(fmt.Errorf("start asynq: %w", err), helpers.Wait())
	}
	<-ctx.Done()
	err = q.stop(server, cancelWork)
	cancelSide()
	return errors.Join(err, helpers.Wait())
}

// stop is the orderly end of Serve.
func (q *Queue) stop(server *asynq.Server, cancelWork context.CancelCauseFunc) error {
	ctx := context.Background()
	q.gate.stop()
	server.Stop()
	_ = q.gate.collect() // what a claim on its way brings goes back, too
	if err := q.claims.release(ctx, q.gate.order); err != nil {
		q.log.Warn("tasks not given back, they wait for their lease to expire", "error", err)
	}
	down := make(chan struct{})
	go func() {
		defer close(down)
		server.Shutdown() // waits for the handlers, and for their ends to be written
	}()
	grace := time.AfterFunc(q.opt.Grace, func() { cancelWork(ErrStopping) })
	defer grace.Stop()
	end, cancel := context.WithTimeout(ctx, q.opt.Grace+q.opt.Abandon)
	defer cancel()
	q.crew.wait(end)
	// All handlers have returned, or never will. Redis gets a last chance to hear
	// how they ended.
	hurry := time.AfterFunc(lastChance, func() { close(q.settler.hurry) })
	defer hurry.Stop()
	select {
	case <-down:
	case <-time.After(lastChance + stuckAfter):
		return errors.New("asynq does not stop: Redis neither answers nor fails")
	}
	q.clerk.flush()
	if left := q.crew.size(); left > 0 {
		return fmt.Errorf("%d of them: %w", left, ErrHandler)
	}
	return nil
}

// lastChance is how long a stopping host tries to write the ends of its tasks
// while Redis is away. The job's record has them already, or is lost with them.
const lastChance = 3 * time.Second

// stuckAfter bounds what asynq itself does when it stops. Each of its commands
// has the client's timeouts, but for one: it waits without one for its own
// subscription to be confirmed.
const stuckAfter = time.Minute

// handle runs one task. work ends when the host's grace is over; task is the
// context that asynq made.
func (q *Queue) handle(work, task context.Context, h asynq.Handler, t *asynq.Task) error {
	q.crew.enter()
	defer q.crew.leave()
	id, _ := asynq.GetTaskID(task)
	queue, _ := asynq.GetQueueName(task)
	var at time.Time
	defer func() { q.claims.returned(taskID{queue, id}, at) }()
	err := h.ProcessTask(taskContext{work, task}, t)
	if err == nil || errors.Is(err, asynq.RevokeTask) || errors.Is(err, asynq.SkipRetry) {
		return err
	}
	if w, ok := errors.AsType[*waitError](err); ok && q.CanWait() {
		q.claims.wait(taskID{queue, id}, w)
		return w
	}
	retried, _ := asynq.GetRetryCount(task)
	at = time.Now().Add(waitOf(err, retried, q.opt.RetryDelay))
	return &retryError{err, at}
}

// retryDelay is asynq's RetryDelayFunc.
func (q *Queue) retryDelay(retried int, err error, _ *asynq.Task) time.Duration {
	wait := time.Duration(0)
	if r := (*retryError)(nil); errors.As(err, &r) {
		wait = time.Until(r.at)
	} else {
		wait = waitOf(err, retried, q.opt.RetryDelay) // asynq's own errors, and panics
	}
	if q.plain.Load() {
		wait += time.Second // it will round the time down to a whole second
	}
	return wait
}

// A taskContext ends with the host's work and has the values of asynq's context.
type taskContext struct {
	context.Context // of the work
	task            context.Context
}

// Value implements context.Context.
func (c taskContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.task.Value(key)
}

// Wake says that the queue ("" = all) may have got a task, or that Admit may
// have changed its mind. A needless call costs one round trip.
func (q *Queue) Wake(queue string) { q.gate.wake(queue) }

// heard is a ring from Redis.
func (q *Queue) heard(queue string) {
	if queue, room, ok := cutRing(queue); ok {
		q.roomRung(queue, room)
		return
	}
	if queue == "" {
		q.roomRung("", "")
	}
	q.delays.look(queue)
	q.gate.wake(queue) // last: the goroutine woken last runs first
}

// room: a task of the queue has ended, so Admit may let in another.
func (q *Queue) room(queue string) {
	if q.opt.Admit != nil {
		q.gate.wake(queue)
	}
}

// ring wakes this host and all others.
func (q *Queue) ring(queue string) {
	q.gate.wake(queue)
	if err := ring(context.Background(), q.opt.Redis, queue); err != nil {
		q.n.errors.Add(1) // the others find the task by themselves, later
	}
}

// Client is the client asynq is given. A process that serves a queue and also
// puts tasks into it with an asynq.Client should make that from this one
// (asynq.NewClientFromRedisClient): then the queue wakes without a detour, all
// other hosts are rung, and a delay noted with DueAt is kept to the millisecond.
func (q *Queue) Client() redis.UniversalClient { return q.client }

// Stats counts. All but Running only ever grow.
type Stats struct {
	Claims    int64 // round trips that asked Redis for tasks
	Taken     int64 // tasks got by them
	Local     int64 // dequeues answered without Redis
	Waits     int64 // times all queues were empty
	Wakes     int64 // rings and calls of Wake
	Fallbacks int64 // waits ended by the timer
	Errors    int64 // Redis calls that failed
	Healed    int64 // tasks found again after a lost reply
	Repeated  int64 // ends of tasks that had to be sent again
	Running   int64 // handlers running now
}

type counters struct {
	claims, taken, local, waits, wakes, fallbacks, errors, healed, repeated atomic.Int64
}

// Stats tells what the queue has done so far.
func (q *Queue) Stats() Stats {
	n := &q.n
	return Stats{
		Claims: n.claims.Load(), Taken: n.taken.Load(), Local: n.local.Load(), Waits: n.waits.Load(),
		Wakes: n.wakes.Load(), Fallbacks: n.fallbacks.Load(), Errors: n.errors.Load(),
		Healed: n.healed.Load(), Repeated: n.repeated.Load(), Running: int64(q.crew.size()),
	}
}

// A crew counts the handlers that run.
type crew struct {
	mu   sync.Mutex
	n    int
	left chan struct{} // capacity 1: the last one left
}

func (c *crew) enter() {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
}

func (c *crew) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 {
		select {
		case c.left <- struct{}{}:
		default:
		}
	}
}

func (c *crew) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// wait returns when nobody is left, or when ctx ends.
func (c *crew) wait(ctx context.Context) {
	for c.size() > 0 {
		select {
		case <-c.left:
		case <-ctx.Done():
			return
		}
	}
}
