package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

func wantOK(t *testing.T, m message) {
	t.Helper()
	if m.field(t, "ok") != true {
		t.Fatalf("not ok: %s", m.Data)
	}
}

// wantCode checks that an answer, an ack or an error event, is a refusal.
func wantCode(t *testing.T, m message, code string) {
	t.Helper()
	var ack struct {
		OK    *bool
		Code  string
		Error refused
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		t.Fatalf("%s: %v", m.Data, err)
	}
	got := ack.Code
	if m.Kind == packetAck {
		got = ack.Error.Code
		if ack.OK == nil || *ack.OK {
			t.Errorf("ok is not false: %s", m.Data)
		}
	}
	if got != code {
		t.Errorf("code %q, want %q: %s", got, code, m.Data)
	}
	if !strings.Contains(string(m.Data), `"message":"`) || strings.Contains(string(m.Data), `"message":""`) {
		t.Errorf("no message: %s", m.Data)
	}
}

func equalFrames(t *testing.T, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frames differ from the log (-log +client):\n%s", diff)
	}
}

// sameFrames is equalFrames for a client that came late or was behind: chunks may
// have come merged.
func sameFrames(t *testing.T, got, want []string) {
	t.Helper()
	var merged []string
	for _, g := range got {
		from, seq := span(t, g)
		if from == seq || len(want) == 0 {
			merged = append(merged, want[:min(1, len(want))]...)
			want = want[min(1, len(want)):]
			continue
		}
		var run []job.Frame
		for len(want) > 0 {
			if _, at := span(t, want[0]); at > seq {
				break
			}
			event, data, _ := strings.Cut(want[0], " ")
			f, err := job.ParseFrame([]byte(`{"event":"` + event + `","data":` + data + `,"timestamp":1}`))
			if err != nil {
				t.Fatal(err)
			}
			run, want = append(run, f), want[1:]
		}
		for _, f := range job.Merge(run, 1<<30) {
			merged = append(merged, f.Event+" "+string(f.Data))
		}
	}
	equalFrames(t, got, append(merged, want...))
}

// span is which frames of the log one frame stands for.
func span(t *testing.T, frame string) (from, to int64) {
	t.Helper()
	_, data, _ := strings.Cut(frame, " ")
	var d struct{ Seq, FromSeq int64 }
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	if d.FromSeq == 0 {
		d.FromSeq = d.Seq
	}
	return d.FromSeq, d.Seq
}

func TestJob(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		host.announce("echo", "echo-sandbox")
		addr, _ := startGateway(t, rdb, testConfig())
		c := connect(t, addr, "")

		hello := c.seen("connected")[0]
		if hello.field(t, "userId") != anonymous || hello.field(t, "sessionId") == "" || hello.field(t, "defaultModel") != "echo" {
			t.Errorf("connected: %s", hello.Data)
		}
		if models, _ := hello.field(t, "models").([]any); len(models) != 2 {
			t.Errorf("models: %s", hello.Data)
		}

		ack := c.ask("search:start:v1", `{"query":"say \"hello\"","jobId":"j1","ackId":7}`)
		if want := `{"ok":true,"ackId":7,"jobId":"j1","status":"queued"}`; string(ack.Data) != want {
			t.Errorf("ack %s, want %s", ack.Data, want)
		}
		if m := c.await("job:started:v1"); !strings.HasPrefix(string(m.Data), `{"jobId":"j1","query":"say \"hello\"","model":"echo","created":1`) {
			t.Errorf("job:started %s", m.Data)
		}
		if m := c.await("task:progress:v1"); m.field(t, "status") != "queued" || m.field(t, "seq") != nil {
			t.Errorf("progress %s", m.Data)
		}
		wantTicket(t, rdb, "j1#1")

		a := host.begin("j1", 1)
		host.append(a, &job.Delta{Kind: "reasoning", Body: map[string]any{"text": "hm <b>"}})
		host.chunks(a, "Hel", "lo ", "\"wörld\" </script>\u2028")
		host.append(a, &job.Progress{Progress: 0.5, Status: "running"})
		host.complete(a)

		done := c.await("model:complete:v1")
		if done.field(t, "text") != "Hello \"wörld\" </script>\u2028" || done.field(t, "digest") != job.Digest("Hello \"wörld\" </script>\u2028") {
			t.Errorf("complete %s", done.Data)
		}
		equalFrames(t, c.frames("j1"), host.log("j1", 0))
	})
}

func wantTicket(t *testing.T, rdb redis.UniversalClient, id string) {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	info, err := inspector.GetTaskInfo(job.QueueDefault, id)
	if err != nil {
		t.Fatalf("ticket %s: %v", id, err)
	}
	if info.Type != job.TaskType {
		t.Errorf("task type %q", info.Type)
	}
}

func TestStartWithoutAck(t *testing.T) {
	rdb := memoryRedis(t)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	c.send(`42["START_SEARCH",{"query":"hello"}]`)
	if m := c.await("job:started:v1"); job.CheckID(m.field(t, "jobId").(string)) != nil {
		t.Errorf("job:started %s", m.Data)
	}
}

func TestStartIsIdempotent(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, testConfig())
		c := connect(t, addr, "")
		wantOK(t, c.ask("search:start:v1", `{"query":"one","jobId":"same"}`))
		wantOK(t, c.ask("search:start:v1", `{"query":"one","jobId":"same"}`))
		a := host.begin("same", 1)
		host.chunks(a, "x")
		if m := c.ask("search:start:v1", `{"query":"two","jobId":"same"}`); m.field(t, "status") != "running" {
			t.Errorf("ack %s", m.Data)
		}
		host.complete(a)
		c.await("model:complete:v1")
		c.barrier()
		equalFrames(t, c.frames("same"), host.log("same", 0))
		if n := len(c.seen("job:started:v1")); n != 1 {
			t.Errorf("%d times job:started", n)
		}

		// A client that never got the answer asks again and sees all of it.
		late := connect(t, addr, "")
		if m := late.ask("search:start:v1", `{"query":"one","jobId":"same"}`); m.field(t, "status") != "complete" {
			t.Errorf("ack %s", m.Data)
		}
		late.await("model:complete:v1")
		equalFrames(t, late.frames("same"), host.log("same", 0))
	})
}

func TestResume(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, testConfig())
		c := connect(t, addr, "")
		wantOK(t, c.ask("search:start:v1", `{"query":"one","jobId":"r"}`))
		a := host.begin("r", 1)
		for i := range 700 { // more than two pages
			host.chunks(a, fmt.Sprint(i, " "))
		}
		_ = c.ws.CloseNow()

		back := connect(t, addr, "")
		ack := back.ask("job:resume:v1", `{"jobId":"r","lastSeq":3}`)
		if want := `{"ok":true,"jobId":"r","state":"running","attempt":1,"seq":701}`; string(ack.Data) != want {
			t.Errorf("ack %s, want %s", ack.Data, want)
		}
		host.chunks(a, "live ", "now")
		host.complete(a)
		back.await("model:complete:v1")
		sameFrames(t, back.frames("r"), host.log("r", 3))

		// After the end, from any place, as often as one likes.
		again := connect(t, addr, "")
		if m := again.ask("job:resume:v1", `{"jobId":"r"}`); m.field(t, "state") != "complete" {
			t.Errorf("ack %s", m.Data)
		}
		again.await("model:complete:v1")
		sameFrames(t, again.frames("r"), host.log("r", 0))
		wantOK(t, again.ask("job:resume:v1", `{"jobId":"r","lastSeq":703}`))
		again.await("model:complete:v1")
	})
}

func TestResumeRewinds(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	wantOK(t, c.ask("search:start:v1", `{"query":"one","jobId":"w"}`))
	a := host.begin("w", 1)
	host.chunks(a, "a", "b", "c")
	for range 3 {
		c.await("model:chunk:v1")
	}
	// The client lost what came after seq 2: it gets that again, and the rest.
	wantOK(t, c.ask("job:resume:v1", `{"jobId":"w","lastSeq":2}`))
	for range 2 {
		c.await("model:chunk:v1")
	}
	host.complete(a)
	c.await("model:complete:v1")
	log := host.log("w", 0)
	equalFrames(t, c.frames("w"), append(log[:4:4], log[2:]...))
}

func TestSecondAttempt(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	wantOK(t, c.ask("search:start:v1", `{"query":"one","jobId":"two"}`))
	a := host.begin("two", 1)
	host.chunks(a, "bro")
	if _, err := a.Release(context.Background(), job.StateWaiting); err != nil {
		t.Fatal(err)
	}
	b := host.begin("two", 2)
	host.chunks(b, "whole")
	host.complete(b)
	c.await("model:complete:v1")
	equalFrames(t, c.frames("two"), host.log("two", 0))
}

func TestTwoTabs(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, testConfig())
		other, _ := startGateway(t, rdb, testConfig())
		tabs := []*client{connect(t, addr, ""), connect(t, addr, ""), connect(t, other, "")}
		awaitFeeds(t, rdb, anonymous, 2)
		wantOK(t, tabs[0].ask("search:start:v1", `{"query":"for all","jobId":"tabs"}`))
		for _, tab := range tabs {
			tab.await("job:started:v1")
		}
		a := host.begin("tabs", 1)
		host.chunks(a, "a", "b")
		// Any tab may cancel.
		wantOK(t, tabs[2].ask("task:cancel:v1", `{"jobId":"tabs"}`))
		if err := a.Finish(context.Background(), &job.Cancelled{}); err != nil {
			t.Fatal(err)
		}
		for _, tab := range tabs {
			tab.await("task:cancelled")
			tab.barrier()
			equalFrames(t, tab.frames("tabs"), host.log("tabs", 0))
			if n := len(tab.seen("job:started:v1")); n != 1 {
				t.Errorf("%d times job:started", n)
			}
		}
	})
}

// awaitFeeds waits until so many gateways follow a user.
func awaitFeeds(t *testing.T, rdb redis.UniversalClient, user string, gateways int64) {
	t.Helper()
	channel := job.UserChannel(user)
	eventually(t, "the user's feed", func() bool {
		n, err := subscribers(t.Context(), rdb, channel)
		return err == nil && n[channel] >= gateways
	})
}

func TestLeave(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	stays, leaves := connect(t, addr, ""), connect(t, addr, "")
	wantOK(t, stays.ask("search:start:v1", `{"query":"x","jobId":"l"}`))
	leaves.await("job:started:v1")
	a := host.begin("l", 1)
	leaves.await("model:start:v1")
	wantOK(t, leaves.ask("job:leave:v1", `{"jobId":"l"}`))
	before := len(leaves.frames("l"))
	host.chunks(a, "a", "b")
	host.complete(a)
	stays.await("model:complete:v1")
	leaves.barrier()
	if n := len(leaves.frames("l")); n != before {
		t.Errorf("%d frames after leaving", n-before)
	}
	equalFrames(t, stays.frames("l"), host.log("l", 0))
}

func TestCancel(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, testConfig())
		c := connect(t, addr, "")

		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"queued"}`))
		if m := c.ask("CANCEL_TASK", `{"jobId":"queued"}`); string(m.Data) != `{"ok":true,"jobId":"queued","state":"cancelled"}` {
			t.Errorf("ack %s", m.Data)
		}
		if m := c.await("task:cancelled"); m.field(t, "jobId") != "queued" || m.field(t, "seq") != 1.0 {
			t.Errorf("receipt %s", m.Data)
		}

		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"running"}`))
		a := host.begin("running", 1)
		host.chunks(a, "some ", "text")
		if m := c.ask("task:cancel:v1", `{"jobId":"running","ackId":"a"}`); string(m.Data) != `{"ok":true,"ackId":"a","jobId":"running","state":"running"}` {
			t.Errorf("ack %s", m.Data)
		}
		if err := a.Finish(context.Background(), &job.Cancelled{}); err != nil {
			t.Fatal(err)
		}
		if m := c.await("task:cancelled"); m.field(t, "text") != "some text" {
			t.Errorf("receipt %s", m.Data)
		}
		// Again, when there is nothing left to cancel.
		if m := c.ask("task:cancel:v1", `{"jobId":"running"}`); m.field(t, "state") != "cancelled" {
			t.Errorf("ack %s", m.Data)
		}
	})
}

// Events of one socket are handled in the order in which they were sent.
func TestEventsKeepTheirOrder(t *testing.T) {
	rdb := memoryRedis(t)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	const n = 2000
	const window = 100
	for i := range n {
		c.emit("job:leave:v1", `{"jobId":"nothing"}`)
		if i >= window {
			c.answered(int64(i - window))
		}
	}
	c.answered(n - 1)
	var last int64 = -1
	for _, m := range c.all {
		if m.Kind != packetAck {
			continue
		}
		if m.ID != last+1 {
			t.Fatalf("ack %d after %d", m.ID, last)
		}
		last = m.ID
	}
}
