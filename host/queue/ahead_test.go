package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// dequeue asks for a task as asynq does.
func dequeue(q *Queue, queue string) *redis.Cmd {
	args := []any{time.Now().Add(30 * time.Second).Unix(), keyOf(queue, "t:")}
	return q.gate.take(context.Background(), q.gate.lines[queue], takeKeys(queue), args)
}

// wants fails the test unless the next task of the queue is the one named.
func wants(t *testing.T, q *Queue, queue, id string) {
	t.Helper()
	msg, err := dequeue(q, queue).Text()
	if err != nil || !strings.Contains(msg, id) {
		t.Fatalf("got %q, %v instead of %s", msg, err, id)
	}
}

// fewer is a queue that isn't served and takes 4 at a time.
func fewer(rdb redis.UniversalClient, o Options) *Queue {
	o.Redis, o.Owner, o.Batch = rdb, "host-a", 4
	if o.Queues == nil {
		o.Queues = map[string]int{"default": 1}
	}
	return New(o)
}

func putJobs(t *testing.T, rdb redis.UniversalClient, n int) {
	t.Helper()
	for i := range n {
		put(t, rdb, "default", fmt.Sprintf("job%02d#1", i))
	}
}

func TestTasksClaimedAheadKeepTheirOrder(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		q := fewer(rdb, Options{})
		putJobs(t, rdb, 14)
		for i := range 14 {
			wants(t, q, "default", fmt.Sprintf("job%02d#1", i))
			if i == 0 && q.gate.ahead == nil {
				t.Error("no claim is made ahead")
			}
		}
		if n := q.Stats().Claims; n != 4 {
			t.Errorf("%d claims for 14 tasks", n)
		}
		if err := q.gate.collect(); err != nil {
			t.Error(err)
		}
		if n := q.claims.have("default"); n != 14 || !q.gate.lines["default"].empty {
			t.Errorf("it has %d, and thinks there may be more", n)
		}
	})
}

// Only where nobody else has a claim to be asked first, and handlers are free.
func TestNoClaimIsMadeAhead(t *testing.T) {
	for what, c := range map[string]struct {
		Options
		first func(t *testing.T, q *Queue)
	}{
		"when few handlers are free":    {Options{Concurrency: 5}, nil},
		"when Admit lets nobody in":     {Options{Admit: func(_ string, have int) int { return 4 - have }}, nil},
		"when another queue may have":   {Options{Queues: map[string]int{"default": 1, "other": 1}}, nil},
		"when a room may let one in":    {Options{}, func(_ *testing.T, q *Queue) { q.gate.lines["default"].doors.Add(1) }},
		"when that was all there is":    {Options{}, func(t *testing.T, q *Queue) { holds(t, q, 8, 9) }},
		"when enough wait to be handed": {Options{}, func(t *testing.T, q *Queue) { holds(t, q, 5, 5) }},
	} {
		t.Run(what, func(t *testing.T) {
			rdb := mini(t)
			q := fewer(rdb, c.Options)
			putJobs(t, rdb, 8)
			if c.first != nil {
				c.first(t, q)
			}
			dequeue(q, "default")
			if q.gate.ahead != nil {
				t.Error("one is made")
			}
		})
	}
}

// holds makes the queue hold n tasks, all that a claim of up to asked brought.
func holds(t *testing.T, q *Queue, n, asked int) {
	t.Helper()
	l := q.gate.lines["default"]
	rings := l.rings.Load()
	got, err := claimed(q, n)
	if got != n || err != nil {
		t.Fatal(got, err)
	}
	q.gate.learn(l, rings, asked, got, nil)
}

// What a claim ahead may have taken when its reply is lost is found again.
func TestAClaimAheadThatFails(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	o, armed := cutting(s)
	rdb, q := s.client(), fewer(connect(t, o), Options{})
	putJobs(t, rdb, 8)
	if n, err := claimed(q, 2); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	armed.Store(true)
	wants(t, q, "default", "job00#1")
	if q.gate.ahead == nil {
		t.Fatal("no claim is made ahead")
	}
	wants(t, q, "default", "job01#1")
	if err := dequeue(q, "default").Err(); err == nil {
		t.Fatal("no reply was lost")
	}
	l := q.gate.lines["default"]
	if len(l.doubts) == 0 {
		t.Error("nobody will search for them")
	}
	if n, err := q.claims.giveBack(context.Background(), l); n != 4 || err != nil {
		t.Errorf("gave back %d, %v", n, err)
	}
	wants(t, q, "default", "job02#1")
}

func TestAClaimAheadGoesBackWhenTheQueueStops(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		q := fewer(rdb, Options{})
		putJobs(t, rdb, 8)
		wants(t, q, "default", "job00#1")
		if q.gate.ahead == nil {
			t.Fatal("no claim is made ahead")
		}
		q.gate.stop()
		if err := q.gate.collect(); err != nil {
			t.Fatal(err)
		}
		if err := q.claims.release(context.Background(), q.gate.order); err != nil {
			t.Fatal(err)
		}
		if a, p := count(t, rdb, "default", "active"), count(t, rdb, "default", "pending"); a != 1 || p != 7 {
			t.Errorf("%d active, %d pending", a, p)
		}
	})
}

// Records that are gone are passed over, not taken for the end of the queue.
func TestTasksWithoutARecordArePassedOver(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		q := alone(rdb)
		putJobs(t, rdb, 8)
		for i := range 5 {
			if err := rdb.Del(context.Background(), keyOf("default", fmt.Sprintf("t:job%02d#1", i))).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := claimed(q, 3); n != 3 || err != nil {
			t.Errorf("claimed %d, %v", n, err)
		}
		if a, p := count(t, rdb, "default", "active"), count(t, rdb, "default", "pending"); a != 3 || p != 0 {
			t.Errorf("%d active, %d pending", a, p)
		}
	})
}
