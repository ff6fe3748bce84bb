package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// A desk lets so many at a time in from each room.
type desk struct {
	mu    sync.Mutex
	free  int
	hint  map[[2]string]bool // queue, room: it may hold something
	in    map[string]bool    // tasks let in
	order []string
	names []string
}

func newDesk(free int, queues ...string) *desk {
	return &desk{free: free, hint: map[[2]string]bool{}, in: map[string]bool{}, names: queues}
}

func (d *desk) Next(queue string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, may := range d.hint {
		if may && k[0] == queue && d.free > 0 {
			d.free--
			return k[1], true
		}
	}
	return "", false
}

func (d *desk) Took(queue, room, id string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id == "" {
		d.free++
		d.hint[[2]string{queue, room}] = err != nil
		return
	}
	d.in[id] = true
	d.order = append(d.order, id)
}

func (d *desk) Rung(queue, room string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if queue == "" {
		for _, name := range d.names {
			d.hint[[2]string{name, "room"}] = true
		}
		return
	}
	d.hint[[2]string{queue, room}] = true
}

// admit makes room for n more.
func (d *desk) admit(q *Queue, n int) {
	d.mu.Lock()
	d.free += n
	d.mu.Unlock()
	q.LetIn()
}

// handler sends every task to the room that is not let in, as the flow before
// the dash of its id.
func (d *desk) handler(q **Queue, ran *tally) asynq.HandlerFunc {
	return func(ctx context.Context, _ *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		d.mu.Lock()
		in := d.in[id]
		delete(d.in, id)
		d.mu.Unlock()
		if !in {
			flow, _, _ := strings.Cut(id, "-")
			return Wait("room", flow)
		}
		ran.add(ctx)
		d.admit(*q, 1)
		return nil
	}
}

func (d *desk) entered() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.order)
}

func inRoom(t *testing.T, rdb redis.UniversalClient, queue string) int {
	n, err := rdb.ZCard(t.Context(), roomKey(queue, "room")).Result()
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// Tasks in a room hold no handler, come back in the order in which they came and
// by turns of their flows, and have not used up a try.
func TestARoomIsFairAndHoldsNoHandler(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		d, ran := newDesk(0, "default"), newTally()
		var q *Queue
		q, _ = serve(t, Options{Redis: rdb, Concurrency: 2, Batch: 1, Rooms: d}, d.handler(&q, ran))
		var want []string
		for i := range 30 {
			put(t, rdb, "default", fmt.Sprintf("a-%02d", i), asynq.MaxRetry(0))
			want = append(want, fmt.Sprintf("a-%02d", i))
			eventually(t, "it to wait", func() bool { return inRoom(t, rdb, "default") == i+1 })
		}
		put(t, rdb, "default", "b-00", asynq.MaxRetry(0))
		eventually(t, "the other flow to wait", func() bool { return inRoom(t, rdb, "default") == 31 })
		if n := count(t, rdb, "default", "active") + count(t, rdb, "default", "lease") + count(t, rdb, "default", "retry"); n != 0 {
			t.Errorf("%d tasks are active, leased or retried", n)
		}
		d.admit(q, 1)
		ran.wait(t, 31)
		ran.once(t)
		if got, want := d.entered(), slices.Insert(want, 1, "b-00"); !slices.Equal(got, want) {
			t.Errorf("let in:\n%v, want\n%v", got, want)
		}
		eventually(t, "the queue to be clean", func() bool {
			return count(t, rdb, "default", "active")+count(t, rdb, "default", "lease")+
				count(t, rdb, "default", "scheduled")+count(t, rdb, "default", "archived")+inRoom(t, rdb, "default") == 0
		})
		eventually(t, "the turns to be forgotten", func() bool {
			d.Rung("default", "room")
			q.LetIn()
			return rdb.Exists(t.Context(), turnsKey("default", "room")).Val() == 0
		})
	})
}

// A task that one host can't run is let in by another that can.
func TestARoomIsSharedByHosts(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		full, free, ran := newDesk(0, "default"), newDesk(3, "default"), newTally()
		var a, b *Queue
		a, _ = serve(t, Options{Redis: rdb, Owner: "host-a", Rooms: full}, full.handler(&a, ran))
		b, _ = serve(t, Options{Redis: rdb, Owner: "host-b", Queues: map[string]int{"default": 1}, Rooms: free}, free.handler(&b, ran))
		for i := range 100 {
			put(t, rdb, "default", fmt.Sprintf("a-%02d", i))
		}
		ran.wait(t, 100)
		ran.once(t)
		if n := len(full.entered()); n > 0 {
			t.Errorf("the full host let %d in", n)
		}
	})
}

// A room that nobody asks for any more gives its tasks back when they are due.
func TestATaskDoesNotWaitForEver(t *testing.T) {
	rdb := redisServer(t).client()
	d, ran := newDesk(0, "default"), newTally()
	var q *Queue
	q, _ = serve(t, Options{Redis: rdb, Rooms: d}, d.handler(&q, ran))
	put(t, rdb, "default", "a-0")
	eventually(t, "it to wait", func() bool { return inRoom(t, rdb, "default") == 1 })
	due, err := rdb.ZScore(t.Context(), keyOf("default", "scheduled"), "a-0").Result()
	if err != nil {
		t.Fatal(err)
	}
	if in := time.Until(time.UnixMilli(int64(due * 1000))); in > roomLeast+time.Second || in < roomLeast/2 {
		t.Errorf("due in %v", in)
	}
	d.mu.Lock()
	d.in["a-0"] = true // the next time it may run
	d.mu.Unlock()
	if err := rdb.ZAdd(t.Context(), keyOf("default", "scheduled"), redis.Z{Score: due - 60, Member: "a-0"}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := ring(t.Context(), rdb, "default"); err != nil {
		t.Fatal(err)
	}
	ran.wait(t, 1)
	// Its place in the room is of no use to anybody.
	d.admit(q, 1)
	eventually(t, "the room to be empty", func() bool { return inRoom(t, rdb, "default") == 0 })
	ran.once(t)
}

// A claim from a room whose reply is lost loses nothing, nor does killing
// connections while tasks go in and out.
func TestARoomLosesNothingWithConnections(t *testing.T) {
	s := redisServer(t)
	rdb := s.client()
	d, ran := newDesk(5, "default"), newTally()
	var q *Queue
	q, _ = serve(t, Options{Redis: rdb, Concurrency: 20, Rooms: d}, d.handler(&q, ran))
	for i := range 300 {
		put(t, rdb, "default", fmt.Sprintf("f%d-%03d", i%7, i))
		if i%20 == 0 {
			_ = s.client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal").Err()
		}
	}
	eventually(t, "all to have run", func() bool {
		d.Rung("", "") // as a resubscription does
		q.LetIn()
		return ran.size() == 300
	})
	eventually(t, "the queue to be clean", func() bool {
		return count(t, rdb, "default", "active")+count(t, rdb, "default", "lease") == 0
	})
}

// What was claimed from a room and not started goes back when the host stops,
// and the end of a wait that was repeated is taken for written.
func TestARoomAndAStop(t *testing.T) {
	rdb := redisServer(t).client()
	d, ran := newDesk(0, "default"), newTally()
	var q *Queue
	q, stop := serve(t, Options{Redis: rdb, Rooms: d}, d.handler(&q, ran))
	for i := range 20 {
		put(t, rdb, "default", fmt.Sprintf("a-%02d", i))
	}
	eventually(t, "all to wait", func() bool { return inRoom(t, rdb, "default") == 20 })
	cmd := q.park(t.Context(), "evalsha", taskID{"default", "a-00"}, &waitError{"room", "a"})
	if err := cmd.Err(); err != nil || inRoom(t, rdb, "default") != 20 {
		t.Errorf("parked again: %v", err)
	}
	d.admit(q, 3)
	stop()
	eventually(t, "nothing to be active", func() bool { return count(t, rdb, "default", "active") == 0 })
	if n := ran.size() + inRoom(t, rdb, "default") + count(t, rdb, "default", "pending"); n != 20 {
		t.Errorf("%d tasks are left of 20", n)
	}
}

// Without Rooms, and with an asynq that isn't known, Wait is a failure.
func TestWaitWithoutRooms(t *testing.T) {
	rdb := mini(t)
	ran := newTally()
	q, _ := serve(t, Options{Redis: rdb, RetryDelay: func(int, error) time.Duration { return time.Millisecond }},
		func(ctx context.Context, _ *asynq.Task) error {
			if ran.add(ctx) < 3 {
				return Wait("room", "a")
			}
			return nil
		})
	if q.CanWait() {
		t.Error("it says that it can")
	}
	put(t, rdb, "default", "a-0")
	eventually(t, "it to be tried again", func() bool { return ran.of("a-0") == 3 })
	if inRoom(t, rdb, "default") != 0 {
		t.Error("it waits in a room")
	}
}

func TestRoomsOnCluster(t *testing.T) {
	rdb := redisCluster(t)
	queues := job.Queues()
	full, free, ran := newDesk(0), newDesk(4, job.QueueHigh, job.QueueDefault, job.QueueLow), newTally()
	var a, b *Queue
	a, _ = serve(t, Options{Redis: rdb, Owner: "host-a", Queues: queues, Rooms: full}, full.handler(&a, ran))
	b, _ = serve(t, Options{Redis: rdb, Owner: "host-b", Queues: queues, Rooms: free}, free.handler(&b, ran))
	i := 0
	for name := range queues {
		for range 30 {
			put(t, rdb, name, fmt.Sprintf("a-%02d", i))
			i++
		}
	}
	ran.wait(t, 90)
	ran.once(t)
}
