package queue

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A client is what asynq is given: it looks at each script that passes. All
// other commands go straight to Redis.
type client struct {
	redis.UniversalClient
	q *Queue
}

// Eval implements redis.Scripter.
func (c *client) Eval(ctx context.Context, text string, keys []string, args ...any) *redis.Cmd {
	return c.pass(ctx, "eval", text, keys, args)
}

// EvalSha implements redis.Scripter.
func (c *client) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return c.pass(ctx, "evalsha", sha, keys, args)
}

func (c *client) pass(ctx context.Context, verb, script string, keys []string, args []any) *redis.Cmd {
	run := func(to redis.Scripter, args []any) *redis.Cmd {
		if verb == "eval" {
			return to.Eval(ctx, script, keys, args...)
		}
		return to.EvalSha(ctx, script, keys, args...)
	}
	q := c.q
	what, queue := shape(keys)
	switch what {
	case stepTake:
		if l := q.gate.lines[queue]; l != nil {
			return q.gate.take(ctx, l, keys, args)
		}
	case stepForward:
		return q.delays.forward(ctx, queue, keys, args, run)
	case stepEnd, stepRetry:
		if script == doneSHA && len(keys) == 5 && len(args) > 1 {
			cmd := q.clerk.end(ctx, queue, keys, args)
			q.room(queue)
			return cmd
		}
		t := taskID{queue, first(args)}
		if _, name := cut(keys[0]); isTask(name) { // retry, or archive
			if w := q.claims.waits(t); w != nil {
				return q.park(ctx, verb, t, w)
			}
		}
		if what == stepRetry {
			at, _ := q.claims.retryAt(t)
			args, at = exact(args, 2, at)
			defer q.delays.note(keys[3], at)
		}
		cmd := q.settler.end(ctx, verb, script, keys, args)
		if cmd.Err() == nil {
			q.claims.ended(t)
			q.room(queue)
			if what == stepEnd && strings.HasSuffix(keys[2], ":pending") { // requeued
				q.ring(queue)
			}
		}
		return cmd
	case stepSchedule:
		at, _ := ctx.Value(dueKey{}).(time.Time)
		// The time follows the message; with a uniqueness lock it precedes it.
		i := 1
		if len(keys) == 3 {
			i = 2
		}
		args, at = exact(args, i, at)
		cmd := run(c.UniversalClient, args)
		if cmd.Err() == nil {
			q.delays.note(keys[len(keys)-1], at)
		}
		return cmd
	case stepEnqueue:
		cmd := run(c.UniversalClient, args)
		if cmd.Err() == nil {
			q.ring(queue)
		}
		return cmd
	}
	return run(c.UniversalClient, args)
}

// ZAddXX extends leases. It never fails: while Redis is away asynq would find the
// lease expired after 30 s and drop the task while its handler goes on, and a
// handler that ends then would never be written down. Should another host take
// the ticket, the fence of the job's record decides.
func (c *client) ZAddXX(ctx context.Context, key string, members ...redis.Z) *redis.IntCmd {
	queue, name := cut(key)
	if queue == "" || name != "lease" {
		return c.UniversalClient.ZAddXX(ctx, key, members...)
	}
	args := make([]any, 0, 2*len(members))
	for _, z := range members {
		args = append(args, int64(z.Score), z.Member)
	}
	err := leaseScript.run(ctx, c.UniversalClient, &c.q.flags, []string{key}, args...).Err()
	if c.q.health.note(err); err != nil {
		c.q.n.errors.Add(1)
	}
	return redis.NewIntCmd(ctx)
}

// first is the task id: the first argument of each script that ends a task.
func first(args []any) string {
	if len(args) > 0 {
		id, _ := args[0].(string)
		return id
	}
	return ""
}
