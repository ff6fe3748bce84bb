package job

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// An attempt that is returned has never been: its ticket begins it again, on the
// same host and on another, and the job's start is that of who goes on with it.
func TestReturn(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, other, ctx := NewStore(rdb, Options{}), NewStore(rdb, Options{}), t.Context()
		id := create(t, s, Job{User: "ann", Query: "why?"}).Job
		for _, by := range []*Store{s, s, other} {
			a := begin(t, by, Ticket{id, 1}, "h1")
			must(t, a.Return(ctx))
			st, err := s.Status(ctx, id)
			must(t, err)
			if st.State != StateQueued || st.Attempt != 0 || st.Host != "" || !st.Started.IsZero() {
				t.Fatalf("returned: %+v", st)
			}
			if n := rdb.SCard(ctx, hostJobsKey("h1")).Val(); n != 0 {
				t.Fatalf("%d entries left in the host's index", n)
			}
			if err := a.Append(ctx, chunk("x")); !errors.Is(err, ErrFenced) {
				t.Fatalf("append to a returned attempt: %v", err)
			}
		}
		a := begin(t, other, Ticket{id, 1}, "h2")
		if a.Number != 1 || a.Reset {
			t.Fatalf("begun: %+v", a)
		}
		must(t, a.Append(ctx, chunk("x")))
		if err := a.Return(ctx); !errors.Is(err, errEncode) {
			t.Fatalf("return of one that has written: %v", err)
		}
		must(t, a.Finish(ctx, &Complete{}))
		if st, err := s.Status(ctx, id); err != nil || st.Started.Before(st.Created) || st.Started.IsZero() {
			t.Fatalf("ended: %+v %v", st, err)
		}
	})
}

// A return whose reply was lost is repeated; one that comes too late is refused.
func TestReturnIsRepeatedAndFenced(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, other, ctx := NewStore(rdb, Options{}), NewStore(rdb, Options{}), t.Context()
		id := create(t, s, Job{User: "ann", Query: "why?"}).Job
		a := begin(t, s, Ticket{id, 1}, "h1")
		lost := *a
		must(t, lost.Return(ctx)) // it came through, and nobody knows
		must(t, a.Return(ctx))
		b := begin(t, other, Ticket{id, 1}, "h2")
		late := *a
		late.ending = nil
		if err := late.Return(ctx); !errors.Is(err, ErrFenced) {
			t.Fatalf("return of somebody else's attempt: %v", err)
		}
		must(t, b.Append(ctx, chunk("x")))
	})
}

// A cancel between begin and return wins, and one after it is at once.
func TestReturnAndCancel(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, ctx := NewStore(rdb, Options{}), t.Context()
		id := create(t, s, Job{User: "ann", Query: "why?"}).Job
		a := begin(t, s, Ticket{id, 1}, "h1")
		if st, err := s.Cancel(ctx, id, "ann", false); err != nil || st != StateRunning {
			t.Fatal(st, err)
		}
		if err := a.Return(ctx); !errors.Is(err, ErrCancelled) {
			t.Fatalf("return of a cancelled job: %v", err)
		}
		must(t, a.Finish(ctx, &Cancelled{}))

		id = create(t, s, Job{User: "ann", Query: "why?"}).Job
		must(t, begin(t, s, Ticket{id, 1}, "h1").Return(ctx))
		if st, err := s.Cancel(ctx, id, "ann", false); err != nil || st != StateCancelled {
			t.Fatalf("cancel after the return: %s %v", st, err)
		}
		if _, err := s.Begin(ctx, Ticket{id, 1}, "h1"); !errors.Is(err, ErrCancelled) {
			t.Fatalf("begin after the cancel: %v", err)
		}
	})
}

// A host that dies between return and the ticket's way back leaves nothing to
// take over; a failed job that is run again keeps its place, too.
func TestReturnAndReclaim(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, ctx := NewStore(rdb, Options{}), t.Context()
		id := create(t, s, Job{User: "ann", Query: "why?"}).Job
		must(t, begin(t, s, Ticket{id, 1}, "h1").Return(ctx))
		must(t, rdb.SAdd(ctx, hostJobsKey("h1"), Ticket{id, 1}.TaskID()).Err()) // as if the host died before it was forgotten
		h := NewHosts(NewStore(rdb, Options{}), slog.New(slog.DiscardHandler), HostsOptions{})
		n := 0
		must(t, h.Reclaim(ctx, "h1", func(context.Context, Ticket, string, time.Time) error { n++; return nil }))
		if n != 0 {
			t.Fatalf("%d tickets enqueued for a job that has one", n)
		}
		a := begin(t, s, Ticket{id, 1}, "h2")
		must(t, a.Finish(ctx, &Error{Code: "internal"}))
		must(t, begin(t, s, Ticket{id, 2}, "h2").Return(ctx))
		if got := begin(t, s, Ticket{id, 2}, "h3"); !got.Reset || got.Begun.Before(got.Created) {
			t.Fatalf("begun again: %+v", got)
		}
	})
}
