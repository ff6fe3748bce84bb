package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

func TestParseLegacy(t *testing.T) {
	for _, test := range []struct {
		channel, payload string
		want             legacyMessage // empty: refused
	}{
		{"model:chunk", `{"event":"model:chunk:v1","data":{"jobId":"j","userId":"u","chunk":"a"}}`, legacyMessage{"model:chunk:v1", "j", "u", []byte(`{"jobId":"j","userId":"u","chunk":"a"}`)}},
		{"job:j", `{"event":"model:chunk:v1","data":{"userId":"u","chunk":"a"},"timestamp":1}`, legacyMessage{"model:chunk:v1", "j", "u", []byte(`{"userId":"u","chunk":"a"}`)}},
		{"model:chunk", ` { "jobId" : "j" , "userId":"u", "chunk":"a b" } `, legacyMessage{"model:chunk:v1", "j", "u", []byte(`{"jobId":"j","userId":"u","chunk":"a b"}`)}},
		{"model:complete", `{"jobId":"j","userId":"u","text":"a"}`, legacyMessage{"model:complete:v1", "j", "u", []byte(`{"jobId":"j","userId":"u","text":"a"}`)}},
		{"job:progress", `{"jobId":"j","userId":"u","progress":1}`, legacyMessage{"task:progress:v1", "j", "u", []byte(`{"jobId":"j","userId":"u","progress":1}`)}},
		{"job:j", `{"jobId":"j","userId":"u","chunk":"a","index":0}`, legacyMessage{"model:chunk:v1", "j", "u", []byte(`{"jobId":"j","userId":"u","chunk":"a","index":0}`)}},
		{"job:j", `{"userId":"u","text":"t","tokens":3}`, legacyMessage{"model:complete:v1", "j", "u", []byte(`{"userId":"u","text":"t","tokens":3}`)}},
		{"job:j", `{"userId":"u","progress":50,"status":"s"}`, legacyMessage{"task:progress:v1", "j", "u", []byte(`{"userId":"u","progress":50,"status":"s"}`)}},
		{"job:j", `{"userId":"u","error":"e"}`, legacyMessage{"model:error:v1", "j", "u", []byte(`{"userId":"u","error":"e"}`)}},
		{"model:chunk", `{"jobId":7,"userId":42,"chunk":"a"}`, legacyMessage{"model:chunk:v1", "7", "42", []byte(`{"jobId":7,"userId":42,"chunk":"a"}`)}},
		{"model:chunk", `{"event":"search:results:v1","data":{"userId":"u"}}`, legacyMessage{"search:results:v1", "", "u", []byte(`{"userId":"u"}`)}},
		{"model:chunk", `{"event":"click","jobId":"j","chunk":"no data: direct"}`, legacyMessage{"model:chunk:v1", "j", "", []byte(`{"event":"click","jobId":"j","chunk":"no data: direct"}`)}},

		{"model:chunk", "{\"userId\":\"u\",\"chunk\":\"a\xff\xfeb\"}", legacyMessage{"model:chunk:v1", "", "u", []byte(`{"userId":"u","chunk":"a�b"}`)}},

		{"model:chunk", ``, legacyMessage{}},
		{"model:chunk", `{`, legacyMessage{}},
		{"model:chunk", `null`, legacyMessage{}},
		{"model:chunk", `[]`, legacyMessage{}},
		{"model:chunk", `"x"`, legacyMessage{}},
		{"model:chunk", `{"chunk":"nobody's"}`, legacyMessage{}},
		{"job:j", `{"userId":"u","what":1}`, legacyMessage{}},
		{"model:chunk", `{"event":"model:chunk:v1","data":"x"}`, legacyMessage{}},
		{"model:chunk", `{"event":"model:chunk:v1","data":null}`, legacyMessage{}},
		{"model:chunk", `{"event":7,"data":{"userId":"u"}}`, legacyMessage{}},
		{"model:chunk", `{"event":"disconnect","data":{"userId":"u"}}`, legacyMessage{}},
		{"model:chunk", `{"event":"connect_error","data":{"userId":"u"}}`, legacyMessage{}},
		{"model:chunk", `{"event":"a\"b","data":{"userId":"u"}}`, legacyMessage{}},
		{"model:chunk", `{"event":"","data":{"userId":"u"}}`, legacyMessage{}},
	} {
		got, err := parseLegacy(test.channel, []byte(test.payload))
		if (err != nil) != (test.want.Event == "") {
			t.Errorf("%s %s: %v", test.channel, test.payload, err)
			continue
		}
		if err == nil {
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s %s:\n%s", test.channel, test.payload, diff)
			}
		}
	}
}

func FuzzParseLegacy(f *testing.F) {
	for _, seed := range []string{
		`{"event":"model:chunk:v1","data":{"jobId":"j","userId":"u","chunk":"a"}}`, `{"jobId":"j","userId":"u","chunk":"a"}`,
		`{"event":{},"data":{"userId":"u"}}`, `{"userId":1e400,"chunk":""}`, `{"data":{},"event":"x"}`, "{\"userId\":\"\\ud800\",\"chunk\":\"\xff\"}",
	} {
		for _, channel := range []string{"model:chunk", "job:progress", "job:j"} {
			f.Add(channel, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, channel string, payload []byte) {
		before := bytes.Clone(payload)
		m, err := parseLegacy(channel, payload)
		if !bytes.Equal(before, payload) {
			t.Fatal("the payload was changed")
		}
		if err != nil {
			return
		}
		var data map[string]json.RawMessage
		if json.Unmarshal(m.Data, &data) != nil || data == nil {
			t.Fatalf("data is no object: %q", m.Data)
		}
		if m.User == "" && m.Job == "" || reservedEvents[m.Event] || strings.ContainsAny(m.Event, "\"\\\n") {
			t.Fatalf("accepted %+v", m)
		}
		if !utf8.Valid(m.Data) {
			t.Fatalf("data is no UTF-8: %q", m.Data)
		}
		var b bytes.Buffer
		if json.Compact(&b, m.Data) != nil || !bytes.Equal(b.Bytes(), m.Data) {
			t.Fatalf("data is not compact: %q", m.Data)
		}
	})
}

// The steps are channel:content; the want counts what passes per content.
func TestDedupe(t *testing.T) {
	const g, j = "model:chunk", "job:1"
	for name, test := range map[string]struct {
		steps []string
		want  map[string]int
	}{
		"one kind":                     {[]string{g + "=a"}, map[string]int{"a": 1}},
		"other kind":                   {[]string{j + "=a"}, map[string]int{"a": 1}},
		"both kinds":                   {[]string{g + "=a", j + "=a"}, map[string]int{"a": 1}},
		"both kinds, other way":        {[]string{j + "=a", g + "=a"}, map[string]int{"a": 1}},
		"twice on one kind":            {[]string{g + "=a", g + "=a"}, map[string]int{"a": 2}},
		"twice on both, in turn":       {[]string{g + "=a", j + "=a", g + "=a", j + "=a"}, map[string]int{"a": 2}},
		"twice on both, one by one":    {[]string{g + "=a", g + "=a", j + "=a", j + "=a"}, map[string]int{"a": 2}},
		"more on one kind":             {[]string{g + "=a", j + "=a", j + "=a", j + "=a"}, map[string]int{"a": 3}},
		"two contents":                 {[]string{g + "=a", j + "=b", g + "=b", j + "=a"}, map[string]int{"a": 1, "b": 1}},
		"general channels are one":     {[]string{"model:chunk=a", "model:complete=a"}, map[string]int{"a": 2}},
		"job:progress is general":      {[]string{"job:progress=a", j + "=a"}, map[string]int{"a": 1}},
		"seconds later it is another":  {[]string{g + "=a", "wait", g + "=a", j + "=a"}, map[string]int{"a": 2}},
		"what goes on is remembered":   {[]string{g + "=a", "half", g + "=a", "half", g + "=a", "half", j + "=a", j + "=a", j + "=a"}, map[string]int{"a": 3}},
		"late on the other kind still": {[]string{g + "=a", "half", j + "=a"}, map[string]int{"a": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(0, 0)
			d := newDedupe(func() time.Time { return now })
			got := map[string]int{}
			for _, step := range test.steps {
				channel, content, ok := strings.Cut(step, "=")
				switch {
				case step == "wait":
					now = now.Add(3 * legacyWindow)
				case step == "half":
					now = now.Add(legacyWindow / 2)
				case ok && d.pass(kindOf(channel), legacyMessage{Event: "e", User: "u", Data: []byte(content)}):
					got[content]++
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDedupeIsBounded(t *testing.T) {
	d := newDedupe(time.Now)
	for i := range 20 * legacyMemory {
		d.pass(generalChannel, legacyMessage{Event: "e", User: "u", Data: fmt.Append(nil, i)})
		if n := len(d.current) + len(d.previous); n > legacyMemory {
			t.Fatalf("%d entries", n)
		}
	}
}

func TestLegacyPublisher(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		addr, _ := startGateway(t, rdb, hsConfig())
		alice, tab, bob := connect(t, addr, hsAuth(t, "alice")), connect(t, addr, hsAuth(t, "alice")), connect(t, addr, hsAuth(t, "bob"))
		wantOK(t, alice.ask("search:start:v1", `{"query":"x","jobId":"old"}`))
		tab.await("job:started:v1")
		eventually(t, "the subscriptions", func() bool {
			n, err := subscribers(t.Context(), rdb, "job:old", "model:chunk", "model:complete", "job:progress")
			return err == nil && n["job:old"] > 0 && n["model:chunk"] > 0 && n["model:complete"] > 0 && n["job:progress"] > 0
		})
		old := worker(t, rdb)
		publish := func(channel, payload string) {
			t.Helper()
			if err := old.Publish(t.Context(), channel, payload).Err(); err != nil {
				t.Fatal(err)
			}
		}
		wrapped := func(event, data string) string { return `{"event":"` + event + `","data":` + data + `,"timestamp":1}` }
		chunk := func(n int) string {
			return fmt.Sprintf(`{"jobId":"old","userId":"alice","chunk":"w%d","index":%d,"total":null}`, n, n)
		}
		publish("model:chunk", "{not JSON")
		publish("job:old", "{not JSON")
		publish("model:chunk", wrapped("model:chunk:v1", chunk(0))) // general only
		publish("job:old", wrapped("model:chunk:v1", chunk(1)))     // job only
		for _, channel := range []string{"model:chunk", "job:old"} {
			publish(channel, wrapped("model:chunk:v1", chunk(2))) // both, wrapped
		}
		for _, channel := range []string{"job:old", "model:chunk"} {
			publish(channel, chunk(3)) // both, direct
		}
		publish("model:chunk", chunk(4)) // direct here, wrapped there
		publish("job:old", wrapped("model:chunk:v1", chunk(4)))
		publish("job:progress", `{"jobId":"old","userId":"alice","progress":0.5,"status":"running","message":"m"}`)
		publish("model:chunk", `{"jobId":"else","userId":"bob","chunk":"for bob","index":0}`)
		done := `{"jobId":"old","userId":"alice","text":"w0w1w2w3w4","tokens":5}`
		publish("model:complete", done)
		publish("job:old", wrapped("model:complete:v1", done))
		publish("model:chunk", wrapped("test:end:v1", `{"userId":"alice"}`))
		publish("model:chunk", wrapped("test:end:v1", `{"userId":"bob"}`))

		for _, c := range []*client{alice, tab} {
			c.await("test:end:v1")
			var got []string
			for _, m := range c.seen("model:chunk:v1", "model:complete:v1", "task:progress:v1") {
				if m.field(t, "status") != "queued" {
					got = append(got, string(m.Data))
				}
			}
			want := []string{chunk(0), chunk(1), chunk(2), chunk(3), chunk(4), `{"jobId":"old","userId":"alice","progress":0.5,"status":"running","message":"m"}`, done}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("legacy messages:\n%s", diff)
			}
		}
		bob.await("test:end:v1")
		if got := bob.seen("model:chunk:v1", "model:complete:v1"); len(got) != 1 || got[0].field(t, "chunk") != "for bob" {
			t.Errorf("bob saw %s", bob.dump())
		}
	})
}

// What is published on job:<id> alone is heard by those who watch the job: whoever
// started it, in every tab that has not left it, and nobody else. The general
// channels reach them in any case.
func TestLegacyOnTheJobsChannelAlone(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		one, _ := startGateway(t, rdb, hsConfig())
		two, _ := startGateway(t, rdb, hsConfig())
		starter, tab, left := connect(t, one, hsAuth(t, "ada")), connect(t, two, hsAuth(t, "ada")), connect(t, one, hsAuth(t, "ada"))
		wantOK(t, starter.ask("START_SEARCH", `{"query":"x","jobId":"asked"}`))
		for _, c := range []*client{tab, left} {
			c.await("job:started:v1")
		}
		wantOK(t, left.ask("job:leave:v1", `{"jobId":"asked"}`))
		eventually(t, "both gateways listen", func() bool {
			n, err := subscribers(t.Context(), rdb, "job:asked", "model:chunk")
			return err == nil && n["job:asked"] == 2 && n["model:chunk"] == 2
		})
		old := worker(t, rdb)
		publish := func(channel, payload string) {
			t.Helper()
			if err := old.Publish(t.Context(), channel, payload).Err(); err != nil {
				t.Fatal(err)
			}
		}
		publish("job:foreign", `{"event":"model:chunk:v1","data":{"userId":"ada","chunk":"of a job that no gateway was given"}}`)
		publish("job:asked", `{"event":"model:chunk:v1","data":{"chunk":"heard"}}`) // names no user
		publish("model:chunk", `{"event":"model:chunk:v1","data":{"jobId":"foreign","userId":"ada","chunk":"general"}}`)
		publish("model:chunk", `{"event":"test:end:v1","data":{"userId":"ada"}}`)
		for c, want := range map[*client]string{starter: "heard general ", tab: "heard general ", left: "general "} {
			c.await("test:end:v1")
			got := ""
			for _, m := range c.seen("model:chunk:v1") {
				got += fmt.Sprint(m.field(t, "chunk")) + " "
			}
			if got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		}
	})
}

// Frames of the log are not legacy messages, although they are published on the
// same channels.
func TestFramesAreNotDoubledByGeneralChannels(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb) // publishes on the general channels too
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"new"}`))
	a := host.begin("new", 1)
	host.chunks(a, "a", "a", "a")
	host.complete(a)
	c.await("model:complete:v1")
	if err := rdb.Publish(t.Context(), "model:chunk", `{"event":"test:end:v1","data":{"userId":"anonymous"}}`).Err(); err != nil {
		t.Fatal(err)
	}
	c.await("test:end:v1")
	equalFrames(t, c.frames("new"), host.log("new", 0))
}
