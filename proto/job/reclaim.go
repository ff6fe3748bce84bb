package job

import (
	"context"
	"fmt"
	"time"
)

// Reclaim takes the jobs of a dead host from it and fences it. For each job that is to run again it calls
// enqueue with the next ticket, the job's priority and when its attempt may begin (zero is at once; a wait that the
// host was told of outlives it); cancelled jobs get their receipt, jobs with PolicyFail or
// too many crashes their model:error (code host_lost), from what the log holds. Attempts that this Store holds
// are left alone, so a host may reclaim what it doesn't hold any more, or an earlier incarnation left. Any number of hosts may
// reclaim the same one at once. It stops at the first error and may be called again.
func (h *Hosts) Reclaim(ctx context.Context, host string, enqueue func(ctx context.Context, t Ticket, priority string, due time.Time) error) error {
	s := h.s
	ids, err := s.rdb.SMembers(ctx, hostJobsKey(host)).Result()
	if err != nil {
		return fmt.Errorf("reclaim host %s: %w", host, err)
	}
	kept := 0
	for _, id := range ids {
		own, err := h.reclaim(ctx, host, id, enqueue)
		if err != nil {
			return fmt.Errorf("reclaim %s from host %s: %w", id, host, err)
		}
		if own {
			kept++
			continue
		}
		if err := s.rdb.SRem(ctx, hostJobsKey(host), id).Err(); err != nil {
			return fmt.Errorf("reclaim %s from host %s: %w", id, host, err)
		}
	}
	if kept > 0 {
		return nil
	}
	err = withdrawScript.Run(ctx, s.rdb, []string{hostsBeatKey, hostsInfoKey}, host, 2*h.o.Beat.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("forget host %s: %w", host, err)
	}
	return nil
}

func (h *Hosts) reclaim(ctx context.Context, host, id string, enqueue func(ctx context.Context, t Ticket, priority string, due time.Time) error) (own bool, err error) {
	s := h.s
	t, err := ParseTicket(id)
	if err != nil {
		h.log.Error("odd entry in a host's index dropped", "dead", host, "error", err)
		return false, nil
	}
	if s.holds(t) {
		return true, nil
	}
	r, err := reclaimScript.Run(ctx, s.rdb, []string{metaKey(t.Job)}, host, t.Attempt, s.o.TTL.Milliseconds()).StringSlice()
	if err != nil {
		return false, err
	}
	if len(r) == 1 {
		return false, nil // stale or gone
	}
	if len(r) != 7 || r[0] != "ok" {
		return false, fmt.Errorf("%w: %v", errProtocol, r)
	}
	policy, priority, crashes, lost, cancelled := r[1], r[2], integer(r[3]), r[4] != "", r[5] != ""
	switch {
	case cancelled:
		err = s.endCancelled(ctx, t.Job)
	case lost && policy == PolicyFail:
		err = s.endLost(ctx, t.Job, "the host that ran the job was lost")
	case lost && crashes >= s.o.MaxCrashes:
		err = s.endLost(ctx, t.Job, fmt.Sprintf("%d hosts were lost while they ran the job", crashes))
	default:
		err = enqueue(ctx, Ticket{Job: t.Job, Attempt: t.Attempt + 1}, priority, redisTime(r[6]))
	}
	return false, err
}

// CodeHostLost is the code of the model:error of a job whose host was lost and that isn't run again.
const CodeHostLost = "host_lost"

func (s *Store) endLost(ctx context.Context, id, why string) error {
	return s.endIdle(ctx, id, StateFailed, func(string) Event {
		return &Error{Code: CodeHostLost, Message: why, Retryable: true, Fault: "host"}
	})
}
