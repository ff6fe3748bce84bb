package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// recheck is the mean time between two looks at a set of delayed tasks for those
// that another process put there. asynq's own is the same.
const recheck = 5 * time.Second

// glance is the least time between two looks at a set because of rings. A ring
// doesn't say whether the task is for now or for later.
const glance = 50 * time.Millisecond

// delays know when the next delayed task is due. asynq stores that as whole
// seconds, rounded down, and looks once in a while; here scores have a fraction,
// and the forwarder is held until the first of them has come.
//
// forward belongs to asynq's forwarder goroutine, the rest is safe for
// concurrent use.
type delays struct {
	rdb     redis.UniversalClient
	flags   *flags
	n       *counters
	health  *health
	ring    func(queue string)
	stopped <-chan struct{}

	mu      sync.Mutex
	sets    map[string]*set // by key: asynq:{q}:scheduled, asynq:{q}:retry
	order   []*set
	changed chan struct{} // capacity 1
}

type set struct {
	queue  string
	due    time.Time // of its first task, as far as we know; zero when we know of none
	again  time.Time // when to look anyway
	looked time.Time
	// What came while Redis was being asked: its answer may be older.
	noted time.Time // the earliest time noted
	rung  bool
}

// next is when the set needs Redis.
func (s *set) next() time.Time {
	if !s.due.IsZero() && s.due.Before(s.again) {
		return s.due
	}
	return s.again
}

// forward answers one call of asynq to move what is due in the set keys[0] to
// the pending list keys[1].
func (d *delays) forward(ctx context.Context, queue string, keys []string, args []any, run func(redis.Scripter, []any) *redis.Cmd) *redis.Cmd {
	d.mu.Lock()
	s := d.sets[keys[0]]
	if s == nil {
		d.mu.Unlock()
		return run(d.rdb, args)
	}
	if time.Now().Before(s.next()) {
		d.mu.Unlock()
		d.wait()
		return moved(ctx, 0)
	}
	s.noted, s.rung = time.Time{}, false
	d.mu.Unlock()
	at, err := d.first(ctx, keys[0])
	if err == nil && !at.IsZero() && !at.After(time.Now()) {
		args = append([]any(nil), args...)
		args[0] = now(time.Now())
		pipe := d.rdb.Pipeline()
		cmd := run(pipe, args)
		first := pipe.ZRangeWithScores(ctx, keys[0], 0, 0)
		_, err = pipe.Exec(ctx)
		switch {
		case redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT"):
			return cmd // asynq repeats it with the text
		case redis.HasErrorPrefix(cmd.Err(), "OOM"):
			cmd = forwardScript.run(ctx, d.rdb, d.flags, keys, args...)
			if err = cmd.Err(); err == nil {
				first = d.rdb.ZRangeWithScores(ctx, keys[0], 0, 0)
				err = first.Err()
			}
		}
		if err == nil {
			at = firstDue(first)
			d.learn(s, at)
			if n, _ := cmd.Int(); n > 0 {
				d.ring(queue)
			}
			return cmd
		}
	}
	d.health.note(err)
	if err != nil {
		// Not passed on: asynq would log it and be back in a millisecond.
		d.n.errors.Add(1)
		d.mu.Lock()
		s.due, s.again = time.Time{}, time.Now().Add(200*time.Millisecond)
		d.mu.Unlock()
		return moved(ctx, 0)
	}
	d.learn(s, at)
	return moved(ctx, 0)
}

func (d *delays) first(ctx context.Context, key string) (time.Time, error) {
	cmd := d.rdb.ZRangeWithScores(ctx, key, 0, 0)
	return firstDue(cmd), cmd.Err()
}

func firstDue(cmd *redis.ZSliceCmd) time.Time {
	if z := cmd.Val(); len(z) > 0 {
		return time.UnixMicro(int64(z[0].Score*1e6 + 0.5))
	}
	return time.Time{}
}

// learn notes what Redis said about a set.
func (d *delays) learn(s *set, due time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.looked = time.Now()
	s.again = s.looked.Add(recheck/2 + rand.N(recheck))
	if s.rung {
		s.again = s.looked.Add(glance)
	}
	if s.due = due; !s.noted.IsZero() && (due.IsZero() || s.noted.Before(due)) {
		s.due = s.noted
	}
}

// note says that a task of the set is due at a time.
func (d *delays) note(key string, due time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sets[key]
	if s == nil {
		return
	}
	if s.noted.IsZero() || due.Before(s.noted) {
		s.noted = due
	}
	if s.due.IsZero() || due.Before(s.due) {
		s.due = due
		poke(d.changed)
	}
}

// look makes the sets of a queue ("" = all) be looked at soon.
func (d *delays) look(queue string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.order {
		if queue != "" && queue != s.queue {
			continue
		}
		s.rung = true
		if at := s.looked.Add(glance); at.Before(s.again) {
			s.again = at
			poke(d.changed)
		}
	}
}

// wait blocks until a set needs Redis.
func (d *delays) wait() {
	d.mu.Lock()
	var first time.Time
	for _, s := range d.order {
		if at := s.next(); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	d.mu.Unlock()
	t := time.NewTimer(time.Until(first))
	defer t.Stop()
	select {
	case <-t.C:
	case <-d.changed:
	case <-d.stopped:
	}
}

func moved(ctx context.Context, n int64) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(n)
	return cmd
}

// score is when a task is due as asynq keeps it, Unix seconds, but with the
// milliseconds, rounded up: it may be late by a millisecond, not early.
func score(due time.Time) string { return now(due.Add(time.Millisecond - 1)) }

// now is a time to compare scores with: rounded down.
func now(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

// An afterError says when to try again.
type afterError struct {
	err  error
	wait time.Duration
}

func (e *afterError) Error() string { return e.err.Error() }
func (e *afterError) Unwrap() error { return e.err }

// After is err with the time to wait before the task is tried again. The task
// never runs before that time.
func After(wait time.Duration, err error) error { return &afterError{err, wait} }

// A retryError carries the exact time from a handler's return to asynq's
// RetryDelayFunc.
type retryError struct {
	err error
	at  time.Time
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// retryDelay is the default of Options.RetryDelay.
func retryDelay(retried int, _ error) time.Duration {
	d := min(200*time.Millisecond<<min(retried, 8), 30*time.Second)
	return d/2 + rand.N(d)/2
}

// waitOf is how long a handler's error makes its task wait.
func waitOf(err error, retried int, policy func(int, error) time.Duration) time.Duration {
	var a *afterError
	if errors.As(err, &a) {
		return max(0, a.wait)
	}
	return max(0, policy(retried, err))
}

type dueKey struct{}

// DueAt makes a task scheduled with the context through Queue.Client due at
// exactly at. asynq alone knows whole seconds; without DueAt the task becomes
// due up to a second late, never early.
func DueAt(ctx context.Context, at time.Time) context.Context {
	return context.WithValue(ctx, dueKey{}, at)
}

// exact replaces the whole seconds of an argument by an exact time, or rounds
// them up when there is none.
func exact(args []any, i int, at time.Time) ([]any, time.Time) {
	if i >= len(args) {
		return args, at
	}
	args = append([]any(nil), args...)
	if at.IsZero() {
		sec, ok := args[i].(int64)
		if !ok {
			return args, at
		}
		at = time.Unix(sec+1, 0)
	}
	args[i] = score(at)
	return args, at
}
