package job

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Place is where a job waits for a host.
type Place struct {
	Queue string
	Ahead int // jobs that are taken before it, in its queue; Depth when there are more than were looked at
	Total int // jobs that wait in its queue, itself included
}

// Places looks up the jobs that are queued for their first attempt; others, and those that are just being taken, are
// not in the result. depth bounds how far it looks: the cost is one pipeline for the jobs and one for the queues,
// whose answer has at most depth ids of each.
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
				continue // taken already, or not there yet
			}
			places[id] = Place{Queue: q, Ahead: ahead, Total: total}
		}
	}
	return places, nil
}
