package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// sink checks what a watch delivers: every frame once, in order, and one call at a time.
type sink struct {
	t     testing.TB
	done  chan struct{}
	inner atomic.Int32

	mu     sync.Mutex
	pos    int64
	frames []Frame
	more   chan struct{}
}

func newSink(t testing.TB, after int64) *sink {
	return &sink{t: t, done: make(chan struct{}), pos: after, more: make(chan struct{}, 1)}
}

func (s *sink) deliver(frames []Frame) {
	if s.inner.Add(1) != 1 {
		s.t.Error("two deliveries at a time")
	}
	defer s.inner.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range frames {
		if f.From != s.pos+1 {
			s.t.Errorf("frame %d..%d after %d", f.From, f.Seq, s.pos)
		}
		s.pos = f.Seq
		s.frames = append(s.frames, f)
		if f.Terminal() {
			close(s.done)
		}
	}
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *sink) wait() []Frame {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(soon):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("no end after frame %d", s.pos)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames
}

// reach waits for a position.
func (s *sink) reach(seq int64) {
	s.t.Helper()
	deadline := time.After(soon)
	for {
		s.mu.Lock()
		pos := s.pos
		s.mu.Unlock()
		if pos >= seq {
			return
		}
		select {
		case <-s.more:
		case <-deadline:
			s.t.Fatalf("at frame %d, not at %d", pos, seq)
		}
	}
}

func startTail(t testing.TB, s *Store, o TailOptions) *Tail {
	tail := NewTail(s, logger(t), o)
	start(t, tail.Run)
	return tail
}

// muted makes a store whose frames are logged and not published: every publication is lost.
type muted struct{ on atomic.Bool }

func (m *muted) DialHook(next redis.DialHook) redis.DialHook { return next }
func (m *muted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (m *muted) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); m.on.Load() && len(args) > 11 && strings.HasPrefix(fmt.Sprint(args[11]), jobChannelPrefix) {
			args[11] = "nowhere"
		}
		return next(ctx, cmd)
	}
}

func TestTailFollowsManyJobs(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{General: true})
		tail := startTail(t, s, TailOptions{Merge: -1})
		var wg sync.WaitGroup
		for n := range 20 {
			k := create(t, s, Job{})
			var sinks []*sink
			for range 3 {
				snk := newSink(t, 0)
				tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
				sinks = append(sinks, snk)
			}
			wg.Go(func() {
				r := rand.New(rand.NewPCG(2, uint64(n)))
				a := begin(t, s, k, "h")
				must(t, a.Append(t.Context(), &Start{}))
				for i := range 50 {
					must(t, a.Append(t.Context(), chunk(fmt.Sprint(i, " "))))
					if r.IntN(10) == 0 { // a late joiner, somewhere
						snk := newSink(t, int64(r.IntN(int(a.Seq)+1)))
						tail.Watch(k.Job, snk.pos, WatchFunc(snk.deliver), 0)
						sinks = append(sinks, snk)
					}
				}
				must(t, a.Finish(t.Context(), &Complete{}))
				want, _ := logOf(t, s, k.Job)
				for _, snk := range sinks {
					got := snk.wait()
					for i, f := range got {
						if string(f.Raw) != string(want[len(want)-len(got)+i].Raw) {
							t.Errorf("delivered %s", f.Raw)
						}
					}
				}
			})
		}
		wg.Wait()
		eventually(t, "ended watches are forgotten", func() bool {
			tail.mu.Lock()
			defer tail.mu.Unlock()
			return len(tail.jobs) == 0 && len(tail.queue) == 0
		})
	})
}

func TestTailMergesCatchUp(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		tail := startTail(t, s, TailOptions{MergeSize: 4000})
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		must(t, a.Append(t.Context(), &Start{}))
		for range 40 {
			var es []Event
			for i := range 60 {
				es = append(es, chunk(fmt.Sprintf("%d é<\n", i)))
			}
			must(t, a.Append(t.Context(), es...))
		}
		snk := newSink(t, 0)
		tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
		snk.reach(a.Seq)
		must(t, a.Append(t.Context(), chunk("live")))
		must(t, a.Finish(t.Context(), &Complete{}))
		got := snk.wait()
		all, _ := logOf(t, s, k.Job)
		if len(got) > 20 || textOf(t, got) != textOf(t, all) {
			t.Fatalf("%d frames in %d", len(all), len(got))
		}
		// A job that has ended: the same, and the watch is forgotten.
		snk = newSink(t, 100)
		tail.Watch(k.Job, 100, WatchFunc(snk.deliver), 0)
		if got := snk.wait(); textOf(t, got) != textOf(t, all[100:]) {
			t.Fatal("late joiner has another text")
		}
		tail.Watch(k.Job, 1<<40, WatchFunc(func([]Frame) { t.Error("frames after the end") }), 0)
		eventually(t, "watches of an ended job are forgotten", func() bool {
			tail.mu.Lock()
			defer tail.mu.Unlock()
			return len(tail.jobs) == 0
		})
	})
}

func TestTailNoticesLostPublications(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		m := &muted{}
		rdb.AddHook(m)
		s := NewStore(rdb, Options{})
		tail := startTail(t, s, TailOptions{Quiet: 50 * time.Millisecond, Merge: -1})
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		snk := newSink(t, 0)
		tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
		must(t, a.Append(t.Context(), &Start{}))
		snk.reach(1)
		m.on.Store(true)
		must(t, a.Append(t.Context(), chunk("lost"))) // noticed by the gap
		m.on.Store(false)
		must(t, a.Append(t.Context(), chunk("heard")))
		snk.reach(3)
		m.on.Store(true) // noticed by its position alone
		must(t, a.Append(t.Context(), chunk("lost")))
		snk.reach(4)
		must(t, a.Finish(t.Context(), &Complete{}))
		if got := events(snk.wait()); got != "start chunk chunk chunk complete" {
			t.Fatal(got)
		}
	})
}

// TestTailUnderKills kills every pub/sub connection again and again.
func TestTailUnderKills(t *testing.T) {
	srv := startServer(t)
	rdb := srv.client(t)
	s := NewStore(rdb, Options{})
	tail := startTail(t, s, TailOptions{Quiet: 200 * time.Millisecond})
	stopKilling := start(t, func(ctx context.Context) error {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-tick.C:
				rdb.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub")
			}
		}
		return nil
	})
	var sinks []*sink
	var jobs []Ticket
	for range 10 {
		k := create(t, s, Job{})
		snk := newSink(t, 0)
		tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
		sinks, jobs = append(sinks, snk), append(jobs, k)
	}
	var wg sync.WaitGroup
	for _, k := range jobs {
		wg.Go(func() {
			a := begin(t, s, k, "h")
			for range 2000 {
				must(t, a.Append(t.Context(), chunk("x")))
			}
			must(t, a.Finish(t.Context(), &Complete{}))
		})
	}
	wg.Wait()
	for _, snk := range sinks {
		if got := textOf(t, snk.wait()); len(got) != 2000 {
			t.Errorf("%d chunks", len(got))
		}
	}
	stopKilling()
}

func TestFollow(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		must(t, a.Append(t.Context(), &Start{}, chunk("a")))
		next := make(chan struct{})
		go func() {
			defer close(next)
			next <- struct{}{}
			a.Append(context.Background(), chunk("b"), chunk("c"))
			next <- struct{}{}
			a.Finish(context.Background(), &Complete{})
		}()
		var got []Frame
		for f, err := range s.Follow(t.Context(), k.Job, 1) {
			must(t, err)
			got = append(got, f)
			if f.Seq == 2 || f.Seq == 4 {
				<-next
			}
		}
		<-next
		if events(got) != "chunk chunk chunk complete" || got[0].Seq != 2 || textOf(t, got) != "abc" {
			t.Fatal(events(got))
		}
		for f, err := range s.Follow(t.Context(), k.Job, 5) {
			t.Fatal(f, err)
		}
		for _, err := range s.Follow(t.Context(), "nope", 0) {
			if !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		}
		k = create(t, s, Job{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range s.Follow(ctx, k.Job, 0) {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		must(t, begin(t, s, k, "h").Append(t.Context(), &Start{}))
		for range s.Follow(t.Context(), k.Job, 0) { // left early
			break
		}
	})
}

func TestUserFeedAndLegacy(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{General: true})
		tail := NewTail(s, logger(t), TailOptions{})
		legacy := make(chan string, 100)
		tail.Legacy(func(channel string, payload []byte) { legacy <- channel + " " + string(payload) })
		user := make(chan Frame, 10)
		stop := tail.WatchUser("ann", func(f Frame) { user <- f })
		start(t, tail.Run)
		eventually(t, "subscribed", func() bool {
			tail.mu.Lock()
			defer tail.mu.Unlock()
			return len(tail.live) == 4
		})
		k := create(t, s, Job{Query: "q", Models: []string{"echo"}})
		create(t, s, Job{User: "bob"})
		select {
		case f := <-user:
			var e Started
			must(t, json.Unmarshal(f.Data, &e))
			if f.Event != EventStarted || f.Seq != 0 || e != (Started{k.Job, "q", "echo", e.Created}) || e.Created == 0 {
				t.Fatalf("%s", f.Raw)
			}
		case <-time.After(soon):
			t.Fatal("no job:started")
		}
		snk := newSink(t, 0)
		tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
		a := begin(t, s, k, "h")
		must(t, a.Append(t.Context(), &Start{}, chunk("x")))
		snk.reach(2)
		for _, m := range [][2]string{
			{ChunkChannel, `{"event":"model:chunk:v1","data":{"jobId":"old","chunk":"x"}}`},
			{CompleteChannel, `{"jobId":"old","userId":"ann"}`}, {ProgressChannel, `not JSON`},
			{Channel(k.Job), `{"jobId":"` + k.Job + `","userId":"ann","chunk":"x","index":0}`},
			{Channel(k.Job), `{"event":"model:chunk:v1","data":{"jobId":"someone-elses","userId":"x","attempt":1,"seq":3}}`},
		} {
			must(t, rdb.Publish(t.Context(), m[0], m[1]).Err())
			if strings.Contains(m[1], "someone-elses") {
				continue
			}
			select {
			case got := <-legacy:
				if got != m[0]+" "+m[1] {
					t.Fatalf("got %s, want %v", got, m)
				}
			case <-time.After(soon):
				t.Fatalf("%v did not arrive", m)
			}
		}
		must(t, a.Finish(t.Context(), &Complete{}))
		snk.wait()
		stop()
		stop()
		eventually(t, "unsubscribed", func() bool {
			tail.mu.Lock()
			defer tail.mu.Unlock()
			return len(tail.live) == 3
		})
		if len(user) != 0 || len(legacy) != 0 {
			t.Errorf("%d and %d messages more than expected", len(user), len(legacy))
		}
	})
}

func TestTailReportsLostJobs(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		tail := NewTail(s, logger(t), TailOptions{Quiet: 20 * time.Millisecond, Lost: 100 * time.Millisecond})
		lost := make(chan string, 10)
		tail.Lost(func(id string) { lost <- id })
		start(t, tail.Run)
		gone, kept := create(t, s, Job{}), create(t, s, Job{})
		for _, k := range []Ticket{gone, kept, gone} {
			tail.Watch(k.Job, 0, WatchFunc(func([]Frame) {}), 0)
		}
		must(t, rdb.Del(t.Context(), metaKey(gone.Job)).Err())
		select {
		case id := <-lost:
			if id != gone.Job {
				t.Fatal(id)
			}
		case <-time.After(soon):
			t.Fatal("not reported")
		}
		tail.mu.Lock()
		defer tail.mu.Unlock()
		if len(tail.jobs) != 1 || len(lost) != 0 {
			t.Fatal(len(tail.jobs), len(lost))
		}
	})
}

// Redis lost the ticket and kept the job: whoever watches it is told to enqueue the ticket again.
func TestTailReportsIdleJobs(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		tail := NewTail(s, logger(t), TailOptions{Quiet: 10 * time.Millisecond, Idle: 50 * time.Millisecond})
		idle := make(chan Ticket, 1000)
		tail.Idle(func(k Ticket, priority string) {
			if priority != PriorityLow {
				t.Errorf("priority %q", priority)
			}
			idle <- k
		})
		queued, running, waiting := create(t, s, Job{Priority: PriorityLow}), create(t, s, Job{}), create(t, s, Job{Priority: PriorityLow})
		begin(t, s, running, "h")
		next, err := begin(t, s, waiting, "h").Release(t.Context(), StateWaiting)
		must(t, err)
		for _, k := range []Ticket{queued, running, waiting} {
			tail.Watch(k.Job, 0, WatchFunc(func([]Frame) {}), 0)
		}
		start(t, tail.Run)
		got := map[Ticket]int{}
		for got[queued] < 2 || got[next] < 2 {
			select {
			case k := <-idle:
				got[k]++
			case <-time.After(soon):
				t.Fatal(got)
			}
		}
		if len(got) != 2 {
			t.Fatal(got)
		}
	})
}

// A frame that arrives while an older page of the log is on its way is not forgotten.
func TestFrameDuringRead(t *testing.T) {
	tail := NewTail(NewStore(mini(t), Options{}), logger(t), TailOptions{})
	snk := newSink(t, 1)
	stop := tail.Watch("j", 1, WatchFunc(snk.deliver), 0)
	defer stop()
	w := tail.jobs["j"].watches[0]
	w.wantRead()
	after, seen := w.place()
	w.offer([]Frame{{Seq: 2, From: 2, Job: "j", Event: EventChunk}})
	if !w.take(t.Context(), nil, Status{State: StateRunning, Seq: after}, nil, seen) {
		t.Fatal("the watch rests, though a frame was seen beyond the page")
	}
	// What is not in the log is not waited for either: Redis went back.
	after, seen = w.place()
	if w.take(t.Context(), nil, Status{State: StateRunning, Seq: after}, nil, seen) {
		t.Fatal("the watch reads on without end")
	}
}

// Stop from within deliver, and a watch of the same job again.
func TestWatchStops(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		tail := startTail(t, s, TailOptions{})
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		for i := range 20 {
			got := make(chan int64, 100)
			var stop func()
			ready := make(chan struct{})
			stop = tail.Watch(k.Job, int64(i), WatchFunc(func(fs []Frame) {
				<-ready
				stop()
				got <- fs[len(fs)-1].Seq
			}), 0)
			close(ready)
			must(t, a.Append(t.Context(), chunk("x")))
			select {
			case seq := <-got:
				if seq != int64(i)+1 {
					t.Fatal(seq)
				}
			case <-time.After(soon):
				t.Fatal("nothing")
			}
			must(t, a.Append(t.Context()))
		}
		must(t, a.Finish(t.Context(), &Complete{}))
	})
}
