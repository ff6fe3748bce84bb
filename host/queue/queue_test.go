package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

func TestATaskStartsWhenItIsRungFor(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ran := newTally()
		q, _ := serve(t, Options{Redis: rdb, Queues: job.Queues()}, func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			return nil
		})
		n := 0
		for range 5 {
			for name := range job.Queues() {
				idle(t, q)
				put(t, rdb, name, fmt.Sprint("job#", n))
				n++
				ran.wait(t, n)
			}
		}
		ran.once(t)
		if f := q.Stats().Fallbacks; f != 0 {
			t.Errorf("%d waits ended by the timer", f)
		}
		for name := range job.Queues() {
			eventually(t, "the queues to be clean", func() bool {
				return count(t, rdb, name, "active") == 0 && count(t, rdb, name, "lease") == 0
			})
		}
	})
}

func TestATaskFromThisProcessNeedsNoRing(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	q, _ := serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	idle(t, q)
	if err := tryPut(q.Client(), "default", "a#1"); err != nil {
		t.Fatal(err)
	}
	ran.wait(t, 1)
	idle(t, q)
	if err := tryPut(rdb, "default", "b#1"); err != nil {
		t.Fatal(err)
	}
	q.Wake("default")
	ran.wait(t, 2)
}

func TestManyTasksRunOnceEach(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		const n = 600
		ran := newTally()
		var now, most atomic.Int64
		q, _ := serve(t, Options{Redis: rdb, Queues: job.Queues(), Concurrency: 50}, func(ctx context.Context, _ *asynq.Task) error {
			for v := now.Add(1); v > most.Load(); {
				most.Store(v)
			}
			defer now.Add(-1)
			ran.add(ctx)
			return nil
		})
		names := []string{job.QueueHigh, job.QueueDefault, job.QueueLow}
		for i := range n {
			put(t, rdb, names[i%3], fmt.Sprint("job#", i))
		}
		ran.wait(t, n)
		for _, name := range names {
			eventually(t, "the queue to be clean", func() bool {
				return count(t, rdb, name, "active")+count(t, rdb, name, "lease")+count(t, rdb, name, "pending") == 0
			})
		}
		ran.once(t)
		if most.Load() > 50 {
			t.Errorf("%d handlers ran at once", most.Load())
		}
		if s := q.Stats(); s.Taken != n {
			t.Errorf("%d tasks taken", s.Taken)
		}
	})
}

func TestALostRingCostsTheFallbackAtMost(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ran := newTally()
		q, _ := serve(t, Options{Redis: rdb, Fallback: 50 * time.Millisecond}, func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			return nil
		})
		idle(t, q)
		claims := q.Stats().Claims
		eventually(t, "some looks at nothing", func() bool { return q.Stats().Fallbacks > 5 })
		// The subscription may have come about only now, which counts as a ring.
		if n := q.Stats().Claims - claims; n > 1 {
			t.Errorf("%d claims from an empty queue", n)
		}
		if err := tryPut(rdb, "default", "a#1"); err != nil {
			t.Fatal(err)
		}
		ran.wait(t, 1)
	})
}

func TestAResubscriptionCountsAsARing(t *testing.T) {
	rdb := redisServer(t).client()
	ran := newTally()
	q, _ := serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	for i := range 20 {
		idle(t, q)
		if err := tryPut(rdb, "default", fmt.Sprint("job#", i)); err != nil {
			t.Fatal(err)
		}
		// Nobody rings; but whoever listened was away and can't know that.
		if err := rdb.ClientKillByFilter(context.Background(), "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		ran.wait(t, i+1)
	}
}

func TestTheBellAsksWhetherAnybodyIsThere(t *testing.T) {
	var pings atomic.Int64
	rdb := connect(t, &redis.Options{
		Addr: miniredis.RunT(t).Addr(),
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &pingCounter{conn, &pings}, err
		},
	})
	heard := make(chan string, 10)
	b := &bell{wake: func(queue string) { heard <- queue }, quiet: 5 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.listen(ctx, subscriptions(rdb, nil)[0]) }()
	if got := <-heard; got != "" {
		t.Errorf("first heard %q", got)
	}
	eventually(t, "some silences", func() bool { return pings.Load() > 3 })
	if err := ring(ctx, rdb, "default"); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "default" {
		t.Errorf("heard %q: it subscribed anew because of the silence", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

type pingCounter struct {
	net.Conn
	n *atomic.Int64
}

func (c *pingCounter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("ping")) {
		c.n.Add(1)
	}
	return c.Conn.Write(p)
}

func TestAPausedQueueIsLeftAlone(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	q, _ := serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	inspect := asynq.NewInspectorFromRedisClient(rdb)
	put(t, rdb, "default", "a#1")
	ran.wait(t, 1)
	if err := inspect.PauseQueue("default"); err != nil {
		t.Fatal(err)
	}
	put(t, rdb, "default", "b#1")
	idle(t, q)
	if n := count(t, rdb, "default", "pending"); n != 1 {
		t.Errorf("%d pending", n)
	}
	if err := inspect.UnpauseQueue("default"); err != nil {
		t.Fatal(err)
	}
	q.Wake("default")
	ran.wait(t, 2)
}

func TestAdmitKeepsAQueueFromTakingAllHandlers(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		var slow atomic.Int64
		release := make(chan struct{})
		ran := newTally()
		serve(t, Options{
			Redis: rdb, Concurrency: 10, Queues: map[string]int{"slow": 1, "quick": 1},
			Admit: func(queue string, have int) int {
				if queue == "slow" {
					return 2 - have
				}
				return 10
			},
		}, func(ctx context.Context, _ *asynq.Task) error {
			if name, _ := asynq.GetQueueName(ctx); name == "slow" {
				if slow.Add(1) > 2 {
					t.Error("more than 2 of slow")
				}
				<-release
				slow.Add(-1)
			}
			ran.add(ctx)
			return nil
		})
		for i := range 6 {
			put(t, rdb, "slow", fmt.Sprint("slow#", i))
		}
		eventually(t, "two slow ones", func() bool { return slow.Load() == 2 })
		for i := range 20 {
			put(t, rdb, "quick", fmt.Sprint("quick#", i))
		}
		ran.wait(t, 20)
		if n := count(t, rdb, "slow", "pending"); n != 4 {
			t.Errorf("%d slow ones are waiting", n)
		}
		close(release)
		ran.wait(t, 26)
		ran.once(t)
	})
}

func TestAFailedTaskIsTriedAgainAndThenArchived(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ran := newTally()
		serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			return After(time.Millisecond, errors.New("no luck"))
		})
		put(t, rdb, "default", "a#1", asynq.MaxRetry(2))
		eventually(t, "the archive", func() bool { return count(t, rdb, "default", "archived") == 1 })
		if n := ran.of("a#1"); n != 3 {
			t.Errorf("ran %d times", n)
		}
		info, err := asynq.NewInspectorFromRedisClient(rdb).GetTaskInfo("default", "a#1")
		if err != nil || info.LastErr != "no luck" {
			t.Errorf("archived with %v, %v", info, err)
		}
		// From there it can be run again.
		if err := asynq.NewInspectorFromRedisClient(rdb).RunTask("default", "a#1"); err != nil {
			t.Fatal(err)
		}
		if err := ring(context.Background(), rdb, "default"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another run", func() bool { return ran.of("a#1") == 4 })
	})
}

func TestAPanicIsAFailure(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	serve(t, Options{Redis: rdb, RetryDelay: func(int, error) time.Duration { return 0 }}, func(ctx context.Context, _ *asynq.Task) error {
		if ran.add(ctx) == 1 {
			panic("oh")
		}
		return nil
	})
	put(t, rdb, "default", "a#1")
	eventually(t, "a second run", func() bool { return ran.of("a#1") == 2 })
}

func TestTheHandlersContextIsNotAsynqs(t *testing.T) {
	rdb := redisServer(t).client()
	type key struct{}
	started, release := make(chan context.Context), make(chan struct{})
	later := func(int, error) time.Duration { return time.Hour }
	serve(t, Options{Redis: rdb, RetryDelay: later}, func(ctx context.Context, _ *asynq.Task) error {
		started <- ctx
		<-release
		return ctx.Err()
	})
	put(t, rdb, "default", "a#1")
	ctx := <-started
	if id, ok := asynq.GetTaskID(ctx); !ok || id != "a#1" {
		t.Errorf("task id %q", id)
	}
	child, cancel := context.WithCancel(context.WithValue(ctx, key{}, 1))
	defer cancel()
	if id, _ := asynq.GetTaskID(child); id != "a#1" {
		t.Errorf("task id %q of a derived context", id)
	}
	// asynq stops waiting for the handler and puts the task into retry; the
	// handler goes on, since the job's record says nothing of a cancel.
	if err := asynq.NewInspectorFromRedisClient(rdb).CancelProcessing("a#1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "asynq to cancel", func() bool { return count(t, rdb, "default", "retry") == 1 })
	if err := child.Err(); err != nil {
		t.Errorf("the handler's context ended: %v", err)
	}
	close(release)
}

func TestAnUnknownAsynqIsPolled(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	q := New(Options{Redis: rdb, Owner: "host-a", Queues: map[string]int{"default": 1}, Fallback: never, Log: logTo(t)})
	q.recognise = func() error { return errors.New("somebody updated it") }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Serve(ctx, asynq.HandlerFunc(func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			return nil
		}))
	}()
	if err := tryPut(rdb, "default", "a#1"); err != nil {
		t.Fatal(err)
	}
	ran.wait(t, 1)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if s := q.Stats(); s.Claims != 0 {
		t.Errorf("it claimed: %+v", s)
	}
}

func TestServeRefusesWhatCannotWork(t *testing.T) {
	rdb := mini(t)
	for name, o := range map[string]Options{
		"no Redis":  {Owner: "a", Queues: map[string]int{"q": 1}},
		"no owner":  {Redis: rdb, Queues: map[string]int{"q": 1}},
		"no names":  {Redis: rdb, Owner: "a"},
		"weight":    {Redis: rdb, Owner: "a", Queues: map[string]int{"q": 0}},
		"no length": {Redis: rdb, Owner: "a", Queues: map[string]int{"": 1}},
	} {
		if err := New(o).Serve(t.Context(), asynq.HandlerFunc(asynq.NotFound)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestQueuesOnCluster(t *testing.T) {
	rdb := redisCluster(t)
	ran := newTally()
	queues := map[string]int{}
	for i := range 6 {
		queues[fmt.Sprint("q", i)] = 1
	}
	q, stop := serve(t, Options{Redis: rdb, Queues: queues}, func(ctx context.Context, _ *asynq.Task) error {
		if ran.add(ctx) == 1 && strings.HasSuffix(must(asynq.GetTaskID(ctx)), "7") {
			return After(10*time.Millisecond, errors.New("once more"))
		}
		return nil
	})
	n := 0
	for range 10 {
		for name := range queues {
			if n%10 == 0 {
				idle(t, q)
			}
			put(t, rdb, name, fmt.Sprint("job#", n))
			n++
		}
	}
	ran.wait(t, n)
	for name := range queues {
		eventually(t, "the queue to be clean", func() bool {
			return count(t, rdb, name, "active")+count(t, rdb, name, "lease")+count(t, rdb, name, "retry")+count(t, rdb, name, "pending") == 0
		})
	}
	if f := q.Stats().Fallbacks; f != 0 {
		t.Errorf("%d waits ended by the timer", f)
	}
	stop()
	for i := range n {
		id := fmt.Sprint("job#", i)
		want := 1
		if strings.HasSuffix(id, "7") {
			want = 2
		}
		if got := ran.of(id); got != want {
			t.Errorf("%s ran %d times, want %d", id, got, want)
		}
	}
}

func must(s string, ok bool) string {
	if !ok {
		panic("no value")
	}
	return s
}
