package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// start is serve for tests that look at how it ends.
func start(t *testing.T, o Options, h asynq.HandlerFunc) (q *Queue, stop context.CancelFunc, ended chan error) {
	o.Owner, o.Queues, o.Fallback, o.Log = "host-a", map[string]int{"default": 1}, never, logTo(t)
	q = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	go func() { ended <- q.Serve(ctx, h) }()
	t.Cleanup(cancel)
	return q, cancel, ended
}

func end(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(soon):
		t.Fatal("serve does not end")
		return nil
	}
}

func TestStopLetsHandlersFinishAndTakesNothingMore(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ran, release := newTally(), make(chan struct{})
		q, stop, ended := start(t, Options{Redis: rdb, Grace: time.Hour}, func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			<-release
			return ctx.Err()
		})
		put(t, rdb, "default", "a#1")
		ran.wait(t, 1)
		stop()
		<-q.gate.stopped
		for i := range 10 {
			put(t, rdb, "default", fmt.Sprint("late#", i))
		}
		select {
		case err := <-ended:
			t.Fatalf("serve ended with a handler running: %v", err)
		default:
		}
		close(release)
		if err := end(t, ended); err != nil {
			t.Fatal(err)
		}
		if n := count(t, rdb, "default", "pending"); n != 10 {
			t.Errorf("%d of 10 are left", n)
		}
		if n := count(t, rdb, "default", "active") + count(t, rdb, "default", "retry"); n != 0 {
			t.Errorf("%d active or in retry", n)
		}
		ran.once(t)
	})
}

func TestStopCancelsWhoeverOutlastsTheGrace(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	_, stop, ended := start(t, Options{Redis: rdb, Grace: 20 * time.Millisecond}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), ErrStopping) {
			t.Errorf("cancelled because %v", context.Cause(ctx))
		}
		return nil // handed over
	})
	for i := range 3 {
		put(t, rdb, "default", fmt.Sprint("job#", i))
	}
	ran.wait(t, 3)
	stop()
	if err := end(t, ended); err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"pending", "active", "retry", "archived"} {
		if n := count(t, rdb, "default", list); n != 0 {
			t.Errorf("%d %s", n, list)
		}
	}
}

func TestStopLeavesBehindWhoeverWillNotReturn(t *testing.T) {
	rdb := mini(t)
	ran, release := newTally(), make(chan struct{})
	_, stop, ended := start(t, Options{Redis: rdb, Grace: -1, Abandon: 50 * time.Millisecond}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		<-release
		return nil
	})
	put(t, rdb, "default", "a#1")
	ran.wait(t, 1)
	stop()
	if err := end(t, ended); !errors.Is(err, ErrHandler) {
		t.Fatalf("got %v", err)
	}
	if n := count(t, rdb, "default", "pending"); n != 1 {
		t.Errorf("its task is not back: %d pending", n)
	}
	close(release)
}

func TestStopDoesNotWaitForARedisThatIsAway(t *testing.T) {
	s := redisServer(t)
	rdb := s.client()
	ran, release := newTally(), make(chan struct{})
	q, stop, ended := start(t, Options{Redis: rdb, Grace: time.Hour}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		<-release
		return nil
	})
	put(t, rdb, "default", "a#1")
	ran.wait(t, 1)
	s.kill()
	close(release)
	eventually(t, "the end to be tried again", func() bool { return q.Stats().Repeated > 0 })
	stop()
	if err := end(t, ended); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasTakenButNotStartedGoesBack(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		q := New(Options{Redis: rdb, Owner: "host-a", Queues: map[string]int{"default": 1}})
		for i := range 5 {
			put(t, rdb, "default", fmt.Sprint("job#", i))
		}
		l := q.gate.lines["default"]
		keys := []string{keyOf("default", "pending"), keyOf("default", "paused"), keyOf("default", "active"), keyOf("default", "lease")}
		args := []any{time.Now().Add(30 * time.Second).Unix(), keyOf("default", "t:")}
		if n, err := q.claims.take(context.Background(), l, keys, args, 4); err != nil || n != 4 {
			t.Fatal(n, err)
		}
		if !q.claims.holding() || q.claims.have("default") != 4 {
			t.Fatalf("it has %d", q.claims.have("default"))
		}
		for range 2 { // started
			if _, ok := q.claims.next("default"); !ok {
				t.Fatal("nothing held")
			}
		}
		if err := q.claims.release(context.Background(), q.gate.order); err != nil {
			t.Fatal(err)
		}
		if p, a := count(t, rdb, "default", "pending"), count(t, rdb, "default", "active"); p != 3 || a != 2 {
			t.Errorf("%d pending, %d active", p, a)
		}
		if n := q.claims.have("default"); n != 2 {
			t.Errorf("it has %d", n)
		}
	})
}

// A rolling restart: hosts come and go under load, and every task runs once.
func TestHostsTakeTurns(t *testing.T) {
	rdb := redisServer(t).client()
	ran := newTally()
	var early atomic.Int64
	h := func(ctx context.Context, _ *asynq.Task) error {
		if ctx.Err() != nil {
			early.Add(1)
		}
		ran.add(ctx)
		return nil
	}
	const n = 1000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			put(t, rdb, "default", fmt.Sprint("job#", i))
		}
	}()
	_, stop := serve(t, Options{Redis: rdb, Owner: "host-0", Concurrency: 8}, h)
	for i := 1; i <= 5; i++ {
		ran.wait(t, i*n/8)
		_, next := serve(t, Options{Redis: rdb, Owner: fmt.Sprint("host-", i), Concurrency: 8}, h)
		stop()
		stop = next
	}
	<-done
	ran.wait(t, n)
	stop()
	ran.once(t)
	if early.Load() > 0 {
		t.Errorf("%d handlers were cancelled", early.Load())
	}
	if a, p := count(t, rdb, "default", "active"), count(t, rdb, "default", "pending"); a+p != 0 {
		t.Errorf("%d active, %d pending", a, p)
	}
}
