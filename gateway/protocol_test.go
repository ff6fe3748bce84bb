package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/zishang520/socket.io/v2/socket"
)

// The behaviours of the protocols' own test suites, over the transport as the
// gateway sets it up, with an echo application in a namespace of its own.
// https://github.com/socketio/socket.io/tree/main/docs/engine.io-protocol/v4-test-suite
// https://github.com/socketio/socket.io/tree/main/docs/socket.io-protocol/v5-test-suite

// echoGateway serves a gateway whose namespace /echo echoes.
func echoGateway(t *testing.T) (url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	auth, err := newAuthenticator(ctx, testConfig().Auth, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	rdb := memoryRedis(t)
	c := newCore(ctx, Options{Config: testConfig(), Redis: rdb, Log: quiet(t)}, auth)
	sockets := newSocketServer(c)
	sockets.io.Of("/echo", nil).On("connection", func(args ...any) { echo(args[0].(*socket.Socket)) })
	server := httptest.NewServer(newHTTPServer(c, sockets).Handler)
	open, closeSockets := context.WithCancel(ctx)
	ran := make(chan error, 2)
	go func() { ran <- sockets.run(open) }()
	go func() { c.run(ctx); ran <- nil }()
	t.Cleanup(func() {
		closeSockets()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		cancel()
		<-ran
		c.work.Wait()
		server.Close()
	})
	return server.URL
}

// number reads an argument of an event: the gateway has them raw.
func number(arg any) (n int64) {
	raw, _ := arg.(json.RawMessage)
	_ = json.Unmarshal(raw, &n)
	return n
}

func echo(s *socket.Socket) {
	s.Emit("auth", s.Handshake().Auth)
	s.On("message", func(args ...any) { s.Emit("message-back", args...) })
	s.On("message-with-ack", func(args ...any) {
		if ack, ok := args[len(args)-1].(socket.Ack); ok {
			ack(args[:len(args)-1], nil)
		}
	})
	s.On("flood", func(args ...any) {
		for i := range number(args[0]) {
			s.Emit("n", i)
		}
		s.Emit("flooded")
	})
	var next, wrong atomic.Int64
	s.On("count", func(args ...any) {
		if next.Add(1)-1 != number(args[0]) {
			wrong.Add(1)
		}
	})
	s.On("counted", func(args ...any) { args[0].(socket.Ack)([]any{[]int64{next.Load(), wrong.Load()}}, nil) })
	s.On("bye", func(...any) {
		s.Emit("last words")
		s.Disconnect(true)
	})
}

// suite speaks the protocols by hand.
type suite struct {
	*testing.T
	url string // up to the parameters
}

func (s suite) request(method, params, body string) (int, string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+params, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// want does a request whose answer is known.
func (s suite) want(method, params, body string, status int, answer string) {
	s.Helper()
	if got, b := s.request(method, params, body); got != status || !strings.HasPrefix(b, answer) {
		s.Errorf("%s ?%s %q: %d %.100q, want %d %q", method, params, body, got, b, status, answer)
	}
}

// session opens a session over polling and returns its parameters.
func (s suite) session() string {
	s.Helper()
	_, b := s.request("GET", "EIO=4&transport=polling", "")
	var open struct {
		SID                      string
		Upgrades                 []string
		PingInterval, MaxPayload int
	}
	if !strings.HasPrefix(b, "0") || json.Unmarshal([]byte(b[1:]), &open) != nil || open.SID == "" ||
		len(open.Upgrades) != 1 || open.PingInterval != 25000 || open.MaxPayload == 0 {
		s.Fatalf("handshake: %q", b)
	}
	return "EIO=4&transport=polling&sid=" + open.SID
}

// dial opens a WebSocket.
func (s suite) dial(params string) *websocket.Conn {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, s.url+params, nil)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { ws.CloseNow() })
	return ws
}

// talk sends messages, those that begin with \x00 as binary, and checks what
// comes, each by its beginning; "close" is the end of the connection.
func (s suite) talk(ws *websocket.Conn, send []string, expect ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for _, m := range send {
		kind := websocket.MessageText
		if strings.HasPrefix(m, "\x00") {
			kind = websocket.MessageBinary
		}
		if err := ws.Write(ctx, kind, []byte(m)); err != nil {
			s.Fatal(err)
		}
	}
	for _, want := range expect {
		_, got, err := ws.Read(ctx)
		switch {
		case want == "close" && err != nil && ctx.Err() == nil:
		case err != nil || !bytes.HasPrefix(got, []byte(want)) || want == "close":
			s.Fatalf("after %q: got %.100q, %v, want %q", send, got, err, want)
		}
	}
}

func TestProtocolOfTheTransport(t *testing.T) {
	s := suite{t, echoGateway(t) + "/socket.io/?"}
	socketParams := "EIO=4&transport=websocket"
	for params, code := range map[string]string{
		"transport=polling": `{"code":5`, "EIO=abc&transport=polling": `{"code":5`, "EIO=3&transport=polling": `{"code":5`,
		"EIO=4": `{"code":0`, "EIO=4&transport=abc": `{"code":0`, "EIO=4&transport=websocket": `{"code":3`,
		"EIO=4&transport=polling&sid=nobody": `{"code":1`,
	} {
		s.want("GET", params, "", 400, code)
	}
	s.want("POST", "EIO=4&transport=polling", "", 400, `{"code":2`)
	s.want("PUT", "EIO=4&transport=polling", "", 400, `{"code":2`)

	p := s.session() // a packet, many, binary
	s.want("POST", p, "40/echo,", 200, "ok")
	s.want("GET", p, "", 200, "40/echo,{")
	s.want("POST", p, "42/echo,[\"message\",1]\x1e42/echo,[\"message\",\"é\"]\x1e451-/echo,[\"message\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==", 200, "ok")
	var all string
	for strings.Count(all, "message-back") < 3 || !strings.Contains(all, "bAQIDBA==") {
		_, b := s.request("GET", p, "")
		all += b + "\x1e"
	}
	if at := strings.Index(all, `["message-back",1]`); at < 0 || at > strings.Index(all, `["message-back","é"]`) {
		t.Errorf("order of %q", all)
	}
	s.want("POST", p, "1", 200, "ok")
	s.want("GET", p, "", 200, "6")
	s.want("GET", p, "", 400, `{"code":1`)

	for _, bad := range []string{"abc", "", "4abc", "bAAA", "40\x1e\x1e"} { // an invalid packet ends the session
		p := s.session()
		s.want("POST", p, bad, 400, "")
		s.want("GET", p, "", 400, `{"code":1`)
	}

	p = s.session() // two polls at once
	first := make(chan int, 1)
	other := s
	go func() { status, _ := other.request("GET", p, ""); first <- status }()
	for status := 0; status != 400; { // as soon as the first is there
		if status, _ = s.request("GET", p, ""); status == 200 {
			break // it was the other one that came first
		}
	}
	<-first
	s.want("GET", p, "", 400, `{"code":1`)

	ws := s.dial(socketParams)
	s.talk(ws, nil, "0{")
	s.talk(ws, []string{"40/echo,"}, "40/echo,", "42/echo,[\"auth\",{}]")
	s.talk(ws, []string{`42/echo,["message",1]`}, `42/echo,["message-back",1]`)
	s.talk(ws, []string{"1"}, "close")
	for _, bad := range []string{"abc", "", "4abc", "4999", "\x00\x01"} {
		ws := s.dial(socketParams)
		s.talk(ws, nil, "0{")
		s.talk(ws, []string{bad}, "close")
	}

	p = s.session() // upgrade; afterwards polling is over
	ws = s.dial(strings.Replace(p, "polling", "websocket", 1))
	s.talk(ws, []string{"2probe"}, "3probe")
	s.talk(ws, []string{"5", "40/echo,"}, "40/echo,", "42/echo,")
	s.want("GET", p, "", 400, `{"code":3`)
	s.want("POST", p, "40", 400, `{"code":3`)
	s.talk(ws, []string{`42/echo,["message","still here"]`}, `42/echo,["message-back","still here"]`)
}

func TestProtocolOfSockets(t *testing.T) {
	s := suite{t, echoGateway(t) + "/socket.io/?"}
	open := func() *websocket.Conn {
		ws := s.dial("EIO=4&transport=websocket")
		s.talk(ws, nil, "0{")
		return ws
	}
	ws := open()
	s.talk(ws, []string{"40"}, "40{", `42["connected",`) // the gateway's own namespace
	s.talk(ws, []string{`40/echo,{"token":"123"}`}, "40/echo,{", `42/echo,["auth",{"token":"123"}]`)
	s.talk(ws, []string{"40/none,"}, `44/none,{"message":"Invalid namespace"}`)
	s.talk(ws, []string{`42/echo,["message",1,"2",{"3":[true]}]`}, `42/echo,["message-back",1,"2",{"3":[true]}]`)
	s.talk(ws, []string{`42/echo,456["message-with-ack",1,"2"]`}, `43/echo,456[1,"2"]`)
	s.talk(ws, []string{"452-/echo,[\"message\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]", "\x00\x01", "\x00\x02"},
		"452-/echo,[\"message-back\",", "\x00\x01", "\x00\x02")
	s.talk(ws, []string{"451-/echo,789[\"message-with-ack\",{\"_placeholder\":true,\"num\":0}]", "\x00\x03"}, "461-/echo,789[", "\x00\x03")
	s.talk(ws, []string{"41/echo,", `42/echo,["message","gone"]`, `42["nothing"]`}, `42["error"`) // only the namespace is left
	s.talk(ws, []string{"1"}, "close")

	for _, bad := range []string{`42/echo,["message",1]`, "4abc", `42{}`, `42[]`, "42", "43", "45", `451-["a"`} { // and nobody has connected
		s.talk(open(), []string{bad}, "close")
	}
	for _, bad := range []string{"4abc", `42/echo,{}`, `42/echo,[]`, "42/echo,", "43/echo,1", `42/echo,[{}]`, "\x00\x01"} {
		ws := open()
		s.talk(ws, []string{"40/echo,"}, "40/echo,", "42/echo,")
		s.talk(ws, []string{bad}, "close")
	}
}

// TestProtocolWithClients runs the npm clients, the oldest too, against the gateway.
func TestProtocolWithClients(t *testing.T) {
	const dir = "engine/testdata/client"
	if _, err := os.Stat(dir + "/node_modules"); err != nil {
		if os.Getenv("SLUICE_REQUIRE") != "" {
			t.Fatal("run npm ci in gateway/" + dir)
		}
		t.Skip("run npm ci in gateway/" + dir)
	}
	url := echoGateway(t)
	for _, client := range []string{"socket.io-client", "socket.io-client-4.0", "socket.io-client-3.0"} {
		t.Run(client, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", "smoke.mjs", url, client, "/echo")
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("node: %v\n%s", err, out)
			}
		})
	}
}
