package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

// Every event that can't be done is answered with a code, by ack or by an error
// event, and the socket goes on.
func TestBadInput(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	host.announce("echo", "gpt-*")
	conf := testConfig()
	conf.Limits.Query = 100
	conf.Limits.Request = 4 * config.KiB
	conf.Limits.Watched = 3
	addr, _ := startGateway(t, rdb, conf)
	c := connect(t, addr, "")
	wantOK(t, c.ask("search:start:v1", `{"query":"mine","jobId":"mine"}`))

	starts := []struct{ payload, code string }{
		{`null`, codeInvalidPayload},
		{`"text"`, codeInvalidPayload},
		{`42`, codeInvalidPayload},
		{`[]`, codeInvalidPayload},
		{`[{"query":"x"}]`, codeInvalidPayload},
		{`{}`, codeQueryMissing},
		{`{"query":null}`, codeQueryMissing},
		{`{"query":""}`, codeQueryMissing},
		{`{"query":" \n\t"}`, codeQueryMissing},
		{`{"query":7}`, codeInvalidPayload},
		{`{"query":["x"]}`, codeInvalidPayload},
		{`{"query":"` + strings.Repeat("x", 101) + `"}`, codeQueryTooLong},
		{`{"messages":[]}`, codeQueryMissing},
		{`{"messages":{}}`, codeInvalidPayload},
		{`{"messages":"x"}`, codeInvalidPayload},
		{`{"messages":["x"]}`, codeInvalidPayload},
		{`{"messages":[{"content":"x"}]}`, codeInvalidPayload},
		{`{"messages":[{"role":"user","content":"` + strings.Repeat("x", 5000) + `"}]}`, codeTooLarge},
		{`{"query":"x","model":7}`, codeInvalidPayload},
		{`{"query":"x","models":"echo"}`, codeInvalidPayload},
		{`{"query":"x","models":[1]}`, codeInvalidPayload},
		{`{"query":"x","models":[` + strings.Repeat(`"a",`, 20) + `"` + strings.Repeat(`b`, 300) + `"]}`, codeInvalidPayload},
		{`{"query":"x","model":"a\u0000b"}`, codeInvalidPayload},
		{`{"query":"x","model":"nobody"}`, codeUnknownModel},
		{`{"query":"x","models":["nobody","none"]}`, codeUnknownModel},
		{`{"query":"x","params":[]}`, codeInvalidPayload},
		{`{"query":"x","params":"{}"}`, codeInvalidPayload},
		{`{"query":"x","context":"c"}`, codeInvalidPayload},
		{`{"query":"x","priority":"urgent"}`, codeInvalidPayload},
		{`{"query":"x","priority":1}`, codeInvalidPayload},
		{`{"query":"x","jobId":""}`, codeInvalidJobID},
		{`{"query":"x","jobId":7}`, codeInvalidJobID},
		{`{"query":"x","jobId":{"a":1}}`, codeInvalidJobID},
		{`{"query":"x","jobId":"a b"}`, codeInvalidJobID},
		{`{"query":"x","jobId":"a\nb"}`, codeInvalidJobID},
		{`{"query":"x","jobId":"käse"}`, codeInvalidJobID},
		{`{"query":"x","jobId":"a{b}"}`, codeInvalidJobID},
		{`{"query":"x","jobId":"progress"}`, codeInvalidJobID}, // its channel would be job:progress
		{`{"query":"x","jobId":"` + strings.Repeat("x", 129) + `"}`, codeInvalidJobID},
	}
	type attempt struct{ event, payload, code string }
	var all []attempt
	for _, s := range starts {
		all = append(all, attempt{"search:start:v1", s.payload, s.code}, attempt{"START_SEARCH", s.payload, s.code})
	}
	for _, event := range []string{"task:cancel:v1", "CANCEL_TASK", "job:resume:v1", "job:leave:v1"} {
		all = append(all,
			attempt{event, `"mine"`, codeInvalidPayload},
			attempt{event, `{}`, codeInvalidJobID},
			attempt{event, `{"jobId":""}`, codeInvalidJobID},
			attempt{event, `{"jobId":"a/b"}`, codeInvalidJobID},
			attempt{event, `{"jobId":null}`, codeInvalidJobID},
		)
		if event != "job:leave:v1" {
			all = append(all, attempt{event, `{"jobId":"nobody:knows"}`, codeNotFound})
		}
	}
	for _, last := range []string{`-1`, `1.5`, `"x"`, `[]`, `1e30`, `true`} {
		all = append(all, attempt{"job:resume:v1", `{"jobId":"mine","lastSeq":` + last + `}`, codeInvalidPayload})
	}
	all = append(all, attempt{"no:such:event", `{}`, codeInvalidPayload}, attempt{"error", `{}`, codeInvalidPayload}, attempt{"message", `"x"`, codeInvalidPayload})

	for _, a := range all {
		t.Run(fmt.Sprintf("%s %.40s", a.event, a.payload), func(t *testing.T) {
			wantCode(t, c.ask(a.event, a.payload), a.code)
			c.send(`42["` + a.event + `",` + a.payload + `]`)
			m := c.await("error")
			wantCode(t, m, a.code)
			if m.field(t, "event") != a.event {
				t.Errorf("the error names no event: %s", m.Data)
			}
		})
	}

	t.Run("without an argument", func(t *testing.T) {
		c.send(`42900["search:start:v1"]`)
		wantCode(t, c.answered(900), codeInvalidPayload)
	})
	t.Run("binary argument", func(t *testing.T) {
		c.send(`451-901["search:start:v1",{"_placeholder":true,"num":0}]`)
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		wantCode(t, c.answered(901), codeInvalidPayload)
	})
	t.Run("ackId is echoed in a refusal", func(t *testing.T) {
		if m := c.ask("job:resume:v1", `{"jobId":"unknown","ackId":"a-1"}`); m.field(t, "ackId") != "a-1" {
			t.Errorf("ack %s", m.Data)
		}
	})
	t.Run("too many watched", func(t *testing.T) {
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"w2"}`))
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"w3"}`))
		wantCode(t, c.ask("job:resume:v1", `{"jobId":"unknown"}`), codeNotFound)
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"w4"}`)) // accepted, but not shown here
		wantCode(t, c.await("error"), codeLimit)
		wantCode(t, c.ask("job:resume:v1", `{"jobId":"w4"}`), codeLimit)
		wantOK(t, c.ask("job:leave:v1", `{"jobId":"w3"}`))
		wantOK(t, c.ask("job:resume:v1", `{"jobId":"w4"}`))
	})
	t.Run("and all goes on", func(t *testing.T) {
		a := host.begin("mine", 1)
		host.chunks(a, "yes")
		host.complete(a)
		c.await("model:complete:v1")
		equalFrames(t, c.frames("mine"), host.log("mine", 0))
	})
}

// What is accepted reaches the job record as it was sent.
func TestGoodInput(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	host.announce("echo", "gpt-*")
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	for i, test := range []struct {
		payload string
		want    job.Job
	}{
		{`{"query":"x"}`, job.Job{Query: "x", Models: []string{"echo"}}},
		{`{"query":"x","model":"gpt-9"}`, job.Job{Query: "x", Models: []string{"gpt-9"}}},
		{`{"query":"x","model":"gpt-9","models":["echo","gpt-9",""]}`, job.Job{Query: "x", Models: []string{"gpt-9", "echo"}}},
		{`{"query":"x","models":["nobody","echo"],"priority":"high"}`, job.Job{Query: "x", Models: []string{"nobody", "echo"}, Priority: "high"}},
		{`{"messages":[{"role":"user","content":"<b>&"}],"params":{"seed":9007199254740991,"b":1,"a":2}}`,
			job.Job{Messages: []byte(`[{"role":"user","content":"<b>&"}]`), Models: []string{"echo"}, Params: []byte(`{"seed":9007199254740991,"b":1,"a":2}`)}},
		{`{"query":"x","context":{"a":1}}`, job.Job{Query: "x", Models: []string{"echo"}, Context: []byte(`{"a":1}`)}},
		{`{"query":"x","filters":["f"]}`, job.Job{Query: "x", Models: []string{"echo"}, Context: []byte(`{"filters":["f"]}`)}},
		{`{"query":"x","filters":{"f":1},"context":{"a":1}}`, job.Job{Query: "x", Models: []string{"echo"}, Context: []byte(`{"context":{"a":1},"filters":{"f":1}}`)}},
		{`{"query":"x","model":null,"params":null,"context":null,"jobId":null,"unknown":1}`, job.Job{Query: "x", Models: []string{"echo"}}},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			ack := c.ask("search:start:v1", test.payload)
			wantOK(t, ack)
			a := host.begin(ack.field(t, "jobId").(string), 1)
			got := a.Job
			test.want.ID, test.want.User, test.want.Created = got.ID, anonymous, got.Created
			if show(t, got) != show(t, test.want) {
				t.Errorf("job\n%s\nwant\n%s", show(t, got), show(t, test.want))
			}
			host.complete(a)
		})
	}
}

// show writes what matters of a job, JSON with its members sorted.
func show(t *testing.T, j job.Job) string {
	t.Helper()
	sorted := func(raw json.RawMessage) string {
		if raw == nil {
			return ""
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return string(encode(v))
	}
	return fmt.Sprintf("%s %q %q %q messages=%s params=%s context=%s", j.User, j.Query, j.Models, j.Priority, sorted(j.Messages), sorted(j.Params), sorted(j.Context))
}

// Packets that break the protocol cost their connection and nothing else.
func TestProtocolViolations(t *testing.T) {
	rdb := memoryRedis(t)
	addr, _ := startGateway(t, rdb, testConfig())
	healthy := connect(t, addr, "")
	for _, packet := range []string{
		"42", "420", `42[]`, `42[1]`, `42{"a":1}`, `42["x"`, "43", "430", "45", `451-["x"]`, "4", "49", "x", "44",
		`42["disconnect"]`, "40", `42/other,["x",{}]`,
		"3", "2", "2probe", "5", "6", "1", "0", "b4AAA=", "\x00",
	} {
		t.Run(packet, func(t *testing.T) {
			c := connect(t, addr, "")
			c.send(packet)
			// Closed, or ignored: either way nobody else notices.
			select {
			case <-c.done:
			case <-time.After(20 * time.Millisecond):
				_ = c.ws.CloseNow()
			}
			healthy.barrier()
		})
	}
	t.Run("event before connecting", func(t *testing.T) {
		c := dial(t, addr, nil)
		c.send(`420["search:start:v1",{"query":"x","jobId":"early"}]`)
		c.closed()
		if _, err := job.NewStore(rdb, job.Options{}).Status(t.Context(), "early"); err == nil {
			t.Error("a stranger's job was accepted")
		}
	})
	t.Run("unknown namespace", func(t *testing.T) {
		c := dial(t, addr, nil)
		c.send(`40/other,`)
		c.find("refusal", func(m message) bool { return m.Kind == packetRefusal })
	})
	healthy.barrier()
}

// While Redis is away a start waits for it, and then is refused.
func TestRedisIsAway(t *testing.T) {
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")

	mini.SetError("LOADING Redis is loading the dataset in memory")
	id := c.emit("search:start:v1", `{"query":"x","jobId":"waits"}`)
	refusedLate := connect(t, addr, "")
	gone := refusedLate.emit("search:start:v1", `{"query":"x","jobId":"refused"}`)
	wantCode(t, refusedLate.answered(gone), codeUnavailable)
	wantCode(t, c.answered(id), codeUnavailable)

	id = c.emit("search:start:v1", `{"query":"x","jobId":"waits"}`)
	mini.SetError("")
	wantOK(t, c.answered(id))
	a := host.begin("waits", 1)
	host.complete(a)
	c.await("model:complete:v1")
}

// A job is stored as it was sent: digits are not rounded, and members keep their
// order, which in a schema is the order of the answer.
func TestRequestsAreStoredAsTheyCame(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	const params = `{"seed":12345678901234567890,"schema":{"reasoning":{"z":1.0,"a":"<&>"},"answer":[]}}`
	const message = `{"role":"user","name":"b","content":"a"}`
	wantOK(t, c.ask("search:start:v1", `{"jobId":"j","params": `+params+` ,"messages":[`+message+`]}`))
	got := host.begin("j", 1).Job
	if string(got.Params) != params {
		t.Errorf("params %s", got.Params)
	}
	if string(got.Messages) != "["+message+"]" {
		t.Errorf("messages %s", got.Messages)
	}
}
