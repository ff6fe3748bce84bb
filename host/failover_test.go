package host

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/proto/job/redistest"
	"github.com/sluicehq/sluice/sdk"
)

// counting answers each job with a count of its own that lasts until finish is
// closed, and tells how far each got.
type counting struct {
	finish chan struct{}
	mu     sync.Mutex
	said   map[string]int
	more   chan struct{} // capacity 1
}

func newCounting() *counting {
	return &counting{finish: make(chan struct{}), said: map[string]int{}, more: make(chan struct{}, 1)}
}

func (c *counting) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	for i := 0; ; i++ {
		if err := emit(sdk.Text(fmt.Sprint(i, " "))); err != nil {
			return err
		}
		c.mu.Lock()
		c.said[req.JobID] = i + 1
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
		select {
		case <-c.finish:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(4 * time.Millisecond):
		}
	}
}

// of is how far the answer to a job got.
func (c *counting) of(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said[id]
}

// survives streams many answers, has a master of Redis lost under them, and
// wants each whole, of one attempt, and new jobs to run.
func survives(t *testing.T, addr string, lose func(w *world)) {
	w := newWorld(t, addr)
	c := newCounting()
	h := w.host(tuned(nil), provider("fake", c.generate))
	const streams = 12
	ids := make([]string, streams)
	for i := range ids {
		ids[i] = w.create(job.Job{}) // of a Cluster, on all nodes
	}
	for _, id := range ids {
		w.waitFor(id, "chunks", func(f job.Frame) bool { return f.Event == job.EventChunk && f.Seq > 5 })
	}
	logs := make([]log, streams)
	var reading sync.WaitGroup
	for i, id := range ids { // all the time: follow checks that each frame comes once
		reading.Go(func() { logs[i] = w.follow(id, 0) })
	}
	lose(w)
	id := w.createUntil() // Redis takes jobs again
	at := map[string]int{}
	for _, id := range ids {
		at[id] = c.of(id)
	}
	for _, id := range ids {
		eventually(t, "the answer goes on", func() bool { return c.of(id) > at[id]+20 })
	}
	close(c.finish)
	reading.Wait()
	if t.Failed() {
		return
	}
	for i, l := range logs {
		if n := countedText(t, l.complete().Text); n != c.of(ids[i]) {
			t.Errorf("%d words arrived of %d", n, c.of(ids[i]))
		}
		if l.last().Attempt != 1 {
			t.Errorf("it took attempt %d", l.last().Attempt)
		}
	}
	countedText(t, w.follow(id, 0).complete().Text)
	h.wantOutcomes(map[string]int{"complete": streams + 1})
}

// createUntil accepts a job and hands out its ticket as soon as Redis takes them.
func (w *world) createUntil() string {
	w.t.Helper()
	j := job.Job{ID: job.NewID(), User: "ada", Query: "why?", Models: []string{"m"}}
	eventually(w.t, "a job is accepted", func() bool {
		_, _, err := w.store.Create(w.t.Context(), j)
		if err == nil {
			err = w.tickets.Enqueue(w.t.Context(), job.Ticket{Job: j.ID, Attempt: 1}, "", 0)
		}
		if err != nil && !job.Retryable(err) {
			w.t.Fatal(err)
		}
		return err == nil
	})
	return j.ID
}

// Sentinels put a replica in the place of a master that was killed under the
// streams.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	watch := redistest.StartWatch(t, 3)
	survives(t, "sentinel:"+strings.Join(watch.Sentinels, ","), func(*world) {
		began := time.Now()
		watch.Master.Kill()
		rdb := redis.NewClient(&redis.Options{Addr: watch.Replica.Addr})
		defer rdb.Close()
		eventually(t, "the replica is the master", func() bool {
			info, err := rdb.Info(t.Context(), "replication").Result()
			return err == nil && strings.Contains(info, "role:master")
		})
		t.Logf("another master after %v", time.Since(began).Round(time.Millisecond))
	})
}

// A master of a Cluster is killed under the streams, and its replica takes over
// by itself.
func TestClusterLosesAMaster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 1)
	survives(t, strings.Join(c.Addrs(), ","), func(*world) {
		began := time.Now()
		c.Masters[1].Kill()
		rdb := redis.NewClient(&redis.Options{Addr: c.Replicas[1].Addr})
		defer rdb.Close()
		eventually(t, "the replica is a master", func() bool {
			info, err := rdb.ClusterInfo(t.Context()).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") {
				return false
			}
			info, err = rdb.Info(t.Context(), "replication").Result()
			return err == nil && strings.Contains(info, "role:master")
		})
		t.Logf("another master after %v", time.Since(began).Round(time.Millisecond))
	})
}

// Masters of a Cluster and their replicas change places in order, one after
// another.
func TestClusterFailsOverInOrder(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 1)
	survives(t, strings.Join(c.Addrs(), ","), func(w *world) {
		for _, replica := range c.Replicas {
			rdb := redis.NewClient(&redis.Options{Addr: replica.Addr})
			if err := rdb.ClusterFailover(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the replica is a master", func() bool {
				info, err := rdb.Info(t.Context(), "replication").Result()
				return err == nil && strings.Contains(info, "role:master")
			})
			rdb.Close()
		}
	})
}

func TestClusterConnectionsAreKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("tests on the Cluster take turns")
	}
	killConnections(t, newWorld(t, strings.Join(shared.Get(t).Addrs(), ",")))
}

// A wait that a provider asked for is kept, on every kind of Redis.
func TestWaitIsKept(t *testing.T) {
	t.Parallel()
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		const jobs, wait = 10, 700 * time.Millisecond
		var mu sync.Mutex
		refused := map[string]time.Time{}
		w.host(tuned(nil), provider("fake", func(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
			mu.Lock()
			defer mu.Unlock()
			if at, again := refused[req.JobID]; again {
				if early := wait - time.Since(at); early > 0 {
					t.Errorf("asked again %v early", early)
				}
				return emit(sdk.Text("x"))
			}
			refused[req.JobID] = time.Now()
			return &sdk.Error{Kind: sdk.Limited, Wait: wait, Message: "slow down"}
		}))
		ids := make([]string, jobs)
		for i := range ids {
			ids[i] = w.create(job.Job{})
		}
		for _, id := range ids {
			if c := w.follow(id, 0).complete(); c.Attempt != 2 {
				t.Errorf("it took attempt %d", c.Attempt)
			}
		}
	})
}
