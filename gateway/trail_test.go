package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/sluicehq/sluice/proto/job"
)

// A start whose answer was "unavailable" may have created the job all the same,
// and then the socket is shown it as news. The same start again, on the same
// connection, brings nothing twice, wherever the job's end falls.
func TestStartAgainDoublesNothing(t *testing.T) {
	const payload = `{"query":"x","jobId":"j"}`
	for name, endsAt := range map[string]string{
		"ended before":              "before",
		"ends before it is handled": "handled",
		"ends before its ack":       "acked",
		"ends after":                "after",
	} {
		t.Run(name, func(t *testing.T) {
			rdb := memoryRedis(t)
			host := newHost(t, rdb)
			c := newTestCore(t, rdb)
			w := &fakeWire{}
			s := c.open(identity{User: anonymous}, w)
			j := job.Job{ID: "j", User: anonymous, Query: "x", Models: []string{"echo"}}
			if _, _, err := host.store.Create(context.Background(), j); err != nil {
				t.Fatal(err)
			}
			s.jobStarted(encode(job.Started{JobID: "j", Query: "x", Created: s.opened + 1}))
			a := host.begin("j", 1)
			host.chunks(a, "a", "b", "c")
			end := func(at string) {
				if at != endsAt {
					return
				}
				host.complete(a)
				eventually(t, "the end", func() bool { return len(w.of("model:complete:v1")) == 1 })
			}
			end("before")
			if a := tell(t, s, "search:start:v1", payload); !a.OK {
				t.Fatalf("start: %+v", a)
			}
			end("handled")
			_, after, err := s.startJob(context.Background(), request{JobID: "j", Payload: json.RawMessage(payload)})
			if err != nil {
				t.Fatal(err)
			}
			end("acked")
			after()
			end("after")
			// Late news, and a start to be sure that nothing is on its way.
			s.jobStarted(encode(job.Started{JobID: "j", Query: "x", Created: s.opened + 1}))
			if a := tell(t, s, "search:start:v1", payload); !a.OK || a.Status != "complete" {
				t.Fatalf("start: %+v", a)
			}
			eventually(t, "no watch", func() bool { return len(c.hub.watchersOf("j")) == 0 })
			equalFrames(t, w.frames(), host.log("j", 0))
			if n := len(w.of("job:started:v1")); n != 1 {
				t.Errorf("%d times job:started", n)
			}

			// Who asks for frames by their number gets them again.
			if a := tell(t, s, "job:resume:v1", `{"jobId":"j","lastSeq":2}`); !a.OK {
				t.Fatalf("resume: %+v", a)
			}
			eventually(t, "the end again", func() bool { return len(w.of("model:complete:v1")) == 2 })
			equalFrames(t, w.frames(), append(host.log("j", 0), host.log("j", 2)...))
		})
	}
}

// News that is handled while a client resumes doesn't take it back to the
// beginning.
func TestNewsBesideResume(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	c := newTestCore(t, rdb)
	if _, _, err := host.store.Create(context.Background(), job.Job{ID: "j", User: anonymous, Query: "x", Models: []string{"echo"}}); err != nil {
		t.Fatal(err)
	}
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	a := host.begin("j", 1)
	host.chunks(a, "a", "b", "c")
	news, begun, err := s.follow("j", identity{User: anonymous}, false) // as far as the news gets
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	if a := tell(t, s, "job:resume:v1", `{"jobId":"j","lastSeq":1}`); !a.OK {
		t.Fatalf("resume: %+v", a)
	}
	eventually(t, "the backlog", func() bool { return w.last(t) == 4 })
	news.begin()
	host.complete(a)
	eventually(t, "the end", func() bool { return len(w.of("model:complete:v1")) == 1 })
	equalFrames(t, w.frames(), host.log("j", 1))
}

// A job that was left goes on where it was left, when it is started again; a
// resume that comes to its end leaves no watch behind.
func TestLeftJobGoesOn(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	c := newTestCore(t, rdb)
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	for _, event := range []string{"search:start:v1", "job:leave:v1", "search:start:v1"} { // left before its first frame
		if a := tell(t, s, event, `{"query":"x","jobId":"j"}`); !a.OK {
			t.Fatalf("%s: %+v", event, a)
		}
	}
	a := host.begin("j", 1)
	host.chunks(a, "a", "b")
	eventually(t, "two chunks", func() bool { return w.last(t) == 3 })
	tell(t, s, "job:leave:v1", `{"jobId":"j"}`)
	host.chunks(a, "c", "d")
	if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"j"}`); !a.OK {
		t.Fatalf("start: %+v", a)
	}
	host.complete(a)
	eventually(t, "the end", func() bool { return len(w.of("model:complete:v1")) == 1 })
	equalFrames(t, w.frames(), host.log("j", 0))
	for _, last := range []string{"6", "1000"} {
		if a := tell(t, s, "job:resume:v1", `{"jobId":"j","lastSeq":`+last+`}`); !a.OK {
			t.Fatalf("resume: %+v", a)
		}
		eventually(t, "no watch", func() bool { return len(c.hub.watchersOf("j")) == 0 })
	}
	equalFrames(t, w.frames(), host.log("j", 0))
}

// An id whose job Redis has lost can be given to another, and that is shown from
// its beginning.
func TestLostIDIsUsedAgain(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	c := newTestCore(t, rdb)
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	for i, text := range []string{"old", "new"} {
		if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"j"}`); !a.OK {
			t.Fatalf("start: %+v", a)
		}
		a := host.begin("j", 1)
		host.chunks(a, text)
		host.complete(a)
		eventually(t, "the end", func() bool { return len(w.of("model:complete:v1")) == i+1 })
		if n := len(w.frames()); n != 3*(i+1) {
			t.Fatalf("%d frames", n)
		}
		if err := rdb.FlushAll(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTrail(t *testing.T) {
	var tr trail
	for i := range 2 * maxTrail {
		tr.note(fmt.Sprint("j", i), int64(i))
		tr.note(fmt.Sprint("j", max(0, i-1)), 7)
	}
	if len(tr.ring) != maxTrail || len(tr.seqs) != maxTrail {
		t.Errorf("%d remembered, %d seqs", len(tr.ring), len(tr.seqs))
	}
	if _, known := tr.at("j0"); known || slices.Contains(tr.ring, "j0") {
		t.Error("the oldest is remembered")
	}
	if seq, known := tr.at(fmt.Sprint("j", 2*maxTrail-2)); !known || seq != 7 {
		t.Errorf("stood at %d, %v", seq, known)
	}
}
