package gateway

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// tellings lists what a socket was told about its place in the queue.
func tellings(t *testing.T, w *fakeWire, id string) []queuedProgress {
	t.Helper()
	var all []queuedProgress
	for _, data := range w.of(job.EventProgress) {
		var p queuedProgress
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			t.Fatal(err)
		}
		if p.JobID == id {
			all = append(all, p)
		}
	}
	return all
}

// A job that waits is told its place, and how long it may take once the pace of
// the queue is known; again only when that changes, and not after it has begun.
func TestPlaceInTheQueue(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		host.announce("echo")
		c := newCore(t.Context(), Options{Config: testConfig(), Redis: rdb, Log: testLog(t)}, openDoor{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = c.tail.Run(t.Context())
		}()
		t.Cleanup(func() { <-ended; c.work.Wait() })
		w := &fakeWire{}
		s := c.open(identity{User: "ada"}, w)
		t.Cleanup(func() { s.end("over") })
		for i := range 6 {
			if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"q`+strconv.Itoa(i)+`"}`); !a.OK {
				t.Fatalf("start: %+v", a)
			}
		}
		// Another tab, and one that resumes.
		tab := &fakeWire{}
		other := c.open(identity{User: "ada"}, tab)
		t.Cleanup(func() { other.end("over") })
		if a := tell(t, other, "job:resume:v1", `{"jobId":"q5"}`); !a.OK {
			t.Fatalf("resume: %+v", a)
		}
		eventually(t, "the other tab's watch", func() bool { return len(c.lobby.of("q5")) == 2 })

		now := time.Now()
		look := func(after time.Duration) {
			now = now.Add(after)
			c.lookAtQueue(t.Context(), now)
		}
		last := func(w *fakeWire, id string) queuedProgress {
			t.Helper()
			all := tellings(t, w, id)
			if len(all) == 0 {
				t.Fatalf("nothing was told about %s", id)
			}
			return all[len(all)-1]
		}
		look(0)
		look(lobbyEvery) // nothing has moved: no news
		want := queuedProgress{JobID: "q5", UserID: "ada", Status: "queued", Message: "5 jobs are ahead", Position: 6}
		for _, w := range []*fakeWire{w, tab} {
			if got := last(w, "q5"); got != want {
				t.Errorf("told %+v, want %+v", got, want)
			}
		}
		if n := len(tellings(t, w, "q5")); n != 2 { // that it waits, and where
			t.Errorf("told %d times", n)
		}
		if got := last(w, "q0"); got.Message != "next in the queue" || got.Position != 1 {
			t.Errorf("the first is told %+v", got)
		}

		// Two are taken in two seconds.
		inspector := asynq.NewInspectorFromRedisClient(rdb)
		for _, id := range []string{"q0", "q1"} {
			host.begin(id, 1)
			if err := inspector.DeleteTask(job.QueueDefault, id+"#1"); err != nil {
				t.Fatal(err)
			}
		}
		look(lobbyEvery)
		if got := last(w, "q5"); got.Position != 4 || got.EstimateMs != 4000 || got.Message != "3 jobs are ahead, about 4 seconds" {
			t.Errorf("told %+v", got)
		}
		eventually(t, "those that began leave the lobby", func() bool { return len(c.lobby.waiting()) == 4 })
		before := len(tellings(t, w, "q0"))
		look(lobbyEvery)
		if n := len(tellings(t, w, "q0")); n != before {
			t.Error("a job that has begun is told its place")
		}
		if a := tell(t, s, "task:cancel:v1", `{"jobId":"q5"}`); !a.OK {
			t.Fatalf("cancel: %+v", a)
		}
		eventually(t, "the end of one that was cancelled", func() bool { return len(c.lobby.of("q5")) == 0 })
		look(lobbyEvery)
		if _, still := c.lobby.seen["q5"]; still {
			t.Error("the lobby remembers a job that is over")
		}
	})
}

func TestDescribe(t *testing.T) {
	l := newLobby()
	l.paces["fast"], l.paces["slow"] = 2, 0.01
	for _, test := range []struct {
		place    job.Place
		hostless bool
		want     queuedProgress
	}{
		{job.Place{Queue: "new", Ahead: 0}, false, queuedProgress{Position: 1, Message: "next in the queue"}},
		{job.Place{Queue: "new", Ahead: 1}, true, queuedProgress{Position: 2, Message: "1 job is ahead; no host is running yet"}},
		{job.Place{Queue: "fast", Ahead: 1}, true, queuedProgress{Position: 2, Message: "1 job is ahead; no host is running yet"}},
		{job.Place{Queue: "fast", Ahead: 0}, false, queuedProgress{Position: 1, Message: "next in the queue, about 1 second", EstimateMs: 1000}},
		{job.Place{Queue: "fast", Ahead: 6}, false, queuedProgress{Position: 7, Message: "6 jobs are ahead, about 4 seconds", EstimateMs: 4000}},
		{job.Place{Queue: "fast", Ahead: 64}, false, queuedProgress{Position: 65, Message: "64 jobs are ahead, about 35 seconds", EstimateMs: 35000}},
		{job.Place{Queue: "fast", Ahead: 450}, false, queuedProgress{Position: 451, Message: "450 jobs are ahead, about 4 minutes", EstimateMs: 240000}},
		{job.Place{Queue: "slow", Ahead: 450}, false, queuedProgress{Position: 451, Message: "450 jobs are ahead, about 13 hours", EstimateMs: 45000000}},
		{job.Place{Queue: "fast", Ahead: lobbyDepth}, false, queuedProgress{Position: 1001, Message: "more than 999 jobs are ahead, about 9 minutes", EstimateMs: 510000}},
	} {
		if got := l.describe(test.place, test.hostless); got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.place, got, test.want)
		}
	}
}

// A time is told in words, and none is told shorter than it is.
func TestSpoken(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Millisecond: "1 second", time.Second: "1 second", 1001 * time.Millisecond: "2 seconds", 59 * time.Second: "59 seconds",
		59001 * time.Millisecond: "1 minute", time.Minute: "1 minute", 61 * time.Second: "2 minutes", 119 * time.Minute: "119 minutes",
		2 * time.Hour: "2 hours", 121 * time.Minute: "3 hours",
	} {
		if got := spoken(d); got != want {
			t.Errorf("%v is spoken %q, want %q", d, got, want)
		}
	}
}

func TestPace(t *testing.T) {
	l := newLobby()
	at := time.Now()
	look := func(places map[string]job.Place, after time.Duration) pace {
		at = at.Add(after)
		l.measure(places, at)
		for id, p := range places {
			l.seen[id] = sight{place: p, at: at}
		}
		return l.paces["q"]
	}
	place := func(ahead int) job.Place { return job.Place{Queue: "q", Ahead: ahead} }
	if p := look(map[string]job.Place{"a": place(10), "far": place(lobbyDepth)}, 0); p != 0 {
		t.Errorf("a pace out of nothing: %v", p)
	}
	if p := look(map[string]job.Place{"a": place(6), "b": place(20), "far": place(900)}, 2*time.Second); p != 2 {
		t.Errorf("pace %v, want 2", p)
	}
	if p := look(map[string]job.Place{"a": place(6), "b": place(20)}, 2*time.Second); p <= 1 || p >= 2 {
		t.Errorf("pace %v after a pause, want less than 2", p)
	}
	if p := look(map[string]job.Place{"b": place(25)}, 2*time.Second); p < 0 || p >= 1.2 {
		t.Errorf("pace %v when the queue grew at its head", p)
	}
}
