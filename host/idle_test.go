package host

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// Hosts with nothing to do leave Redis nearly alone: what they send is counted,
// and what runs inside of scripts as well.
func TestIdleHostIsCheap(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	w := newWorld(t, s.addr)
	const hosts = 2
	for range hosts {
		w.host(tuned(nil), provider("fake", saying(sdk.Text("x"))))
	}
	calls := func() (n int64) {
		info, err := w.rdb.Info(t.Context(), "stats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		number, _, _ := strings.Cut(rest, "\r")
		if n, err = strconv.ParseInt(number, 10, 64); err != nil {
			t.Fatal(err)
		}
		return n
	}
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-t.Context().Done():
		}
	}
	wait(8 * time.Second) // they look around when they start
	begin, before := time.Now(), calls()
	wait(10 * time.Second)
	after := calls()
	rate := float64(after-before) / time.Since(begin).Seconds() / hosts
	t.Logf("%.1f commands/s for each host", rate)
	if rate > 12 {
		t.Errorf("an idle host sends %.1f commands/s, at most 12", rate)
	}
}

// A host dies after it gave a job back that was told to wait, and before it
// could enqueue the ticket: whoever takes over lets it wait as long.
func TestTakenOverJobWaitsAsLong(t *testing.T) {
	t.Parallel()
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		ctx := t.Context()
		id := job.NewID()
		if _, _, err := w.store.Create(ctx, job.Job{ID: id, User: "ada", Query: "why?", Models: []string{"m"}}); err != nil {
			t.Fatal(err)
		}
		a, err := w.store.Begin(ctx, job.Ticket{Job: id, Attempt: 1}, "dead")
		if err != nil {
			t.Fatal(err)
		}
		a.Due = time.Now().Add(6 * time.Second) // longer than it takes to find the host dead
		if _, err := a.Release(ctx, job.StateWaiting); err != nil {
			t.Fatal(err)
		}
		if err := w.rdb.ZAdd(ctx, "{sluice:hosts}:beat", redis.Z{Score: 1, Member: "dead"}).Err(); err != nil {
			t.Fatal(err)
		}
		began := make(chan time.Time, 1)
		h := w.host(tuned(nil), provider("fake", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
			began <- time.Now()
			return emit(sdk.Text("x"))
		}))
		if c := w.follow(id, 0).complete(); c.Attempt != 2 {
			t.Errorf("it took attempt %d", c.Attempt)
		}
		if at := <-began; at.Before(a.Due) {
			t.Errorf("it began %v early", a.Due.Sub(at))
		}
		if h.logged("took over from a dead host") == 0 {
			t.Error("nobody took over: the job ran by itself")
		}
	})
}
