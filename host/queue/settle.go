package queue

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// settlePast is how long after the lease of a task its end is still worth
	// writing: asynq gives the task to somebody else no earlier than 30 s after.
	settlePast = 25 * time.Second
	// settleFor bounds a write that came without a deadline.
	settleFor = 20 * time.Second
	// settleBatch bounds one pipeline.
	settleBatch = 256
)

// settleUntil is how long it is worth trying to write an end: ctx is asynq's for
// it, and ends with the lease.
func settleUntil(ctx context.Context) time.Time {
	if d, ok := ctx.Deadline(); ok {
		return d.Add(settlePast)
	}
	return time.Now().Add(settleFor)
}

// A settler writes the ends of tasks that asynq waits for: retried, archived,
// requeued. (Those that are done are the clerk's.) Ends that come while a write
// is on its way go together in the next; it is bounded by the number of
// handlers. Safe for concurrent use.
type settler struct {
	rdb    redis.UniversalClient
	n      *counters
	health *health
	hurry  chan struct{} // closed: don't wait for Redis any longer

	mu      sync.Mutex
	busy    bool
	waiting []*write
}

type write struct {
	verb, script string // evalsha or eval, and its hash or text
	keys         []string
	args         []any
	cmd          *redis.Cmd
	turn         chan bool // true: write the next batch; false: yours was written
}

// end writes the end of a task until Redis has it. asynq would do that itself,
// but it repeats the write with the context of the first try, which it has
// cancelled by then; so after an outage of some seconds every task that ended
// during it stays active, and is run again.
func (s *settler) end(ctx context.Context, verb, script string, keys []string, args []any) *redis.Cmd {
	until := settleUntil(ctx)
	for back := 20 * time.Millisecond; ; back = min(2*back, 500*time.Millisecond) {
		cmd := s.send(verb, script, keys, args)
		err := cmd.Err()
		switch {
		case err == nil || errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "NOSCRIPT"):
			if err == nil {
				s.health.note(nil)
			}
			return cmd
		case strings.Contains(err.Error(), "NOT FOUND"):
			// It has ended already: an earlier try came through and its reply was
			// lost, or somebody took the task for orphaned. Nothing is left to do,
			// and asynq would keep trying.
			cmd.SetErr(nil)
			cmd.SetVal("OK")
			return cmd
		}
		s.n.errors.Add(1)
		s.health.note(err)
		if time.Now().Add(back).After(until) {
			return cmd
		}
		t := time.NewTimer(back)
		select {
		case <-t.C:
		case <-s.hurry:
			t.Stop()
			return cmd
		}
		s.n.repeated.Add(1)
	}
}

// send writes one end, together with those that wait. The first to come writes
// for itself; when it is through, the first of those who came meanwhile writes
// for all of them.
func (s *settler) send(verb, script string, keys []string, args []any) *redis.Cmd {
	w := &write{verb: verb, script: script, keys: keys, args: args, turn: make(chan bool, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	if s.busy {
		s.mu.Unlock()
		if !<-w.turn {
			return w.cmd
		}
		s.mu.Lock()
	}
	s.busy = true
	batch := s.waiting[:min(len(s.waiting), settleBatch)] // w is its first
	s.waiting = append([]*write(nil), s.waiting[len(batch):]...)
	s.mu.Unlock()

	s.write(batch)

	s.mu.Lock()
	if len(s.waiting) > 0 {
		s.waiting[0].turn <- true
	} else {
		s.busy = false
	}
	s.mu.Unlock()
	for _, other := range batch[1:] {
		other.turn <- false
	}
	return w.cmd
}

func (s *settler) write(batch []*write) {
	ctx := context.Background() // bounded by the client's own timeouts
	if len(batch) == 1 {
		batch[0].cmd = batch[0].eval(ctx, s.rdb)
		return
	}
	pipe := s.rdb.Pipeline()
	for _, w := range batch {
		w.cmd = w.eval(ctx, pipe)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
}

func (w *write) eval(ctx context.Context, c redis.Scripter) *redis.Cmd {
	if w.verb == "eval" {
		return c.Eval(ctx, w.script, w.keys, w.args...)
	}
	return c.EvalSha(ctx, w.script, w.keys, w.args...)
}
