package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// fakeWire is a socket without a network: it keeps what was sent, and its client
// is as far behind as the test says.
type fakeWire struct {
	waiting atomic.Int64

	mu      sync.Mutex
	stalled bool // what is sent waits
	sent    []string
	ended   string
}

// drain lets the client take what waits, and all that comes after.
func (f *fakeWire) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled = false
	f.waiting.Store(0)
}

func (f *fakeWire) ID() string    { return "fake" }
func (f *fakeWire) Line() line    { return f }
func (f *fakeWire) Buffered() int { return int(f.waiting.Load()) }

func (f *fakeWire) Emit(_, event string, data json.RawMessage) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, event+" "+string(data))
	if f.stalled {
		f.waiting.Add(int64(len(data)))
	}
	if f.ended != "" {
		return errors.New("closed")
	}
	return nil
}

func (f *fakeWire) end(how string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended == "" {
		f.ended = how
	}
}
func (f *fakeWire) Hangup(reason string) { f.end("hangup: " + reason) }
func (f *fakeWire) Dismiss()             { f.end("dismissed") }

func (f *fakeWire) how() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// of lists what was sent of one event.
func (f *fakeWire) of(event string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, s := range f.sent {
		if name, data, _ := strings.Cut(s, " "); name == event {
			found = append(found, data)
		}
	}
	return found
}

// frames lists the frames of the log that were sent.
func (f *fakeWire) frames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, s := range f.sent {
		if strings.Contains(s, `"seq":`) {
			found = append(found, s)
		}
	}
	return found
}

// last is the seq of the last frame that was sent.
func (f *fakeWire) last(t *testing.T) int64 {
	frames := f.frames()
	if len(frames) == 0 {
		return 0
	}
	_, seq := span(t, frames[len(frames)-1])
	return seq
}

// newTestCore runs what sessions share, without sockets.
func newTestCore(t *testing.T, rdb redis.UniversalClient) *core {
	return startCore(t, Options{Config: testConfig(), Redis: rdb, Log: testLog(t)})
}

// tell sends an event with an ack and returns the answer.
func tell(t *testing.T, s *session, name, payload string) answer {
	t.Helper()
	var got []byte
	s.receive(event{Name: name, Args: []json.RawMessage{json.RawMessage(payload)}, Ack: func(data []byte) { got = data }})
	var a answer
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatalf("%s %s: %q: %v", name, payload, got, err)
	}
	return a
}

// A client that falls behind while it watches is fed from the log when it has
// caught up: nothing waits for it in memory, and nothing is missing.
func TestBehindWhileLive(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		c := newTestCore(t, rdb)
		w := &fakeWire{}
		s := c.open(identity{User: anonymous}, w)
		if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"b"}`); !a.OK {
			t.Fatalf("start: %+v", a)
		}
		a := host.begin("b", 1)
		host.chunks(a, "one")
		eventually(t, "the first chunk", func() bool { return len(w.frames()) == 2 })

		w.waiting.Store(int64(c.conf.Limits.Pending))
		for i := range 600 {
			host.chunks(a, fmt.Sprint(i, " "))
		}
		if n := len(w.frames()); n != 2 {
			t.Errorf("%d frames were sent to a client that was behind", n-2)
		}
		w.waiting.Store(0)
		eventually(t, "the rest", func() bool { return w.last(t) == 602 })
		if n := len(w.frames()); n > 60 { // those on their way meanwhile come one by one
			t.Errorf("the rest came in %d frames", n-2)
		}
		host.chunks(a, "live again")
		host.complete(a)
		eventually(t, "the end", func() bool { return w.last(t) == 604 })
		sameFrames(t, w.frames(), host.log("b", 0))
		if w.how() != "" {
			t.Errorf("the socket was ended: %s", w.how())
		}
	})
}

// The log of a job that somebody watches can be lost: the client is told.
func TestLostJob(t *testing.T) {
	rdb := memoryRedis(t)
	c := newTestCore(t, rdb)
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"lost"}`); !a.OK {
		t.Fatalf("start: %+v", a)
	}
	c.lost("lost")
	c.lost("lost")
	got := w.of("error")
	if len(got) != 1 || !strings.Contains(got[0], `"code":"not_found"`) || !strings.Contains(got[0], `"jobId":"lost"`) {
		t.Errorf("errors %q", got)
	}
}

// A start that is made known late doesn't bring back a job that has ended.
func TestLateFeed(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	c := newTestCore(t, rdb)
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	for i := range maxTrail + 10 {
		id := fmt.Sprint("job-", i)
		if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"`+id+`"}`); !a.OK {
			t.Fatalf("start: %+v", a)
		}
		a := host.begin(id, 1)
		host.complete(a)
		eventually(t, "the end", func() bool { return len(w.of("model:complete:v1")) == i+1 })
	}
	s.jobStarted(encode(job.Started{JobID: fmt.Sprint("job-", maxTrail+9), Query: "x"}))
	s.jobStarted([]byte(`{"jobId":"a b"}`))
	s.jobStarted([]byte(`nonsense`))
	if n := len(w.of("job:started:v1")); n != maxTrail+10 {
		t.Errorf("%d starts shown", n)
	}
	if n := len(s.trail.ring); n != maxTrail || len(s.trail.seqs) != n {
		t.Errorf("%d finished jobs remembered, %d seqs", n, len(s.trail.seqs))
	}
}

func TestPanicInHandler(t *testing.T) {
	handlers["test:panic"] = func(*session, context.Context, request) (answer, func(), error) { panic("oh") }
	t.Cleanup(func() { delete(handlers, "test:panic") })
	c := newTestCore(t, memoryRedis(t))
	s := c.open(identity{User: anonymous}, &fakeWire{})
	if a := tell(t, s, "test:panic", `{"jobId":"p"}`); a.OK || a.Error.Code != codeInternal || strings.Contains(a.Error.Message, "oh") {
		t.Errorf("answer %+v", a)
	}
	if a := tell(t, s, "job:leave:v1", `{"jobId":"p"}`); !a.OK {
		t.Errorf("answer %+v", a)
	}
}

// Sessions come, start, leave and go at the same time; nothing is left behind
// (newTestCore looks).
func TestSessionsComeAndGo(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	c := newTestCore(t, rdb)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			s := c.open(identity{User: fmt.Sprint("u", i%4)}, &fakeWire{})
			id := fmt.Sprint("j", i)
			if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"`+id+`"}`); !a.OK {
				t.Errorf("start: %+v", a)
			}
			switch i % 3 {
			case 0:
				host.complete(host.begin(id, 1))
			case 1:
				tell(t, s, "job:leave:v1", `{"jobId":"`+id+`"}`)
			}
			s.end("gone")
			s.end("gone again")
			if a := tell(t, s, "job:resume:v1", `{"jobId":"`+id+`"}`); a.OK {
				t.Error("a session that has ended watches")
			}
		})
	}
	all.Wait()
}

func TestOutbox(t *testing.T) {
	w := &fakeWire{}
	overflows := 0
	o := &outbox{line: w, limit: 100, overflow: func() { overflows++ }}
	big := []byte(strings.Repeat("x", 1000))
	if taken, open := o.offer("alone", big); !taken || !open {
		t.Error("one event alone may pass the limit")
	}
	// It may take its time, and what comes after it finds the whole limit.
	w.waiting.Store(1000)
	if taken, open := o.offer("later", make([]byte, 1)); taken || !open || !o.send("ack", make([]byte, 100)) {
		t.Error("what comes after a large event fits up to the limit")
	}
	w.waiting.Store(0)
	if !o.send("small", nil) {
		t.Error("nothing waits")
	}
	w.waiting.Store(30)
	fits, _ := o.offer("fits", make([]byte, 20))
	if over, _ := o.offer("over", make([]byte, 21)); !fits || over {
		t.Error("what can wait fits up to half of the limit")
	}
	if !o.send("now", make([]byte, 70)) {
		t.Error("what can't wait fits up to the limit")
	}
	w.waiting.Store(60)
	if o.send("too much", make([]byte, 41)) || o.send("again", nil) || overflows != 1 {
		t.Errorf("%d overflows", overflows)
	}
	if taken, open := o.offer("later", nil); taken || open {
		t.Error("a closed outbox takes nothing")
	}
}

func TestOutboxRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWire{}
		o := &outbox{line: w, limit: 100}
		w.waiting.Store(80)
		done := make(chan error)
		go func() { done <- o.room(t.Context(), 20, time.Hour) }()
		for _, waiting := range []int64{60, 35, 26} { // below half is not enough
			w.waiting.Store(waiting)
			sleep(t.Context(), time.Second)
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("room with %d waiting: %v", waiting, err)
			default:
			}
		}
		w.waiting.Store(25)
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.waiting.Store(90)
		go func() { done <- o.room(ctx, 1, time.Hour) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestTooSlow(t *testing.T) {
	c := newTestCore(t, memoryRedis(t))
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	w.waiting.Store(2 * int64(c.conf.Limits.Pending))
	s.emit("task:progress:v1", "one too many")
	eventually(t, "the end", func() bool { return w.how() != "" })
	if w.how() != "hangup: "+codeSlow {
		t.Errorf("ended by %q", w.how())
	}
	if got := w.of("error"); len(got) != 1 || !strings.Contains(got[0], codeSlow) {
		t.Errorf("errors %q", got)
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		glob, name string
		want       bool
	}{
		{"echo", "echo", true}, {"echo", "echo-2", false}, {"echo", "", false},
		{"*", "", true}, {"*", "any/thing", true},
		{"gpt-*", "gpt-4o", true}, {"gpt-*", "gpt-", true}, {"gpt-*", "xgpt-4", false}, {"gpt-*", "openai/gpt-4", false},
		{"*-mini", "gpt-4o-mini", true}, {"*-mini", "gpt-4o", false},
		{"a*b*c", "abc", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"a*b*b", "ab", false}, {"a*a", "a", false},
		{"**", "x", true}, {"[a]", "a", false}, {"[a]", "[a]", true},
	} {
		if got := matches(test.glob, test.name); got != test.want {
			t.Errorf("matches(%q, %q) = %v", test.glob, test.name, got)
		}
	}
}

type fakeCensus struct {
	mu     sync.Mutex // of what is changed while somebody asks
	models []job.ModelInfo
	err    error
	asked  int
}

func (f *fakeCensus) Models(context.Context) ([]job.ModelInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	return f.models, nil
}

func TestCensusIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCensus{models: []job.ModelInfo{{Name: "a", Provider: "p", Reasoning: true}}}
		m := &models{census: f, log: testLog(t)}
		if list, sure := m.recent(); list != nil || sure {
			t.Error("something is known before anybody asked")
		}
		for range 5 {
			if list, sure := m.list(t.Context()); len(list) != 1 || !sure || list[0] != (model{Name: "a", Provider: "p", Reasoning: true}) {
				t.Errorf("list %+v, sure %v", list, sure)
			}
		}
		if f.asked != 1 {
			t.Errorf("asked %d times", f.asked)
		}
		sleep(t.Context(), 2*modelsAge)
		f.err = errors.New("redis is away")
		if list, sure := m.list(t.Context()); len(list) != 1 || sure {
			t.Errorf("list %+v, sure %v", list, sure)
		}
		sleep(t.Context(), 2*modelsAge)
		f.models, f.err = nil, nil
		if list, sure := m.list(t.Context()); list == nil || len(list) != 0 || !sure {
			t.Errorf("list %+v, sure %v", list, sure)
		}
	})
}

// News of a job may reach a gateway late. A tab that was opened in the meantime is
// not shown the job by it: it may have frames of the job already, and resumes.
func TestLateNewsOfAJob(t *testing.T) {
	c := newTestCore(t, memoryRedis(t))
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	s.jobStarted(encode(job.Started{JobID: "older", Query: "x", Created: s.opened - 1}))
	s.jobStarted(encode(job.Started{JobID: "newer", Query: "x", Created: s.opened + 1}))
	if got := w.of("job:started:v1"); len(got) != 1 || !strings.Contains(string(got[0]), "newer") {
		t.Errorf("shown: %s", got)
	}
}
