package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cancel ends a job for its owner, Owner(tenant, user) (or for anybody if admin). ErrNotFound also for foreign jobs. The state
// returned is the one the cancel found: running means that its host writes the receipt; queued and waiting jobs
// are ended by Cancel itself and StateCancelled is returned; a terminal state is left as it is. Idempotent.
// After it returns no chunk is appended any more.
func (s *Store) Cancel(ctx context.Context, id, owner string, admin bool) (State, error) {
	if err := CheckID(id); err != nil {
		return "", err
	}
	anybody := ""
	if admin {
		anybody = "1"
	}
	found, err := cancelScript.Run(ctx, s.rdb, []string{metaKey(id)},
		owner, anybody, CancelChannel, id, s.o.TTL.Milliseconds()).Text()
	if err != nil {
		return "", fmt.Errorf("cancel job %s: %w", id, err)
	}
	switch st := State(found); st {
	case "":
		return "", ErrNotFound
	case StateQueued, StateWaiting:
		if err := s.endCancelled(ctx, id); err != nil {
			return "", fmt.Errorf("cancel job %s: %w", id, err)
		}
		return StateCancelled, nil
	default:
		return st, nil
	}
}

// endCancelled writes the receipt of a cancelled job that no attempt holds.
func (s *Store) endCancelled(ctx context.Context, id string) error {
	return s.endIdle(ctx, id, StateCancelled, func(soFar string) Event { return &Cancelled{Text: soFar} })
}

// endIdle ends a job that no attempt holds with a terminal frame made from the text so far. It does nothing if the
// job has ended or is held meanwhile.
func (s *Store) endIdle(ctx context.Context, id string, state State, terminal func(soFar string) Event) error {
	for range maxTries {
		st, err := s.Status(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return ErrGone
		}
		if err != nil {
			return err
		}
		if st.State.Terminal() || st.State == StateRunning {
			return nil
		}
		soFar, err := s.textSoFar(ctx, id, st.Seq)
		if err != nil {
			return err
		}
		e, state := terminal(soFar), state
		if st.Cancel && state != StateCancelled {
			e, state = &Cancelled{Text: soFar}, StateCancelled // a cancel wins
		}
		*e.head() = Head{JobID: id, UserID: st.User, Attempt: st.Attempt, Seq: st.Seq + 1}
		frame, err := encodeFrame(e, time.Now().UnixMilli())
		if err != nil {
			return err
		}
		general := ""
		if s.o.General {
			general = generalChannel(e.Name())
		}
		n, err := endScript.Run(ctx, s.rdb, []string{metaKey(id), logKey(id)},
			st.Attempt, st.Seq, string(state), s.o.TTL.Milliseconds(), Channel(id), general, frame).Int64()
		switch {
		case err != nil:
			return err
		case n == codeOK:
			return nil
		case n == codeGone:
			return ErrGone
		}
	}
	return fmt.Errorf("%w: the job keeps changing", errProtocol)
}

// textSoFar is the answer that a log adds up to at seq.
func (s *Store) textSoFar(ctx context.Context, id string, seq int64) (string, error) {
	var frames []Frame
	for after := int64(0); after < seq; {
		page, _, err := s.Read(ctx, id, after, 0)
		if err != nil {
			return "", err
		}
		if len(page) == 0 {
			break
		}
		for _, f := range page {
			if f.Seq <= seq {
				frames = append(frames, f)
			}
		}
		after = page[len(page)-1].Seq
	}
	return Text(frames)
}

// Cancels calls f with the id of each running job that is cancelled, until ctx ends. After a (re)subscription it
// calls f(""): cancels may have been missed, ask CancelledOf. f is called from one goroutine and should not
// block. Blocks; returns only ctx's error.
func (s *Store) Cancels(ctx context.Context, f func(id string)) error {
	newListener(s.rdb, CancelChannel).run(ctx, func(m any) {
		switch m := m.(type) {
		case *redis.Message:
			if CheckID(m.Payload) == nil {
				f(m.Payload)
			}
		case *redis.Subscription:
			f("")
		}
	})
	return ctx.Err()
}

// CancelledOf returns those of ids that have been cancelled.
func (s *Store) CancelledOf(ctx context.Context, ids ...string) ([]string, error) {
	flags := make([]*redis.BoolCmd, len(ids))
	if len(ids) == 0 {
		return nil, nil
	}
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			flags[i] = p.HExists(ctx, metaKey(id), "cancel")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read cancel flags: %w", err)
	}
	var out []string
	for i, id := range ids {
		if flags[i].Val() {
			out = append(out, id)
		}
	}
	return out, nil
}
