package job

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Allowance is what one user may do; 0 is no limit.
type Allowance struct {
	StartsPerMinute int
	Jobs            int // that have not ended
}

// LimitError refuses a start.
type LimitError struct {
	Jobs bool // too many jobs at a time; else too many starts in a minute
	Max  int
	Wait time.Duration // until there is room; 0 = when a job ends
}

func (e *LimitError) Error() string {
	if e.Jobs {
		return fmt.Sprintf("%d jobs have not ended yet", e.Max)
	}
	return fmt.Sprintf("more than %d starts in a minute", e.Max)
}

// recordless is how long an admitted job may be without a record: between Admit and Create.
const recordless = 10 * time.Second

// Admit counts the start of a job against what its owner, Owner(tenant, user), may do, over all gateways. It comes
// before Create and is idempotent per job id. A *LimitError refuses it; with any other error nothing is known.
// Jobs that have ended are taken off when the limit is reached: nobody needs to report them.
func (s *Store) Admit(ctx context.Context, owner, id string, a Allowance) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if a.StartsPerMinute <= 0 && a.Jobs <= 0 {
		return nil
	}
	for looked := false; ; looked = true {
		r, err := admitScript.Run(ctx, s.rdb, []string{startsKey(owner), openJobsKey(owner)},
			id, max(a.StartsPerMinute, 0), max(a.Jobs, 0), s.o.TTL.Milliseconds(), recordless.Milliseconds()).StringSlice()
		if err != nil {
			return fmt.Errorf("admit job %s: %w", id, err)
		}
		switch {
		case len(r) == 1 && r[0] == "ok":
			return nil
		case len(r) == 2 && r[0] == "starts":
			return &LimitError{Max: a.StartsPerMinute, Wait: time.Duration(integer(r[1])) * time.Millisecond}
		case len(r) > 1 && r[0] == "jobs":
			ended, err := s.dropEnded(ctx, owner, r[2:], int(integer(r[1])))
			if err != nil {
				return fmt.Errorf("admit job %s: %w", id, err)
			}
			if ended == 0 || looked {
				return &LimitError{Jobs: true, Max: a.Jobs}
			}
		default:
			return fmt.Errorf("admit job %s: %w: %v", id, errProtocol, r)
		}
	}
}

// dropEnded takes the jobs off an owner's list that have ended or are somebody else's, and of the first old ones those
// without a record.
func (s *Store) dropEnded(ctx context.Context, owner string, ids []string, old int) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	metas := make([]*redis.SliceCmd, len(ids))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			metas[i] = p.HMGet(ctx, metaKey(id), "user", "tenant", "state")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var ended []any
	for i, id := range ids {
		v := metas[i].Val()
		if v[2] == nil {
			if i < old {
				ended = append(ended, id)
			}
		} else if State(text(v[2])).Terminal() || Owner(text(v[1]), text(v[0])) != owner {
			ended = append(ended, id)
		}
	}
	if len(ended) == 0 {
		return 0, nil
	}
	return len(ended), s.rdb.ZRem(ctx, openJobsKey(owner), ended...).Err()
}
