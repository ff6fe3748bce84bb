package job

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// How open jobs are looked at. A job has its ticket within milliseconds, and then waits for a host or runs.
const (
	firstLook  = 4 * time.Second  // after it was accepted
	secondLook = 2 * time.Second  // after a look that found no ticket
	nextLook   = 10 * time.Second // after one that found all well
	lookBatch  = 256              // jobs in one look
)

// open enters a job among those that somebody looks after until they have ended.
func (s *Store) open(ctx context.Context, c redis.Cmdable, id string) {
	key := openKey(id)
	c.ZAdd(ctx, key, redis.Z{Score: lookAt(firstLook), Member: id})
	c.PExpire(ctx, key, s.o.TTL)
}

// lookAt is a time from now by this machine's clock: clocks that differ only move a look.
func lookAt(in time.Duration) float64 { return float64(time.Now().Add(in).UnixMilli()) }

// Orphans looks at jobs that have not ended, a part of all at each call, and gives enqueue the ticket of every one that
// waits for a host and that asynq knows no ticket of, at two looks some seconds apart: Redis may have kept the job and lost the
// ticket, or whoever had to enqueue it died. due is when its attempt may begin, zero is at once. Any number of
// hosts may look. Without open jobs a call is at most one command. One call at a time.
func (s *Store) Orphans(ctx context.Context, enqueue func(ctx context.Context, t Ticket, priority string, due time.Time) error) (n int, err error) {
	shard := s.look
	s.look = (s.look + 1) % openShards
	if _, cluster := s.rdb.(*redis.ClusterClient); !cluster { // where they are in several places, each is asked
		if shard == 0 {
			there, err := s.rdb.Exists(ctx, openShardKeys()...).Result()
			if err != nil {
				return 0, fmt.Errorf("look for open jobs: %w", err)
			}
			s.idle = there == 0
		}
		if s.idle {
			return 0, nil
		}
	}
	key := openShardKey(shard)
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	ids, err := s.rdb.ZRangeByScore(ctx, key, &redis.ZRangeBy{Min: "-inf", Max: now, Count: lookBatch}).Result()
	if err != nil {
		return 0, fmt.Errorf("list open jobs: %w", err)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	waiting, next, err := s.lookAfter(ctx, ids)
	if err != nil {
		return 0, err
	}
	for _, w := range waiting {
		switch since, missed := s.missing[w.ticket]; {
		case w.there:
			delete(s.missing, w.ticket)
			next[w.ticket.Job] = nextLook
		case !missed:
			s.missing[w.ticket] = time.Now()
			next[w.ticket.Job] = secondLook
		case time.Since(since) < secondLook:
			next[w.ticket.Job] = secondLook
		default:
			if err := enqueue(ctx, w.ticket, w.priority, w.due); err != nil {
				return n, err
			}
			delete(s.missing, w.ticket)
			next[w.ticket.Job] = nextLook
			n++
		}
	}
	for t, since := range s.missing {
		if time.Since(since) > 10*nextLook { // another host found it a ticket
			delete(s.missing, t)
		}
	}
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, id := range ids {
			if in, open := next[id]; open {
				p.ZAddXX(ctx, key, redis.Z{Score: lookAt(in), Member: id})
			} else {
				p.ZRem(ctx, key, id)
			}
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("note looks at open jobs: %w", err)
	}
	return n, nil
}

// waitingJob is a job that waits for a host.
type waitingJob struct {
	ticket   Ticket
	priority string
	due      time.Time
	there    bool // asynq knows the ticket
}

// lookAfter reads which of the jobs wait for a host, and when to look at those again that run. What is in neither has
// ended, or is gone.
func (s *Store) lookAfter(ctx context.Context, ids []string) (waiting []waitingJob, next map[string]time.Duration, err error) {
	metas := make([]*redis.SliceCmd, len(ids))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			metas[i] = p.HMGet(ctx, metaKey(id), "state", "attempt", "priority", "due")
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look at open jobs: %w", err)
	}
	next = make(map[string]time.Duration, len(ids))
	for i, id := range ids {
		v := metas[i].Val()
		switch State(text(v[0])) {
		case StateRunning:
			next[id] = nextLook
		case StateQueued, StateWaiting:
			waiting = append(waiting, waitingJob{
				ticket: Ticket{Job: id, Attempt: integer(v[1]) + 1}, priority: text(v[2]), due: redisTime(v[3]),
			})
		}
	}
	if len(waiting) == 0 {
		return nil, next, nil
	}
	known := make([]*redis.IntCmd, len(waiting))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, w := range waiting {
			known[i] = p.Exists(ctx, taskKey(QueueName(w.priority), w.ticket.TaskID()))
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for tickets of open jobs: %w", err)
	}
	for i := range waiting {
		waiting[i].there = known[i].Val() > 0
	}
	return waiting, next, nil
}
