package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The cases of the Engine.IO protocol's language-neutral test suite, version 4.
// https://github.com/socketio/socket.io/tree/main/docs/engine.io-protocol/v4-test-suite

func TestHandshake(t *testing.T) {
	r := start(t, Options{PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond, MaxPayload: 1_000_000})
	check := func(packet string, upgrades int) {
		t.Helper()
		var open struct {
			Sid                                   string
			Upgrades                              []string
			PingInterval, PingTimeout, MaxPayload int
		}
		if packet[0] != '0' || json.Unmarshal([]byte(packet[1:]), &open) != nil {
			t.Fatalf("open packet %q", packet)
		}
		if open.Sid == "" || len(open.Upgrades) != upgrades || open.PingInterval != 300 || open.PingTimeout != 200 || open.MaxPayload != 1_000_000 {
			t.Errorf("open packet %q", packet)
		}
	}
	status, body := r.request("GET", "EIO=4&transport=polling", "")
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	check(body, 1)
	check(r.dial("").expect("0"), 0)
}

func TestHandshakeRefused(t *testing.T) {
	r := start(t, Options{})
	for _, c := range []struct {
		name, method, params string
		code                 int
	}{
		{"no version", "GET", "transport=polling", 5},
		{"old version", "GET", "EIO=3&transport=polling", 5},
		{"unknown version", "GET", "EIO=abc&transport=polling", 5},
		{"no transport", "GET", "EIO=4", 0},
		{"unknown transport", "GET", "EIO=4&transport=abc", 0},
		{"POST", "POST", "EIO=4&transport=polling", 2},
		{"PUT", "PUT", "EIO=4&transport=polling", 2},
		{"WebSocket without an upgrade", "GET", "EIO=4&transport=websocket", 3},
		{"unknown session", "GET", "EIO=4&transport=polling&sid=abc", 1},
		{"unknown session, POST", "POST", "EIO=4&transport=polling&sid=abc", 1},
	} {
		status, body := r.request(c.method, c.params, "")
		if want := fmt.Sprintf(`{"code":%d,`, c.code); status != 400 || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %s, want 400 %s", c.name, status, body, want)
		}
	}
	for _, params := range []string{"transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc", "EIO=4&transport=websocket&sid=abc"} {
		if _, res, err := websocket.Dial(context.Background(), r.url(params), nil); err == nil || res == nil || res.StatusCode != 400 {
			t.Errorf("WebSocket %s: %v, %v", params, res, err)
		}
	}
	if n := r.srv.Len(); n != 0 {
		t.Errorf("%d connections left", n)
	}
}

func TestPollingBothWays(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	if status, body := p.post("40"); status != 200 || body != "ok" {
		t.Fatalf("POST: %d %s", status, body)
	}
	got := p.packets(2)
	if !strings.HasPrefix(got[0], "40{") || got[1] != `42["auth",{}]` {
		t.Fatalf("greeting %q", got)
	}
	if status, body := p.post("42[\"message\",1]\x1e42[\"message\",\"é\"]\x1e42[\"message\",3]"); status != 200 || body != "ok" {
		t.Fatalf("POST: %d %s", status, body)
	}
	if got := strings.Join(p.packets(3), " "); got != `42["message-back",1] 42["message-back","é"] 42["message-back",3]` {
		t.Errorf("echo %q", got)
	}
	p.post("451-[\"message\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==")
	if got := strings.Join(p.packets(2), " "); got != `451-["message-back",{"_placeholder":true,"num":0}] bAQIDBA==` {
		t.Errorf("binary echo %q", got)
	}
}

func TestInvalidPacketClosesSession(t *testing.T) {
	r := start(t, Options{})
	for _, body := range []string{"abc", "", "4", "48", "2", "2probe", "5", "b!!!", "bAAAA", "40\x1e", "40{\"a\":\"\xff\"}"} {
		p := r.poller()
		if status, answer := p.post(body); status != 400 {
			t.Errorf("POST %q: %d %s", body, status, answer)
		}
		if status, answer := p.poll(); status != 400 {
			t.Errorf("poll after %q: %d %s", body, status, answer)
		}
	}
	for _, message := range []string{"abc", "", "4", "48", "2", "bAAAA"} {
		p := r.dial("")
		p.send(message)
		p.expectClosed()
	}
	r.await("all sessions to end", func() bool { return r.srv.Len() == 0 })
}

func TestDuplicatePollClosesSession(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	first := p.pollAsync(context.Background())
	if status, body := p.poll(); status != 400 {
		t.Errorf("second poll: %d %s", status, body)
	}
	if got := <-first; got != "200 1" {
		t.Errorf("first poll: %s, want a close packet", got)
	}
	if status, _ := p.poll(); status != 400 {
		t.Errorf("the session survived")
	}
}

func TestCancelledPollClosesSession(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	ctx, cancel := context.WithCancel(context.Background())
	answer := p.pollAsync(ctx)
	cancel()
	<-answer
	r.await("the session to end", func() bool { return r.srv.Len() == 0 })
	if status, _ := p.poll(); status != 400 {
		t.Errorf("the session survived")
	}
}

func TestHeartbeatPolling(t *testing.T) {
	r := start(t, Options{PingInterval: 40 * time.Millisecond, PingTimeout: patience})
	p := r.poller()
	p.post("40")
	p.packets(2)
	for range 3 {
		if got := p.packets(1); got[0] != "2" {
			t.Fatalf("got %q, want a ping", got)
		}
		if status, _ := p.post("3"); status != 200 {
			t.Fatalf("pong: %d", status)
		}
	}
}

func TestHeartbeatWebSocket(t *testing.T) {
	r := start(t, Options{PingInterval: 40 * time.Millisecond, PingTimeout: patience})
	p := r.join()
	for range 3 {
		if got := p.expect("2"); got != "2" {
			t.Fatalf("got %q, want a ping", got)
		}
		p.send("3")
	}
}

func TestPingTimeout(t *testing.T) {
	r := start(t, Options{PingInterval: 20 * time.Millisecond, PingTimeout: 20 * time.Millisecond})
	reasons := r.reasons()
	r.join().expectClosed()
	if got := <-reasons; got != ReasonPing {
		t.Errorf("reason %q", got)
	}
	p := r.poller()
	r.await("the polling session to end", func() bool { return r.srv.Len() == 0 })
	if status, _ := p.poll(); status != 400 {
		t.Errorf("poll after the timeout: %d", status)
	}
}

// An early pong must not end or extend anything: nothing has been asked.
func TestEarlyPong(t *testing.T) {
	r := start(t, Options{PingInterval: 50 * time.Millisecond, PingTimeout: patience})
	for range 20 {
		p := r.dial("")
		p.send("3", "3", "3", "40", "3")
		p.expect("0{")
		p.expect("40{")
		p.expect("42")
		p.expect("2")
	}
}

func TestClosePacketPolling(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	pending := p.pollAsync(context.Background())
	if status, body := p.post("1"); status != 200 {
		t.Errorf("POST: %d %s", status, body)
	}
	if got := <-pending; got != "200 6" {
		t.Errorf("pending poll: %s, want a noop", got)
	}
	if status, _ := p.poll(); status != 400 {
		t.Errorf("the session survived: %d", status)
	}
}

// The GET may be behind the POST that closes: it is answered all the same.
func TestClosePacketBeforePoll(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	p.post("1")
	if status, body := p.poll(); status != 200 || body != "6" {
		t.Errorf("late poll: %d %s", status, body)
	}
	if status, _ := p.poll(); status != 400 {
		t.Errorf("the session survived: %d", status)
	}
}

func TestClosePacketWebSocket(t *testing.T) {
	r := start(t, Options{})
	p := r.dial("")
	p.send("1")
	p.expectClosed()
	reasons := r.reasons()
	q := r.join()
	q.send("1")
	q.expectClosed()
	r.join().ws.Close(websocket.StatusNormalClosure, "")
	for range 2 {
		if got := <-reasons; got != ReasonTransportClose {
			t.Errorf("reason %q", got)
		}
	}
}

func TestUpgrade(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	p.post("40")
	p.packets(2)
	pending := p.pollAsync(context.Background())
	ws := r.dial(p.sid)
	ws.send("2probe")
	ws.expect("3probe")
	if got := <-pending; got != "200 6" {
		t.Errorf("pending poll: %s, want a noop", got)
	}
	if status, body := p.poll(); status != 200 || body != "6" {
		t.Errorf("poll while probing: %d %s, want a noop", status, body)
	}
	ws.send("5", `42["message","over"]`)
	if got := ws.expect("42"); got != `42["message-back","over"]` {
		t.Errorf("after the upgrade: %q", got)
	}
	for _, method := range []string{"GET", "POST"} {
		if status, _ := p.request(method, p.params(), "4"); status != 400 {
			t.Errorf("%s after the upgrade: %d", method, status)
		}
	}
	second := r.dial(p.sid)
	second.expectClosed()
	ws.send(`42["message","still"]`)
	ws.expect(`42["message-back","still"]`)
}

// What is said between the probe and the upgrade goes over the WebSocket, a
// goodbye included.
func TestCloseWhileUpgrading(t *testing.T) {
	r := start(t, Options{LingerTimeout: patience})
	p := r.poller()
	p.post("40")
	p.packets(2)
	ws := r.dial(p.sid)
	ws.send("2probe")
	ws.expect("3probe")
	c := r.srv.find(p.sid)
	c.Send(NewEvent("/", "last words"))
	c.Kick("moved")
	ws.send("5")
	ws.expect(`42["last words"]`)
	ws.expectClosed()
	r.await("the session to end", func() bool { return r.srv.Len() == 0 })
}

func TestUpgradeRefused(t *testing.T) {
	r := start(t, Options{})
	p := r.poller()
	p.post("40")
	p.packets(2)
	for _, hostile := range []string{"5", "2", "3probe", "2prob", "4hello", "1", ""} {
		ws := r.dial(p.sid)
		ws.send(hostile)
		ws.expectClosed()
		r.await("the probe to end", func() bool {
			c := r.srv.find(p.sid)
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.probe == nil
		})
	}
	second := r.dial(p.sid)
	third := r.dial(p.sid) // two probes at once
	third.expectClosed()
	second.send("2probe")
	second.expect("3probe")
	second.ws.CloseNow() // half-open: the session stays on polling
	r.await("the probe to end", func() bool {
		c := r.srv.find(p.sid)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.probe == nil
	})
	p.post(`42["message","polling"]`)
	if got := p.packets(1); got[0] != `42["message-back","polling"]` {
		t.Errorf("got %q", got)
	}
}

func TestUpgradeTimeout(t *testing.T) {
	r := start(t, Options{UpgradeTimeout: 20 * time.Millisecond})
	p := r.poller()
	ws := r.dial(p.sid)
	ws.expectClosed()
	if status, _ := p.post("40"); status != 200 {
		t.Errorf("the session is gone: %d", status)
	}
}

func TestConnectTimeout(t *testing.T) {
	r := start(t, Options{ConnectTimeout: 30 * time.Millisecond})
	r.dial("").expectClosed()
	p := r.poller()
	if status, body := p.poll(); status != 200 || body != "1" {
		t.Errorf("poll: %d %q, want a close packet", status, body)
	}
	joined := r.join()
	r.dial("").expectClosed()
	joined.send(`42["message",1]`)
	joined.expect("42")
}

func TestOrigin(t *testing.T) {
	get := func(r *rig, origin string) (int, http.Header) {
		req, _ := http.NewRequest("GET", r.url("EIO=4&transport=polling"), nil)
		req.Header.Set("Origin", origin)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode, res.Header
	}
	dial := func(r *rig, origin string) error {
		ws, _, err := websocket.Dial(context.Background(), r.url("EIO=4&transport=websocket"), &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if err == nil {
			ws.CloseNow()
		}
		return err
	}
	own := start(t, Options{})
	if status, h := get(own, own.http.URL); status != 200 || h.Get("Access-Control-Allow-Origin") != own.http.URL {
		t.Errorf("own origin: %d %v", status, h)
	}
	for _, origin := range []string{"http://evil.example", "null", "http://" + own.addr() + ".evil.example", "::"} {
		if status, h := get(own, origin); status != 403 || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("origin %s: %d %v", origin, status, h)
		}
		if dial(own, origin) == nil {
			t.Errorf("origin %s: WebSocket accepted", origin)
		}
	}
	if err := dial(own, own.http.URL); err != nil {
		t.Errorf("own origin: %v", err)
	}
	listed := start(t, Options{Origin: func(_ *http.Request, origin string) bool { return origin == "https://app.example" }})
	if err := dial(listed, "https://app.example"); err != nil {
		t.Errorf("listed origin: %v", err)
	}
	if dial(listed, listed.http.URL) == nil {
		t.Errorf("an origin off the list was accepted")
	}
	req, _ := http.NewRequest("OPTIONS", listed.url("EIO=4&transport=polling"), nil)
	req.Header.Set("Origin", "https://app.example")
	req.Header.Set("Access-Control-Request-Headers", "content-type")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 204 || res.Header.Get("Access-Control-Allow-Headers") != "content-type" || res.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("preflight: %d %v", res.StatusCode, res.Header)
	}
}

func TestAdmission(t *testing.T) {
	open := make(chan struct{}, 10)
	r := start(t, Options{Admit: func(r *http.Request) (func(), error) {
		switch r.URL.Query().Get("who") {
		case "busy":
			return nil, &Refusal{Status: 429, Message: "too many", RetryAfter: 1500 * time.Millisecond}
		case "unknown":
			return nil, fmt.Errorf("who is that")
		}
		open <- struct{}{}
		return func() { <-open }, nil
	}})
	res, err := http.Get(r.url("EIO=4&transport=polling&who=busy"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "2" {
		t.Errorf("refused with %d %v", res.StatusCode, res.Header)
	}
	if status, _ := r.request("GET", "EIO=4&transport=polling&who=unknown", ""); status != 403 {
		t.Errorf("refused with %d", status)
	}
	p, q := r.dial(""), r.poller()
	if len(open) != 2 {
		t.Errorf("%d admitted", len(open))
	}
	p.ws.CloseNow()
	q.post("1")
	q.poll()
	r.await("both to be released", func() bool { return len(open) == 0 })
	// A handshake that fails after its admission is released too.
	req, _ := http.NewRequest("GET", r.url("EIO=4&transport=websocket"), nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	if status, _ := r.do(req); status != 400 || len(open) != 0 || r.srv.Len() != 0 {
		t.Errorf("handshake without a key: %d, %d admitted, %d connections", status, len(open), r.srv.Len())
	}
}

func TestMaxConns(t *testing.T) {
	r := start(t, Options{MaxConns: 2})
	p := r.dial("")
	r.poller()
	if status, _ := r.request("GET", "EIO=4&transport=polling", ""); status != 503 {
		t.Errorf("third connection: %d", status)
	}
	p.ws.CloseNow()
	r.await("room", func() bool { return r.srv.Len() == 1 })
	r.poller()
}

func TestShutdownAnswersEverybody(t *testing.T) {
	r := start(t, Options{})
	reasons := r.reasons()
	p := r.poller()
	p.post("40")
	p.packets(2)
	pending := p.pollAsync(context.Background())
	q, silent := r.join(), r.poller()
	r.rawDial("") // never says or reads anything
	stopped := make(chan error)
	go func() { stopped <- r.srv.Shutdown(context.Background()) }()
	if got := <-pending; got != "200 1" {
		t.Errorf("pending poll: %s, want a close packet", got)
	}
	q.expectClosed()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if status, _ := silent.poll(); status != 400 {
		t.Errorf("a session survived: %d", status)
	}
	if status, _ := r.request("GET", "EIO=4&transport=polling", ""); status != 503 {
		t.Errorf("handshake after the shutdown: %d", status)
	}
	for range 2 {
		if got := <-reasons; got != ReasonShutdown {
			t.Errorf("reason %q", got)
		}
	}
}
