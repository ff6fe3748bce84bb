package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Begin turns a ticket into the next attempt and fences all earlier ones. ErrStale if that attempt was begun
// before (or this Store holds it) or the job has ended, ErrCancelled if the job was cancelled (its terminal frame
// is then written), ErrGone if Redis has no record of it. A failed job begins again only with the ticket after
// its last attempt. After a Retryable error repeat it on the same Store: it may have taken effect.
func (s *Store) Begin(ctx context.Context, t Ticket, host string) (*Attempt, error) {
	if err := CheckID(t.Job); err != nil {
		return nil, err
	}
	if !s.hold(t) {
		return nil, ErrStale
	}
	a, err := s.begin(ctx, t, host)
	if err != nil {
		s.letGo(t)
		return nil, fmt.Errorf("begin %s: %w", t.TaskID(), err)
	}
	return a, nil
}

func (s *Store) begin(ctx context.Context, t Ticket, host string) (*Attempt, error) {
	r, fresh, err := s.runBegin(ctx, t, host)
	if err != nil {
		return nil, err
	}
	if len(r) == 0 {
		return nil, errProtocol
	}
	if r[0] != "ok" && fresh {
		// Only the entry just made: an older one may be all that is known of a dead incarnation's attempt.
		// If it stays behind, whoever reclaims this host ignores it.
		s.rdb.SRem(ctx, hostJobsKey(host), t.TaskID())
	}
	switch r[0] {
	case "ok":
	case "gone":
		return nil, ErrGone
	case "stale":
		return nil, ErrStale
	case "cancelled":
		if err := s.endCancelled(ctx, t.Job); err != nil {
			return nil, err
		}
		return nil, ErrCancelled
	default:
		return nil, fmt.Errorf("%w: %v", errProtocol, r[0])
	}
	if len(r) != 8 {
		return nil, fmt.Errorf("%w: %d values", errProtocol, len(r))
	}
	now := redisTime(r[1])
	job, err := parseRequest(t.Job, text(r[7]), redisTime(r[3]))
	if err != nil {
		return nil, err
	}
	a := &Attempt{
		Job: job, Number: t.Attempt, Seq: integer(r[2]),
		Created: job.Created, Started: redisTime(r[4]), Begun: now, Crashes: integer(r[5]),
		s: s, host: host, began: time.Now(),
	}
	a.base = a.Seq
	if t.Attempt == 1 || a.Seq == 0 {
		return a, nil
	}
	if job.Policy != PolicyContinue {
		a.Reset = true
		return a, nil
	}
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	a.Prefix = a.Text()
	return a, nil
}

// runBegin indexes the attempt under its host, then begins. On one server both go in one round trip, in order.
// fresh tells that the entry in the index is new.
func (s *Store) runBegin(ctx context.Context, t Ticket, host string) (reply []any, fresh bool, err error) {
	keys := []string{metaKey(t.Job), logKey(t.Job)}
	args := []any{t.Attempt, host, s.holder, s.o.TTL.Milliseconds()}
	if _, cluster := s.rdb.(*redis.ClusterClient); cluster {
		var added *redis.IntCmd
		if _, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error { added = s.index(ctx, p, t, host); return nil }); err != nil {
			return nil, false, err
		}
		reply, err = beginScript.Run(ctx, s.rdb, keys, args...).Slice()
		return reply, added.Val() == 1, err
	}
	var added *redis.IntCmd
	var begun *redis.Cmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		added = s.index(ctx, p, t, host)
		begun = beginScript.EvalSha(ctx, p, keys, args...)
		return nil
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		begun, err = beginScript.Eval(ctx, s.rdb, keys, args...), nil
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, false, err
	}
	reply, err = begun.Slice()
	return reply, added.Val() == 1, err
}

func (s *Store) index(ctx context.Context, c redis.Cmdable, t Ticket, host string) (added *redis.IntCmd) {
	added = c.SAdd(ctx, hostJobsKey(host), t.TaskID())
	c.PExpire(ctx, hostJobsKey(host), s.o.TTL)
	if t.Attempt > 1 {
		s.open(ctx, c, t.Job) // one that had ended, or that Redis had lost, is open again
	}
	return added
}

// hold reserves a ticket in this process: the script can't tell its own repetition from a second delivery.
func (s *Store) hold(t Ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.held[t]; taken {
		return false
	}
	s.held[t] = struct{}{}
	return true
}

func (s *Store) letGo(t Ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, t)
}

func (s *Store) holds(t Ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, held := s.held[t]
	return held
}

// unheld is the number of attempts that a host's index names and this Store doesn't hold.
func (s *Store) unheld(ctx context.Context, host string) (n int, err error) {
	ids, err := s.rdb.SMembers(ctx, hostJobsKey(host)).Result()
	if err != nil {
		return 0, fmt.Errorf("read index of host %s: %w", host, err)
	}
	for _, id := range ids {
		if t, err := ParseTicket(id); err != nil || !s.holds(t) {
			n++
		}
	}
	return n, nil
}
