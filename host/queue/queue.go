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
//     found again (claim.go)
//   - the end of a task is written with a live context, many in a round trip,
//     until Redis is back (settle.go)
//   - times are kept to the millisecond, and the forwarder sleeps until the
//     first of them (delay.go)
//
// What is not here: who owns a job, whether an attempt is stale, cancelling.
// That is in the job's own record (package job); a ticket may be delivered
// twice, and its handler must find out from the record that it is too late.
package queue

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
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
	// Admit, when not nil, is asked before tasks of a queue are taken, how many of
	// them may start now. After a no (0 or less) it is asked again when Wake is
	// called for the queue, and once per Fallback. It is called from one goroutine
	// and must not block.
	Admit func(queue string) int
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
	opt Options
}

// New prepares a queue. Nothing runs and nothing is sent before Serve.
func New(opt Options) *Queue { return &Queue{opt: opt} }

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
func (q *Queue) Serve(ctx context.Context, h asynq.Handler) error { return nil }

// Wake says that the queue ("" = all) may have got a task, or that Admit may
// have changed its mind. A needless call costs one round trip.
func (q *Queue) Wake(queue string) {}

// Client is the client asynq is given. Enqueue through it (give it to
// asynq.NewClientFromRedisClient, or to job.NewQueue) in the process that also
// serves, and the queue wakes without a detour, and a delay noted with DueAt is
// kept to the millisecond.
func (q *Queue) Client() redis.UniversalClient { return q.opt.Redis }

// Stats tells what the queue has done so far.
func (q *Queue) Stats() Stats { return Stats{} }

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

// After is err with the time to wait before the task is tried again. The task
// never runs before that time.
func After(wait time.Duration, err error) error { return err }

// DueAt makes a task scheduled with the context through Queue.Client due at
// exactly at. asynq alone knows whole seconds; without DueAt the task becomes
// due up to a second late, never early.
func DueAt(ctx context.Context, at time.Time) context.Context { return ctx }

// Reclaim gives back to the queues every task that owner had taken and not
// ended, and returns how many there were. Call it for a host known to be dead;
// it wakes the others.
func Reclaim(ctx context.Context, rdb redis.UniversalClient, owner string, queues ...string) (int, error) {
	return 0, nil
}
