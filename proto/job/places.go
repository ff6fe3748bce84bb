package job

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Place is where a job waits for a host.
type Place struct {
	Queue string
	Ahead int // jobs that are taken before it, of its queue and, if that is known, its provider; depth when there are more than were looked at
	Total int // jobs that wait there, itself included
}

// Places looks up the jobs that are queued for their first attempt; others, and those that are just being taken, are
// not in the result. depth bounds how far it looks: the cost is one pipeline for the jobs and one for the queues,
// whose answer has at most depth ids of each; and two more if some are in the rooms of providers that are full.
func (s *Store) Places(ctx context.Context, ids []string, depth int) (map[string]Place, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	metas := make([]*redis.SliceCmd, len(ids))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			metas[i] = p.HMGet(ctx, metaKey(id), "state", "attempt", "priority")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up queued jobs: %w", err)
	}
	waiting := map[string][]string{} // queue -> job ids
	for i, id := range ids {
		v := metas[i].Val()
		if State(text(v[0])) == StateQueued && integer(v[1]) == 0 {
			q := QueueName(text(v[2]))
			waiting[q] = append(waiting[q], id)
		}
	}
	if len(waiting) == 0 {
		return nil, nil
	}
	heads, totals := map[string]*redis.StringSliceCmd{}, map[string]*redis.IntCmd{}
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for q := range waiting {
			heads[q] = p.LRange(ctx, pendingKey(q), int64(-depth), -1)
			totals[q] = p.LLen(ctx, pendingKey(q))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at the queues: %w", err)
	}
	places := make(map[string]Place, len(ids))
	var elsewhere []roomed
	for q, jobs := range waiting {
		head, total := heads[q].Val(), int(totals[q].Val())
		at := make(map[string]int, len(head)) // task id -> tasks before it
		for i, task := range head {
			at[task] = len(head) - 1 - i
		}
		for _, id := range jobs {
			ahead, seen := at[Ticket{Job: id, Attempt: 1}.TaskID()]
			switch {
			case seen:
			case total > len(head):
				ahead = len(head)
			default:
				elsewhere = append(elsewhere, roomed{job: id, queue: q})
				continue // in a room, taken already, or not there yet
			}
			places[id] = Place{Queue: q, Ahead: ahead, Total: total}
		}
	}
	if len(elsewhere) > 0 {
		if err := s.inRooms(ctx, elsewhere, places); err != nil {
			return nil, err
		}
	}
	return places, nil
}

// roomed is a job that may wait in a room: its task names the key of it.
type roomed struct {
	job, queue string
	room       *redis.StringCmd
	rank, size *redis.IntCmd
}

// inRooms adds the places of those jobs that wait in rooms. In a room, who comes first is decided by turns, so that
// somebody may still come before.
func (s *Store) inRooms(ctx context.Context, jobs []roomed, places map[string]Place) error {
	task := func(j roomed) string { return Ticket{Job: j.job, Attempt: 1}.TaskID() }
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, j := range jobs {
			jobs[i].room = p.HGet(ctx, taskKey(j.queue, task(j)), "room")
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("look for rooms: %w", err)
	}
	jobs = slices.DeleteFunc(jobs, func(j roomed) bool { return j.room.Val() == "" })
	if len(jobs) == 0 {
		return nil
	}
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, j := range jobs {
			jobs[i].rank, jobs[i].size = p.ZRank(ctx, j.room.Val(), task(j)), p.ZCard(ctx, j.room.Val())
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("look into rooms: %w", err)
	}
	for _, j := range jobs {
		if j.rank.Err() == nil {
			places[j.job] = Place{Queue: j.queue, Ahead: int(j.rank.Val()), Total: int(j.size.Val())}
		}
	}
	return nil
}
