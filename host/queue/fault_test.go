package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// Each fault of asynq is shown on asynq as it is (plain), and on a queue.

// plain runs asynq's own server until the test ends.
func plain(t *testing.T, rdb redis.UniversalClient, h asynq.HandlerFunc, delay asynq.RetryDelayFunc) {
	t.Helper()
	server := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency: 20, Queues: map[string]int{"default": 1}, RetryDelayFunc: delay, Logger: asynqLog{logTo(t)},
		TaskCheckInterval: 10 * time.Millisecond, DelayedTaskCheckInterval: 10 * time.Millisecond,
		ShutdownTimeout: time.Second,
	})
	if err := server.Start(h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
}

// outage lets n handlers start, kills the server, lets them return, and starts
// the server again when hold returns.
func outage(t *testing.T, s *server, ran *tally, release chan struct{}, n int, hold func()) {
	t.Helper()
	rdb := s.client()
	for i := range n {
		put(t, rdb, "default", fmt.Sprint("job#", i))
	}
	ran.wait(t, n)
	s.kill()
	close(release)
	hold()
	s.start()
}

func TestOutagePlainAsynqLeavesFinishedTasksToBeRunAgain(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	rdb := s.client()
	ran, release := newTally(), make(chan struct{})
	// What matters is the state of the context when asynq writes the end of a task
	// for the second time.
	const n = 5
	var first, again atomic.Int64
	dead := make(chan struct{})
	rdb.AddHook(scripts(func(ctx context.Context, keys []string, err error) {
		if what, _ := shape(keys); what != stepEnd || err == nil {
			return
		}
		if ctx.Err() == nil {
			first.Add(1)
		} else if again.Add(1) == n {
			close(dead)
		}
	}))
	plain(t, rdb, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		<-release
		return nil
	}, nil)
	outage(t, s, ran, release, n, func() {
		eventually(t, "asynq to fail", func() bool { return first.Load() == n })
	})
	select {
	case <-dead:
	case <-time.After(soon):
		t.Fatal("asynq does not try again")
	}
	if left := count(t, s.client(), "default", "active"); left != n {
		t.Fatal("plain asynq wrote the ends of tasks after an outage: the repair in settle.go may be needless now")
	}
}

func TestOutageFinishedTasksAreNotRunAgain(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	ran, release := newTally(), make(chan struct{})
	q, _ := serve(t, Options{Redis: s.client(), Concurrency: 20}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		<-release
		return nil
	})
	outage(t, s, ran, release, 20, func() {
		eventually(t, "ends to be tried again", func() bool { return q.Stats().Repeated > 0 })
	})
	rdb := s.client()
	eventually(t, "the ends to be written", func() bool {
		return count(t, rdb, "default", "active") == 0 && count(t, rdb, "default", "lease") == 0
	})
	ran.once(t)
	put(t, rdb, "default", "later#1")
	ran.wait(t, 21)
}

// A cutter is a connection that breaks, once armed, instead of delivering the
// reply to a dequeue that got something.
type cutter struct {
	net.Conn
	armed   *atomic.Bool
	dequeue bool
}

func (c *cutter) Write(p []byte) (int, error) {
	c.dequeue = bytes.Contains(p, []byte(":pending")) && bytes.Contains(p, []byte(":paused"))
	return c.Conn.Write(p)
}

func (c *cutter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.dequeue || n == 0 || p[0] == '-' || p[0] == '_' || bytes.HasPrefix(p, []byte("$-1")) || bytes.HasPrefix(p, []byte("*0")) {
		return n, err
	}
	if c.armed.CompareAndSwap(true, false) { // the server has done it, and nobody will know
		c.Conn.Close()
		return 0, io.EOF
	}
	return n, err
}

// cutting connects to s through cutters.
func cutting(s *server) (*redis.Options, *atomic.Bool) {
	armed := new(atomic.Bool)
	o := s.options()
	o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", s.addr)
		return &cutter{Conn: conn, armed: armed}, err
	}
	return o, armed
}

func TestLostReplyPlainAsynqLosesATask(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	o, armed := cutting(s)
	rdb := s.client()
	armed.Store(true)
	ran := newTally()
	plain(t, connect(t, o), func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	}, nil)
	put(t, rdb, "default", "a#1")
	eventually(t, "a lost reply", func() bool { return !armed.Load() })
	put(t, rdb, "default", "b#1")
	ran.wait(t, 1) // go-redis sent the dequeue again, and that took the next
	eventually(t, "the end to be written", func() bool { return count(t, rdb, "default", "lease") == 1 })
	if ran.of("a#1") == 1 {
		t.Fatal("plain asynq lost no task: claim.go may be needless now")
	}
	if n := count(t, rdb, "default", "active"); n != 1 {
		t.Fatalf("%d active", n)
	}
}

func TestLostReplyTheTaskIsFoundAgain(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	o, armed := cutting(s)
	rdb := s.client()
	ran := newTally()
	q, _ := serve(t, Options{Redis: connect(t, o), Batch: 4}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	for i := range 5 {
		idle(t, q)
		armed.Store(true)
		for k := range 3 {
			put(t, rdb, "default", fmt.Sprintf("job%d#%d", i, k))
		}
		ran.wait(t, 3*i+3)
	}
	if q.Stats().Healed == 0 {
		t.Error("nothing was lost, nothing was tested")
	}
	eventually(t, "the ends to be written", func() bool { return count(t, rdb, "default", "active") == 0 })
	ran.once(t)
}

func TestKilledConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	rdb := s.client()
	ran := newTally()
	serve(t, Options{Redis: rdb, Fallback: 100 * time.Millisecond, Concurrency: 10}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	killer := s.client()
	const n = 300
	for i := range n {
		if i%3 == 0 {
			if err := killer.ClientKillByFilter(context.Background(), "SKIPME", "yes").Err(); err != nil {
				t.Fatal(err)
			}
		}
		id := fmt.Sprint("job#", i)
		for err := tryPut(rdb, "default", id); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict); {
			err = tryPut(rdb, "default", id)
		}
	}
	ran.wait(t, n)
	eventually(t, "the queue to be clean", func() bool {
		return count(t, killer, "default", "active")+count(t, killer, "default", "pending")+count(t, killer, "default", "lease") == 0
	})
	ran.once(t)
}

// A Redis that hangs for longer than our timeouts runs, when it goes on, the
// dequeues that we have given up.
func TestAStalledRedisLosesNothing(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	rdb := s.client()
	o := s.options()
	o.ReadTimeout = 100 * time.Millisecond
	ran := newTally()
	q, _ := serve(t, Options{Redis: connect(t, o), Batch: 4, Fallback: 100 * time.Millisecond}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	idle(t, q)
	const n = 60
	for i := range n {
		put(t, rdb, "default", fmt.Sprint("job#", i))
		if i == n/3 {
			if err := rdb.Do(context.Background(), "DEBUG", "SLEEP", "0.7").Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ran.wait(t, n)
	eventually(t, "the queue to be clean", func() bool {
		return count(t, rdb, "default", "active")+count(t, rdb, "default", "pending")+count(t, rdb, "default", "lease") == 0
	})
	ran.once(t)
}

// full makes a Redis refuse everything that may need memory.
func full(t *testing.T, rdb *redis.Client) {
	t.Helper()
	if err := rdb.ConfigSet(context.Background(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := tryPut(rdb, "default", "one-more#1"); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("enqueue into a full Redis: %v", err)
	}
}

func TestOutOfMemoryPlainAsynqDrainsNothing(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	rdb := s.client()
	for i := range 50 {
		put(t, rdb, "default", fmt.Sprint("job#", i))
	}
	full(t, rdb)
	var dequeues atomic.Int64
	own := s.client()
	own.AddHook(scripts(func(_ context.Context, keys []string, _ error) {
		if what, _ := shape(keys); what == stepTake {
			dequeues.Add(1)
		}
	}))
	ran := newTally()
	plain(t, own, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	}, nil)
	eventually(t, "many vain dequeues", func() bool { return dequeues.Load() > 500 })
	if n := count(t, rdb, "default", "pending"); n != 50 {
		t.Fatalf("plain asynq drained %d of a full Redis: the flag in script.go may be needless now", 50-n)
	}
}

func TestOutOfMemoryTheQueueIsDrained(t *testing.T) {
	t.Parallel()
	s := redisServer(t)
	rdb := s.client()
	for i := range 50 {
		put(t, rdb, "default", fmt.Sprint("job#", i))
	}
	for i := range 3 { // delayed ones as well
		put(t, rdb, "default", fmt.Sprint("later#", i), asynq.ProcessIn(100*time.Millisecond))
	}
	full(t, rdb)
	ran := newTally()
	q, _ := serve(t, Options{Redis: s.client(), Concurrency: 5}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	ran.wait(t, 53)
	eventually(t, "the ends to be written", func() bool { return count(t, rdb, "default", "active") == 0 })
	ran.once(t)
	// And a lease can still be extended.
	ctx := context.Background()
	if err := rdb.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	key := keyOf("default", "lease")
	if err := rdb.ZAdd(ctx, key, redis.Z{Score: 1, Member: "x"}).Err(); err != nil {
		t.Fatal(err)
	}
	full(t, rdb)
	if err := q.Client().ZAddXX(ctx, key, redis.Z{Score: 2, Member: "x"}, redis.Z{Score: 2, Member: "y"}).Err(); err != nil {
		t.Fatal(err)
	}
	if got := rdb.ZRangeWithScores(ctx, key, 0, -1).Val(); len(got) != 1 || got[0].Score != 2 {
		t.Errorf("leases: %v", got)
	}
}

// halfPast is a wait that ends half-way between two whole seconds, at least two
// seconds from now.
func halfPast() time.Duration {
	return time.Until(time.Now().Truncate(time.Second).Add(2500 * time.Millisecond))
}

// scoreOf is when the task in a set of delayed tasks is due.
func scoreOf(t *testing.T, rdb redis.UniversalClient, set string) time.Time {
	t.Helper()
	var at time.Time
	eventually(t, "the task to be delayed", func() bool {
		z := rdb.ZRangeWithScores(context.Background(), keyOf("default", set), 0, 0).Val()
		if len(z) == 1 {
			at = time.UnixMicro(int64(z[0].Score * 1e6))
		}
		return len(z) == 1
	})
	return at
}

func TestRetryAfterPlainAsynqIsEarly(t *testing.T) {
	t.Parallel()
	rdb := redisServer(t).client()
	ran := newTally()
	due := make(chan time.Time, 1)
	plain(t, rdb, func(ctx context.Context, _ *asynq.Task) error {
		if ran.add(ctx) == 1 {
			return errors.New("wait")
		}
		return nil
	}, func(int, error, *asynq.Task) time.Duration {
		wait := halfPast()
		due <- time.Now().Add(wait)
		return wait
	})
	put(t, rdb, "default", "a#1")
	want := <-due
	if got := scoreOf(t, rdb, "retry"); !got.Before(want.Add(-100 * time.Millisecond)) {
		t.Fatalf("plain asynq is due at %v for %v: delay.go may be needless now", got, want)
	}
}

func TestRetryAfterIsNeverEarly(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ran := newTally()
		due, second := make(chan time.Time, 1), make(chan time.Time, 1)
		serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
			if ran.add(ctx) > 1 {
				second <- time.Now()
				return nil
			}
			wait := halfPast()
			due <- time.Now().Add(wait)
			return After(wait, errors.New("wait"))
		})
		put(t, rdb, "default", "a#1")
		want := <-due
		if got := scoreOf(t, rdb, "retry"); got.Before(want) {
			t.Errorf("due at %v for %v", got, want)
		}
		if got := <-second; got.Before(want) {
			t.Errorf("ran %v early", want.Sub(got))
		}
	})
}

// A ring also stands for a task that another process has put off.
func TestTasksPutOffElsewhereAreNoticed(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		started := make(chan time.Time, 1)
		q, _ := serve(t, Options{Redis: rdb, Queues: job.Queues()}, func(context.Context, *asynq.Task) error {
			started <- time.Now()
			return nil
		})
		gateway := job.NewQueue(rdb)
		for i := range 3 {
			idle(t, q)
			const wait = 200 * time.Millisecond
			due := time.Now().Add(wait)
			if err := gateway.Enqueue(t.Context(), job.Ticket{Job: "job", Attempt: int64(i)}, "high", wait); err != nil {
				t.Fatal(err)
			}
			if got := <-started; got.Before(due) {
				t.Errorf("%v early", due.Sub(got))
			}
		}
	})
}

func TestScheduledTasksAreNeverEarly(t *testing.T) {
	t.Parallel()
	rdb := redisServer(t).client()
	started := make(chan time.Time, 1)
	q, _ := serve(t, Options{Redis: rdb}, func(context.Context, *asynq.Task) error {
		started <- time.Now()
		return nil
	})
	tasks := asynq.NewClientFromRedisClient(q.Client())
	for _, exact := range []bool{true, false} {
		for _, unique := range []bool{true, false} {
			want := time.Now().Add(300 * time.Millisecond)
			ctx := context.Background()
			if exact {
				ctx = DueAt(ctx, want)
			}
			opts := []asynq.Option{asynq.ProcessAt(want)}
			if unique {
				opts = append(opts, asynq.Unique(time.Hour))
			}
			if _, err := tasks.EnqueueContext(ctx, asynq.NewTask("t", nil), opts...); err != nil {
				t.Fatal(err)
			}
			at := scoreOf(t, rdb, "scheduled")
			if at.Before(want) || exact && at.After(want.Add(2*time.Millisecond)) || at.After(want.Add(time.Second)) {
				t.Errorf("exact %v, unique %v: due at %v for %v", exact, unique, at, want)
			}
			if got := <-started; got.Before(want) {
				t.Errorf("exact %v, unique %v: %v early", exact, unique, want.Sub(got))
			}
			eventually(t, "the task to end", func() bool { return count(t, rdb, "default", "active") == 0 })
		}
	}
}

// scripts calls a function for every script and its outcome.
type scripts func(ctx context.Context, keys []string, err error)

func (scripts) DialHook(next redis.DialHook) redis.DialHook { return next }

func (scripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f scripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "evalsha" {
			_, keys, _ := script3(cmd.Args())
			f(ctx, keys, err)
		}
		return err
	}
}

func TestReclaimGivesBackWhatADeadHostHad(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		// A host that died: its claims are in Redis, and it isn't.
		died := New(Options{Redis: rdb, Owner: "dead", Queues: map[string]int{"default": 1}})
		for i := range 5 {
			put(t, rdb, "default", "job#"+strconv.Itoa(i))
		}
		l := died.gate.lines["default"]
		keys := []string{keyOf("default", "pending"), keyOf("default", "paused"), keyOf("default", "active"), keyOf("default", "lease")}
		args := []any{time.Now().Add(30 * time.Second).Unix(), keyOf("default", "t:")}
		if _, err := died.claims.take(context.Background(), l, keys, args, 3); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		blocked, release := map[string]bool{}, make(chan struct{})
		ran := newTally()
		q, _ := serve(t, Options{Redis: rdb}, func(ctx context.Context, _ *asynq.Task) error {
			ran.add(ctx)
			id, _ := asynq.GetTaskID(ctx)
			mu.Lock()
			blocked[id] = true
			mu.Unlock()
			<-release
			return nil
		})
		ran.wait(t, 2)
		n, err := Reclaim(context.Background(), rdb, "dead", "default", "other")
		if err != nil || n != 3 {
			t.Fatalf("gave back %d, %v", n, err)
		}
		ran.wait(t, 5)
		close(release)
		eventually(t, "the queue to be clean", func() bool { return count(t, rdb, "default", "active") == 0 })
		ran.once(t)
		if q.Stats().Healed != 0 {
			t.Error("healed what was not its own")
		}
	})
}

func TestAHostTakesUpWhatItHadInAnEarlierLife(t *testing.T) {
	rdb := mini(t)
	earlier := New(Options{Redis: rdb, Owner: "host-a", Queues: map[string]int{"default": 1}})
	put(t, rdb, "default", "a#1")
	keys := []string{keyOf("default", "pending"), keyOf("default", "paused"), keyOf("default", "active"), keyOf("default", "lease")}
	args := []any{time.Now().Add(30 * time.Second).Unix(), keyOf("default", "t:")}
	if _, err := earlier.claims.take(context.Background(), earlier.gate.lines["default"], keys, args, 1); err != nil {
		t.Fatal(err)
	}
	ran := newTally()
	serve(t, Options{Redis: rdb, Owner: "host-a"}, func(ctx context.Context, _ *asynq.Task) error {
		ran.add(ctx)
		return nil
	})
	ran.wait(t, 1)
}
