package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// ends lets a clerk know that tasks are done, as asynq would.
func ends(t *testing.T, q *Queue, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := end1(q, id).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func end1(q *Queue, id string) *redis.Cmd {
	keys := []string{
		keyOf("default", "active"), keyOf("default", "lease"), keyOf("default", "t:"+id),
		keyOf("default", "processed:"+time.Now().UTC().Format(time.DateOnly)), keyOf("default", "processed"),
	}
	return q.client.EvalSha(context.Background(), doneSHA, keys, id, time.Now().Add(time.Hour).Unix(), 1)
}

// alone is a queue that isn't served.
func alone(rdb redis.UniversalClient) *Queue {
	return New(Options{Redis: rdb, Owner: "host-a", Queues: map[string]int{"default": 1}})
}

func claimed(q *Queue, n int) (int, error) {
	args := []any{time.Now().Add(30 * time.Second).Unix(), keyOf("default", "t:")}
	return q.claims.take(context.Background(), q.gate.lines["default"], takeKeys("default"), args, n)
}

func processed(t *testing.T, rdb redis.UniversalClient) int {
	t.Helper()
	info, err := asynq.NewInspectorFromRedisClient(rdb).GetQueueInfo("default")
	if err != nil {
		t.Fatal(err)
	}
	if info.Processed != info.ProcessedTotal {
		t.Errorf("%d processed today, %d in all", info.Processed, info.ProcessedTotal)
	}
	return info.ProcessedTotal
}

// What asynq's script does for a task that is done, ours does.
func TestDoneTasksAreWrittenAsAsynqDoes(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		rdb.(interface{ AddHook(redis.Hook) }).AddHook(scripts(func(_ context.Context, keys []string, _ error) {
			if what, _ := shape(keys); what == stepEnd {
				t.Errorf("asynq's script is run: %v", keys)
			}
		}))
		ran := newTally()
		serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			return nil
		})
		const n = 300
		for i := range n {
			put(t, rdb, "default", fmt.Sprint("job#", i))
		}
		ran.wait(t, n)
		eventually(t, "the ends to be written", func() bool { return count(t, rdb, "default", "active") == 0 })
		if got := processed(t, rdb); got != n {
			t.Errorf("%d of %d counted", got, n)
		}
		if left := rdb.Keys(context.Background(), keyOf("default", "t:*")).Val(); len(left) > 0 || count(t, rdb, "default", "lease") > 0 {
			t.Errorf("left: %v", left)
		}
		day := keyOf("default", "processed:"+time.Now().UTC().Format(time.DateOnly))
		if ttl := rdb.TTL(context.Background(), day).Val(); ttl <= 0 {
			t.Errorf("the count of the day expires in %v", ttl)
		}
	})
}

// A claim whose reply is lost may have written the ends that went along: they
// are written again, and nothing comes of that.
func TestEndsThatWentWithALostReply(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	o, armed := cutting(s)
	rdb, q := s.client(), alone(connect(t, o))
	for i := range 3 {
		put(t, rdb, "default", fmt.Sprint("job#", i))
	}
	if n, err := claimed(q, 3); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	ends(t, q, "job#0", "job#1", "job#2")
	put(t, rdb, "default", "more#1")
	armed.Store(true)
	if _, err := claimed(q, 3); err == nil {
		t.Fatal("no reply was lost")
	}
	if n := q.claims.have("default"); n != 0 {
		t.Errorf("it has %d", n)
	}
	if n, err := q.claims.giveBack(context.Background(), q.gate.lines["default"]); n != 1 || err != nil {
		t.Errorf("gave back %d, %v: the one of the lost claim is to go back, and no finished one", n, err)
	}
	if part := q.clerk.lend("default"); len(part.tasks) != 0 {
		t.Error("ends go along with a claim although the last write failed")
	}
	if err := q.clerk.write(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	if n := processed(t, rdb); n != 3 {
		t.Errorf("%d counted", n)
	}
	if a, p := count(t, rdb, "default", "active"), count(t, rdb, "default", "pending"); a != 0 || p != 1 {
		t.Errorf("%d active, %d pending", a, p)
	}
	if n := len(q.clerk.room); n != 0 {
		t.Errorf("%d still take room", n)
	}
	if n := q.Stats().Repeated; n != 3 {
		t.Errorf("%d repeated", n)
	}
}

// An end that nobody can write is given up before asynq gives the task to
// somebody else.
func TestEndsAreGivenUpWithTheirLease(t *testing.T) {
	q := alone(mini(t))
	ends(t, q, "a#1")
	part := q.clerk.lend("default")
	part.tasks[0].until = time.Now().Add(-time.Second)
	q.clerk.restore(part)
	if p, more := q.clerk.next(true); len(p.tasks) != 0 || more || len(q.clerk.room) != 0 {
		t.Errorf("still there: %v", p.tasks)
	}
}

func TestAFullBacklogHoldsHandlersUp(t *testing.T) {
	q := alone(mini(t))
	for i := range backlog {
		ends(t, q, fmt.Sprint("job#", i))
	}
	if len(q.clerk.room) != cap(q.clerk.room) {
		t.Fatalf("room for %d more", cap(q.clerk.room)-len(q.clerk.room))
	}
	held := make(chan error, 1)
	go func() { held <- end1(q, "one-more#1").Err() }()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.clerk.run(ctx) }()
	if err := <-held; err != nil {
		t.Errorf("held up, and then: %v", err)
	}
	q.clerk.flush()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if p, _ := q.clerk.next(true); len(p.tasks) != 0 {
		t.Errorf("%d left by flush", len(p.tasks))
	}

	// A host that stops without Redis doesn't wait for room either.
	q = alone(mini(t))
	for i := range backlog {
		ends(t, q, fmt.Sprint("job#", i))
	}
	close(q.clerk.hurry)
	if err := end1(q, "one-more#1").Err(); err == nil {
		t.Error("taken into a full backlog")
	}
	q.clerk.flush()
}

// One that is delivered again while its end is still to be written is not
// forgotten with it.
func TestADoneTaskThatIsDeliveredAgain(t *testing.T) {
	rdb := mini(t)
	q := alone(rdb)
	ends(t, q, "a#1")
	part := q.clerk.lend("default")
	put(t, rdb, "default", "a#1")
	if n, err := claimed(q, 1); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	q.clerk.settled(part)
	if n := q.claims.have("default"); n != 1 {
		t.Errorf("it has %d", n)
	}
}

// A claim that brought less than it asked for has found the end of the queue.
func TestATaskOfAnIdleHostCostsOneClaim(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	q, _ := serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	idle(t, q)
	before := q.Stats().Claims
	const n = 30
	for i := range n {
		put(t, rdb, "default", fmt.Sprint("job#", i))
		ran.wait(t, i+1)
		eventually(t, "its end", func() bool { return count(t, rdb, "default", "active") == 0 })
	}
	// The subscription may have come about only now, which counts as a ring.
	if got := q.Stats().Claims - before; got > n+2 {
		t.Errorf("%d claims for %d tasks", got, n)
	}
}

// Claiming several at once doesn't let one queue keep the others from their share.
func TestQueuesShareWhileTasksAreTakenSeveralAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		const n = 400
		for i := range n {
			for _, name := range []string{"a", "b"} {
				if err := tryPut(rdb, name, fmt.Sprintf("%s#%d", name, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		var order []string
		more, release := make(chan string), make(chan struct{})
		serve(t, Options{Redis: rdb, Queues: map[string]int{"a": 1, "b": 1}, Concurrency: 40, Batch: 8}, func(ctx context.Context, _ *asynq.Task) error {
			select {
			case more <- must(asynq.GetQueueName(ctx)):
			case <-release:
			}
			return nil
		})
		for range n {
			order = append(order, <-more)
		}
		close(release)
		share := 0
		for _, name := range order {
			if name == "a" {
				share++
			}
		}
		if share < n/5 || share > n*4/5 {
			t.Errorf("%d of the first %d are of one queue", share, n)
		}
	})
}
