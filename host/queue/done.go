package queue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// doneBatch bounds the ends that go in one round trip.
	doneBatch = 256
	// backlog is how many tasks may be done without Redis knowing; the handlers
	// of further ones are held up. What a host that is killed had in it is
	// delivered again, and refused by the job's record.
	backlog = 1024
	// linger is how long the end of a task waits for a claim to go along with.
	linger = time.Millisecond
)

// doneSHA is the hash of asynq's script for a task that is done, which
// exchange.lua was written to replace. Of another asynq, its own script is run.
const doneSHA = "1241eaa1c73409baaf1fea0c08d203a4911bda15"

// A clerk writes the ends of tasks that are done. No handler waits for it: an
// end goes along with the next claim from its queue, or else soon by itself.
// What needs more than to be forgotten is the settler's. Safe for concurrent
// use.
type clerk struct {
	rdb    redis.UniversalClient
	flags  *flags
	n      *counters
	health *health
	claims *claims
	hurry  chan struct{} // closed: don't wait for Redis any longer
	room   chan struct{} // holds one for each task in the piles, or lent
	more   chan struct{} // capacity 1: there is something to write
	now    chan struct{} // capacity 1: and not to linger for

	mu    sync.Mutex
	piles map[string]*pile // by queue; none is removed
	away  bool             // the last write failed
}

// A pile is the tasks of a queue that are done.
type pile struct {
	queue  string
	counts []string // keys of asynq's counters: of the day, of all days
	expire any      // when the former expires, unix seconds
	tasks  []done
	lent   bool // a part of it, not long ago
}

type done struct {
	id    string
	until time.Time // not worth writing after
}

// end takes over the end of a task: keys and args are those of asynq's script.
// It returns at once, unless the backlog is full.
func (c *clerk) end(ctx context.Context, queue string, keys []string, args []any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	select {
	case c.room <- struct{}{}:
	case <-c.hurry:
		cmd.SetErr(errors.New("redis is away, and the host stops"))
		return cmd
	}
	id := first(args)
	c.claims.done(taskID{queue, id})
	c.mu.Lock()
	p := c.piles[queue]
	if p == nil {
		p = &pile{queue: queue}
		c.piles[queue] = p
	}
	p.counts, p.expire = keys[3:5], args[1]
	p.tasks = append(p.tasks, done{id, settleUntil(ctx)})
	c.mu.Unlock()
	poke(c.more)
	cmd.SetVal("OK")
	return cmd
}

// lend takes what may go along with a claim. It goes to settled or restore.
func (c *clerk) lend(queue string) pile {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.piles[queue]
	if p == nil || c.away { // run finds out when Redis is back
		return pile{}
	}
	p.lent = true
	return p.cut()
}

// cut is called with clerk.mu held.
func (p *pile) cut() pile {
	part := *p
	n := min(len(p.tasks), doneBatch)
	part.tasks = p.tasks[:n:n]
	if p.tasks = p.tasks[n:]; len(p.tasks) == 0 {
		p.tasks = nil
	}
	return part
}

// settled: Redis has what was lent.
func (c *clerk) settled(part pile) {
	for _, t := range part.tasks {
		c.claims.written(taskID{part.queue, t.id})
		<-c.room
	}
}

// restore takes back what was lent, since its write failed; but for that whose
// lease is about to be found expired by others.
func (c *clerk) restore(part pile) {
	if len(part.tasks) == 0 {
		return
	}
	now := time.Now()
	var again []done
	for _, t := range part.tasks {
		if now.Before(t.until) {
			again = append(again, t)
		} else {
			<-c.room
		}
	}
	c.n.repeated.Add(int64(len(again)))
	c.mu.Lock()
	p := c.piles[part.queue]
	p.tasks = append(again, p.tasks...)
	c.away = true
	c.mu.Unlock()
	poke(c.more)
}

// run writes what no claim takes along, until ctx ends.
func (c *clerk) run(ctx context.Context) error {
	for wait := linger; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-c.more:
		}
		t := time.NewTimer(wait)
		all := false
		select {
		case <-t.C:
		case <-c.now:
			all = true
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		t.Stop()
		if err := c.write(ctx, all); err != nil {
			c.n.errors.Add(1)
			wait = min(max(20*time.Millisecond, 2*wait), 500*time.Millisecond)
		} else {
			wait = linger
		}
	}
}

// write writes the piles of which no claim took a part since the last call, or
// all.
func (c *clerk) write(ctx context.Context, all bool) error {
	for {
		part, more := c.next(all)
		if len(part.tasks) == 0 {
			if more {
				poke(c.more)
			}
			return nil
		}
		keys, args := part.join(takeKeys(part.queue), []any{0, keyOf(part.queue, "t:"), 0, ""})
		err := exchangeScript.run(ctx, c.rdb, c.flags, keys, args...).Err()
		c.health.note(err)
		if err != nil {
			c.restore(part)
			return err
		}
		c.mu.Lock()
		c.away = false
		c.mu.Unlock()
		c.settled(part)
	}
}

// next is a part to write, or else whether there is more that a claim may yet
// take along.
func (c *clerk) next(all bool) (part pile, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.piles {
		if len(p.tasks) == 0 {
			continue
		}
		if p.lent && !all {
			p.lent, more = false, true
			continue
		}
		return p.cut(), false
	}
	return pile{}, more
}

// join adds the ends to the keys and arguments of exchange.lua.
func (p pile) join(keys []string, args []any) ([]string, []any) {
	if len(p.tasks) == 0 {
		return keys, args
	}
	keys = append(keys, p.counts...)
	args = append(args, p.expire)
	for _, t := range p.tasks {
		args = append(args, t.id)
	}
	return keys, args
}

// flush returns when Redis has everything, or hurry is closed. Nothing may come
// any more.
func (c *clerk) flush() {
	poke(c.now)
	poke(c.more)
	for range cap(c.room) {
		select {
		case c.room <- struct{}{}:
		case <-c.hurry:
			return
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
