package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/proto/job/redistest"
)

// A client that stops reading holds up nobody, and costs no more memory than its
// limit: what it lacks waits in the log. When it reads again it gets every
// frame, once and in order, on the same connection.
func TestSlowClient(t *testing.T) {
	rdb := serverRedis(t)
	host := newHost(t, rdb)
	conf := testConfig()
	conf.Limits.Pending = 256 * config.KiB
	addr, _ := startGateway(t, rdb, conf)

	slow, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.CloseNow() }()
	slow.SetReadLimit(-1)
	if err := slow.Write(t.Context(), websocket.MessageText, []byte("40")); err != nil {
		t.Fatal(err)
	}
	if err := slow.Write(t.Context(), websocket.MessageText, []byte(`420["search:start:v1",{"query":"x","jobId":"big"}]`)); err != nil {
		t.Fatal(err)
	}
	fast := connect(t, addr, "")
	eventually(t, "the job", func() bool {
		st, err := host.store.Status(t.Context(), "big")
		return err == nil && st.State == job.StateQueued
	})
	wantOK(t, fast.ask("job:resume:v1", `{"jobId":"big"}`))

	a := host.begin("big", 1)
	piece := strings.Repeat("0123456789abcdef", 4096) // 64 KiB
	const n = 250                                     // 16 MiB: more than any buffer of a kernel
	for range n {
		host.chunks(a, piece)
	}
	if err := a.Finish(context.Background(), &job.Error{Code: "test", Message: "m", Fault: "host"}); err != nil {
		t.Fatal(err)
	}
	fast.await("model:error:v1")
	want := host.log("big", 0)
	if got := fast.frames("big"); len(got) != len(want) {
		t.Errorf("the fast client got %d frames of %d", len(got), len(want))
	}

	// Now the slow one reads.
	var got []string
	for len(got) == 0 || !strings.HasPrefix(got[len(got)-1], "model:error:v1") {
		_, b, err := slow.Read(t.Context())
		if err != nil {
			t.Fatalf("after %d frames: %v", len(got), err)
		}
		if b[0] != '4' {
			continue
		}
		m, err := readMessage(b[1:])
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == packetEvent && m.field(t, "seq") != nil {
			got = append(got, m.Name+" "+string(m.Data))
		}
	}
	sameFrames(t, got, want)
}

// What has no log can't wait in it: a client that doesn't take such messages is
// cut off at the limit.
func TestSlowClientOfLegacyMessages(t *testing.T) {
	rdb := serverRedis(t)
	conf := testConfig()
	conf.Limits.Pending = 256 * config.KiB
	addr, _ := startGateway(t, rdb, conf)
	slow, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.CloseNow() }()
	slow.SetReadLimit(-1)
	if err := slow.Write(t.Context(), websocket.MessageText, []byte("40")); err != nil {
		t.Fatal(err)
	}
	healthy := connect(t, addr, "")
	eventually(t, "the subscription", func() bool {
		n, err := rdb.PubSubNumSub(t.Context(), "model:chunk").Result()
		return err == nil && n["model:chunk"] > 0
	})
	piece := strings.Repeat("x", 64<<10)
	for i := range 400 {
		m := `{"userId":"anonymous","jobId":"l","chunk":"` + piece + `","index":` + string(encode(i)) + `}`
		if err := rdb.Publish(t.Context(), "model:chunk", m).Err(); err != nil {
			t.Fatal(err)
		}
		healthy.await("model:chunk:v1")
	}
	frames := 0
	for {
		_, b, err := slow.Read(t.Context())
		if err != nil {
			break // cut off
		}
		if strings.Contains(string(b[:min(len(b), 40)]), "model:chunk") {
			frames++
		}
	}
	if frames == 400 {
		t.Error("the slow client was never cut off")
	}
}

// Told to go, a gateway says so to every socket, closes, and leaves nothing
// behind; another gateway continues where it stopped.
func TestStop(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, stop := startGateway(t, rdb, testConfig())
		other, _ := startGateway(t, rdb, testConfig())
		c := connect(t, addr, "")
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"moved"}`))
		a := host.begin("moved", 1)
		host.chunks(a, "a", "b")
		c.await("model:chunk:v1")
		c.await("model:chunk:v1")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, c.await("error"), codeUnavailable)
		c.closed()
		if c2, err := tryDial(t, addr, nil); err == nil {
			t.Error("still listening")
			_ = c2.ws.CloseNow()
		}
		seen := c.frames("moved")

		back := connect(t, other, "")
		wantOK(t, back.ask("job:resume:v1", `{"jobId":"moved","lastSeq":3}`))
		host.chunks(a, "c")
		host.complete(a)
		back.await("model:complete:v1")
		equalFrames(t, append(seen, back.frames("moved")...), host.log("moved", 0))
	})
}

func TestHTTP(t *testing.T) {
	rdb := memoryRedis(t)
	conf := testConfig()
	conf.Origins = []string{"https://app.example.com"}
	addr, _ := startGateway(t, rdb, conf)
	do := func(method, path string, header ...string) (int, http.Header, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
			r.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header, string(body)
	}
	for _, test := range []struct {
		method, path string
		header       []string
		status       int
		kind, holds  string
	}{
		{"GET", "/", nil, 200, "text/html; charset=utf-8", `content="/socket.io/"`},
		{"HEAD", "/", nil, 200, "text/html; charset=utf-8", ""},
		{"GET", "/page/app.js", nil, 200, "text/javascript; charset=utf-8", "socket"},
		{"GET", "/page/style.css", nil, 200, "text/css; charset=utf-8", "color-scheme"},
		{"GET", "/page/icon.svg", nil, 200, "image/svg+xml", "<svg"},
		{"GET", "/socket.io/socket.io.js", nil, 200, "text/javascript; charset=utf-8", "Released under the MIT License"},
		{"GET", "/socket.io/socket.io.min.js", nil, 200, "text/javascript; charset=utf-8", ".io="},
		{"GET", "/socket.io/socket.io.esm.min.js", nil, 200, "text/javascript; charset=utf-8", "export{"},
		{"GET", "/socket.io/socket.io.js?v=1", []string{"Host", "evil.example.com"}, 403, "", ""},
		{"GET", "/page/socket.io.min.js", nil, 404, "", ""},
		{"GET", "/page/page.go", nil, 404, "", ""},
		{"GET", "/page/", nil, 404, "", ""},
		{"GET", "/page/../gateway.go", nil, 404, "", ""},
		{"GET", "/nothing", nil, 404, "", ""},
		{"POST", "/", nil, 405, "", ""},
		{"GET", "/healthz", nil, 200, "text/plain; charset=utf-8", "ok"},
		{"GET", "/readyz", nil, 200, "text/plain; charset=utf-8", "ready"},
		{"GET", "/", []string{"Host", "localhost:3210"}, 200, "", ""},
		{"GET", "/", []string{"Host", "[::1]:3210"}, 200, "", ""},
		{"GET", "/", []string{"Host", "evil.example.com"}, 403, "", "gateway.auth.mode"},
		{"GET", "/", []string{"Host", "localhost.example.com"}, 403, "", ""},
		{"GET", "/socket.io/?EIO=4&transport=polling", []string{"Host", "evil.example.com", "Origin", "http://evil.example.com"}, 403, "", ""},
		{"GET", "/socket.io/?EIO=4&transport=polling", []string{"Origin", "https://evil.example.com"}, 403, "", ""},
		{"GET", "/socket.io/?EIO=4&transport=polling", []string{"Origin", "null"}, 403, "", ""},
		{"GET", "/socket.io/?EIO=4&transport=polling", []string{"Origin", "https://app.example.com"}, 200, "", "sid"},
		{"GET", "/socket.io/?EIO=4&transport=polling", []string{"Origin", "http://" + addr}, 200, "", "sid"},
		{"GET", "/socket.io/?EIO=4&transport=polling", nil, 200, "", "sid"},
		{"PUT", "/socket.io/?EIO=4&transport=polling", nil, 400, "", ""},
		{"GET", "/socket.io/?EIO=3&transport=polling", nil, 400, "", ""},
	} {
		status, header, body := do(test.method, test.path, test.header...)
		if status != test.status || test.kind != "" && header.Get("Content-Type") != test.kind || !strings.Contains(body, test.holds) {
			t.Errorf("%s %s %v: %d %s %.80q", test.method, test.path, test.header, status, header.Get("Content-Type"), body)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: sniffing allowed", test.path)
		}
	}

	_, header, body := do("GET", "/")
	policy := header.Get("Content-Security-Policy")
	for _, rule := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, rule) {
			t.Errorf("policy %q lacks %q", policy, rule)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("policy %q", policy)
	}
	for _, outside := range []string{"http://", "https://", "//cdn", "<style", "onclick", "javascript:"} {
		if strings.Contains(body, outside) {
			t.Errorf("the page holds %q", outside)
		}
	}
	if status, _, _ := do("GET", "/", "If-None-Match", header.Get("ETag")); status != 304 {
		t.Errorf("with its own tag: %d", status)
	}
}

func TestNotReadyWithoutRedis(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer rdb.Close()
	addr, _ := startGateway(t, rdb, testConfig())
	for path, want := range map[string]int{"/readyz": 503, "/healthz": 200, "/": 200} {
		res, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
}

// A Redis that is out of memory answers, and takes no jobs; it says so itself.
func TestNotReadyWhileRedisTakesNoWrites(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: redistest.Start(t, "--maxmemory", "1").Addr, MaxRetries: -1})
	defer rdb.Close()
	c := newCore(t.Context(), Options{Config: testConfig(), Redis: rdb, Log: testLog(t)}, openDoor{})
	res := visit(t, newHTTPServer(c, http.NotFoundHandler()).Handler, "GET", "/readyz")
	if res.Code != http.StatusServiceUnavailable || !strings.HasPrefix(res.Body.String(), "redis takes no writes: OOM ") {
		t.Errorf("ready: %d %s", res.Code, res.Body)
	}
}

func TestConnectionLimit(t *testing.T) {
	conf := testConfig()
	conf.Limits.Connections = 2
	addr, _ := startGateway(t, memoryRedis(t), conf)
	first := connect(t, addr, "")
	connect(t, addr, "")
	if c, err := tryDial(t, addr, nil); err == nil {
		t.Error("a third connection was let in")
		_ = c.ws.CloseNow()
	}
	_ = first.ws.CloseNow()
	eventually(t, "room for another", func() bool {
		c, err := tryDial(t, addr, nil)
		return err == nil && c != nil
	})
}
