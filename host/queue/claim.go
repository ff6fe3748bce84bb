package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// looks are the times after a doubtful claim at which to search for what it may
// have taken. More than one, because a command that was cut off may still be in
// the server's socket buffer when the first search runs.
var looks = []time.Duration{0, time.Second, 5 * time.Second}

// forgetAfter is how long after its handler returned a task is still expected to
// be ended by asynq. It doesn't when it had given the handler up.
const forgetAfter = time.Minute

type taskID struct{ queue, id string }

// A claim is a task this host has taken and not ended.
type claim struct {
	retryAt  time.Time  // set when its handler returned an error
	wait     *waitError // instead, when it is to wait in a room
	returned time.Time
	done     bool // and the clerk is to tell Redis
}

type held struct{ id, msg string }

// claims are all tasks this host has. Safe for concurrent use.
type claims struct {
	rdb         redis.UniversalClient
	owner       string
	concurrency int
	batch       int
	flags       *flags
	n           *counters
	health      *health
	ring        func(queue string)
	clerk       *clerk

	mu    sync.Mutex
	known map[string]map[string]*claim // by queue and task id
	busy  map[string]int               // by queue: known and not done
	total int                          // of busy
	held  map[string][]held            // by queue: taken, not yet handed to asynq
	doubt chan struct{}                // capacity 1: some line has a doubt
}

// next hands out a task that was taken earlier.
func (c *claims) next(queue string) (msg string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.held[queue]
	if len(l) == 0 {
		return "", false
	}
	if len(l) == 1 {
		delete(c.held, queue)
	} else {
		c.held[queue] = l[1:]
	}
	return l[0].msg, true
}

// holding tells whether any task waits to be handed out.
func (c *claims) holding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held) > 0
}

// free is how many more tasks may be taken; at least one, since asynq asks only
// when it has a worker free.
func (c *claims) free() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(1, min(c.batch, c.concurrency-c.total))
}

// spare is how many tasks wait to be handed out, and how many more may be taken.
func (c *claims) spare() (waiting, free int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.held {
		waiting += len(l)
	}
	return waiting, c.concurrency - c.total
}

// have is how many tasks of a queue this host has.
func (c *claims) have(queue string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy[queue]
}

// take claims up to n tasks and holds them for next. It returns how many it got.
// Ends of tasks go along.
func (c *claims) take(ctx context.Context, l *line, keys []string, args []any, n int) (int, error) {
	if len(args) < 2 {
		return 0, fmt.Errorf("dequeue of %s has %d arguments", l.name, len(args))
	}
	c.n.claims.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	part := c.clerk.lend(l.name)
	keys, args = part.join(keys[:4:4], []any{args[0], args[1], n, c.owner})
	got, err := stringSlice(exchangeScript.once(ctx, c.rdb, c.flags, keys, args...))
	if err != nil {
		c.clerk.restore(part)
		if !refused(err) {
			c.suspect(l)
		}
		return 0, err
	}
	c.clerk.settled(part)
	if len(got) < 2 {
		return 0, nil
	}
	c.n.taken.Add(int64(len(got) / 2))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i+1 < len(got); i += 2 {
		c.learn(l.name, got[i])
		c.held[l.name] = append(c.held[l.name], held{got[i], got[i+1]})
	}
	return len(got) / 2, nil
}

// wait notes that a task is to wait in a room.
func (c *claims) wait(t taskID, w *waitError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[t.queue][t.id]; k != nil {
		k.wait = w
	}
}

// waits is the room in which a task is to wait, nil for none.
func (c *claims) waits(t taskID) *waitError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[t.queue][t.id]; k != nil {
		return k.wait
	}
	return nil
}

// returned notes the end of a handler, and when to try again if it failed.
func (c *claims) returned(t taskID, retryAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[t.queue][t.id]; k != nil {
		k.returned, k.retryAt = time.Now(), retryAt
	}
}

// retryAt is the exact time at which a failed task is due.
func (c *claims) retryAt(t taskID) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[t.queue][t.id]; k != nil && !k.retryAt.IsZero() {
		return k.retryAt, true
	}
	return time.Time{}, false
}

// done: the clerk is to tell Redis that a task is done; it takes no room here
// any more.
func (c *claims) done(t taskID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[t.queue][t.id]; k != nil && !k.done {
		k.done = true
		c.count(t.queue, -1)
	}
}

// written forgets a task that is done, now that Redis knows it too.
func (c *claims) written(t taskID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[t.queue][t.id]; k != nil && k.done { // else it was delivered again
		c.drop(t)
	}
}

// ended forgets a task whose end Redis has.
func (c *claims) ended(t taskID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(t)
}

// learn, drop and count are called with c.mu held.
func (c *claims) learn(queue, id string) {
	if c.known[queue] == nil {
		c.known[queue] = map[string]*claim{}
	}
	c.drop(taskID{queue, id})
	c.known[queue][id] = &claim{}
	c.count(queue, 1)
}

func (c *claims) drop(t taskID) {
	k := c.known[t.queue][t.id]
	if k == nil {
		return
	}
	if !k.done {
		c.count(t.queue, -1)
	}
	delete(c.known[t.queue], t.id)
}

func (c *claims) count(queue string, n int) {
	c.busy[queue] += n
	c.total += n
}

// suspect: a claim of l failed without a reply. It may have taken tasks.
func (c *claims) suspect(l *line) {
	now := time.Now()
	c.mu.Lock()
	l.doubts = l.doubts[:0]
	for _, d := range looks {
		l.doubts = append(l.doubts, now.Add(d))
	}
	c.mu.Unlock()
	poke(c.doubt)
}

// heal searches for lost tasks whenever there is a doubt, until ctx ends.
func (c *claims) heal(ctx context.Context, lines []*line) error {
	sweep := time.NewTicker(forgetAfter)
	defer sweep.Stop()
	for {
		l, at := c.doubtful(lines)
		var due <-chan time.Time
		if l != nil {
			t := time.NewTimer(time.Until(at))
			defer t.Stop()
			due = t.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.doubt:
		case <-sweep.C:
			c.forget()
		case <-due:
			n, err := c.giveBack(ctx, l)
			c.mu.Lock()
			if err != nil {
				l.doubts[0] = time.Now().Add(250 * time.Millisecond)
			} else {
				l.doubts = l.doubts[1:]
			}
			c.mu.Unlock()
			if c.health.note(err); err != nil {
				c.n.errors.Add(1)
			}
			if n > 0 {
				c.n.healed.Add(int64(n))
				c.ring(l.name)
			}
		}
	}
}

// doubtful is the line to be searched next, and when.
func (c *claims) doubtful(lines []*line) (first *line, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range lines {
		if len(l.doubts) > 0 && (first == nil || l.doubts[0].Before(at)) {
			first, at = l, l.doubts[0]
		}
	}
	return first, at
}

// giveBack returns to the queue what is stamped with our name and unknown to us.
func (c *claims) giveBack(ctx context.Context, l *line) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.mu.Lock()
	var keep []string
	for id := range c.known[l.name] {
		keep = append(keep, id)
	}
	c.mu.Unlock()
	return giveBack(ctx, c.rdb, c.flags, c.owner, l.name, keep)
}

// release gives back what was taken and not handed to asynq. Only after the gate
// was stopped.
func (c *claims) release(ctx context.Context, lines []*line) error {
	var errs []error
	for _, l := range lines {
		c.mu.Lock()
		mine := len(c.held[l.name]) > 0 || len(l.doubts) > 0
		for _, h := range c.held[l.name] {
			c.drop(taskID{l.name, h.id})
		}
		delete(c.held, l.name)
		c.mu.Unlock()
		if !mine {
			continue
		}
		n, err := c.giveBack(ctx, l)
		if err != nil {
			errs = append(errs, err)
		}
		if n > 0 {
			c.ring(l.name)
		}
	}
	return errors.Join(errs...)
}

// forget drops tasks that asynq will not end any more.
func (c *claims) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for queue, tasks := range c.known {
		for id, k := range tasks {
			if !k.returned.IsZero() && time.Since(k.returned) > forgetAfter {
				c.drop(taskID{queue, id})
			}
		}
	}
}

func giveBack(ctx context.Context, rdb redis.UniversalClient, f *flags, owner, queue string, keep []string) (int, error) {
	args := make([]any, 0, len(keep)+2)
	args = append(args, keyOf(queue, "t:"), owner)
	for _, id := range keep {
		args = append(args, id)
	}
	keys := []string{keyOf(queue, "pending"), keyOf(queue, "active"), keyOf(queue, "lease")}
	n, err := givebackScript.run(ctx, rdb, f, keys, args...).Int()
	if err != nil {
		return 0, fmt.Errorf("give back tasks of %s: %w", queue, err)
	}
	return n, nil
}

// Reclaim gives back to the queues every task that owner had taken and not
// ended, and returns how many there were. Call it for a host known to be dead;
// it wakes the others.
func Reclaim(ctx context.Context, rdb redis.UniversalClient, owner string, queues ...string) (int, error) {
	var (
		f    flags
		sum  int
		errs []error
	)
	for _, queue := range queues {
		n, err := giveBack(ctx, rdb, &f, owner, queue, nil)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if sum += n; n > 0 {
			errs = append(errs, ring(ctx, rdb, queue))
		}
	}
	return sum, errors.Join(errs...)
}
