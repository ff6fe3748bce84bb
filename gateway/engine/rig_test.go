package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/zishang520/socket.io/v2/socket"
)

// patience is how long a test waits for an event that must come.
const patience = 30 * time.Second

// rig is a server with an echo application on a random port.
type rig struct {
	t    testing.TB
	srv  *Server
	io   *socket.Server
	http *httptest.Server
	stop func() error

	dialer net.Dialer // of rawDial
}

// start runs a server with the application of the Socket.IO protocol's test suite.
// https://github.com/socketio/socket.io/tree/main/docs/socket.io-protocol/v5-test-suite
func start(t testing.TB, o Options) *rig {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	if o.LingerTimeout == 0 {
		o.LingerTimeout = 100 * time.Millisecond
	}
	r := &rig{t: t, srv: New(o), io: socket.NewServer(nil, nil)}
	r.io.On("connection", func(args ...any) { echo(args[0].(*socket.Socket)) })
	r.io.Of("/custom", nil).On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		s.Emit("auth", s.Handshake().Auth)
	})
	r.srv.Bind(r.io)
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", r.srv)
	r.http = httptest.NewServer(mux)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.srv.Run(ctx) }()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		err := <-ran
		r.http.Close()
		return err
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return r
}

func echo(s *socket.Socket) {
	s.Emit("auth", s.Handshake().Auth)
	s.On("message", func(args ...any) { s.Emit("message-back", args...) })
	s.On("message-with-ack", func(args ...any) {
		if n := len(args); n > 0 {
			if ack, ok := args[n-1].(socket.Ack); ok {
				ack(args[:n-1], nil)
			}
		}
	})
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	if bytes.Contains(b, []byte("panicked")) && !bytes.Contains(b, []byte("panic=on-purpose")) {
		w.t.Errorf("a panic")
	}
	return len(b), nil
}

func (r *rig) addr() string { return r.http.Listener.Addr().String() }

func (r *rig) url(params string) string { return r.http.URL + "/socket.io/?" + params }

// request does an HTTP request and returns status and body; status 0 if it failed.
func (r *rig) request(method, params, body string) (int, string) {
	req, err := http.NewRequest(method, r.url(params), strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(req)
}

func (r *rig) do(req *http.Request) (int, string) {
	ctx, cancel := context.WithTimeout(req.Context(), patience)
	defer cancel()
	res, err := r.http.Client().Do(req.WithContext(ctx))
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// poller is a session over polling.
type poller struct {
	*rig
	sid string
}

func (r *rig) poller() poller {
	r.t.Helper()
	status, body := r.request("GET", "EIO=4&transport=polling", "")
	_, rest, ok := strings.Cut(body, `"sid":"`)
	if status != 200 || !ok {
		r.t.Fatalf("handshake: %d %s", status, body)
	}
	sid, _, _ := strings.Cut(rest, `"`)
	return poller{r, sid}
}

func (p poller) params() string { return "EIO=4&transport=polling&sid=" + p.sid }

func (p poller) poll() (int, string) { return p.request("GET", p.params(), "") }

func (p poller) post(body string) (int, string) { return p.request("POST", p.params(), body) }

// pollAsync starts a poll and returns when the server holds it.
func (p poller) pollAsync(ctx context.Context) <-chan string {
	answer := make(chan string, 1)
	req, _ := http.NewRequestWithContext(ctx, "GET", p.url(p.params()), nil)
	go func() {
		status, body := p.do(req)
		answer <- fmt.Sprint(status, " ", body)
	}()
	p.await("the poll to be held", func() bool {
		c := p.srv.find(p.sid)
		if c == nil {
			return true
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.poll != nil
	})
	return answer
}

// packets polls until n packets have come.
func (p poller) packets(n int) []string {
	p.t.Helper()
	var all []string
	for len(all) < n {
		status, body := p.poll()
		if status != 200 {
			p.t.Fatalf("poll: %d %s, after %q", status, body, all)
		}
		all = append(all, strings.Split(body, "\x1e")...)
	}
	return all
}

// await polls for a condition that no event announces.
func (r *rig) await(what string, cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			r.t.Fatalf("waited too long for %s", what)
		}
		wait := time.NewTimer(time.Millisecond)
		<-wait.C
	}
}

// peer is a client over WebSocket.
type peer struct {
	*rig
	ws *websocket.Conn
}

// dial opens a WebSocket, for a new session or for the upgrade of sid.
func (r *rig) dial(sid string) peer {
	r.t.Helper()
	p, err := r.tryDial(sid)
	if err != nil {
		r.t.Fatalf("dial: %v", err)
	}
	return p
}

func (r *rig) tryDial(sid string) (peer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	params := "EIO=4&transport=websocket"
	if sid != "" {
		params += "&sid=" + sid
	}
	ws, _, err := websocket.Dial(ctx, r.url(params), &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return peer{}, err
	}
	ws.SetReadLimit(-1)
	p := peer{r, ws}
	r.t.Cleanup(func() { ws.CloseNow() })
	return p, nil
}

// join opens a session and joins the main namespace; greetings are read.
func (r *rig) join() peer {
	r.t.Helper()
	p := r.dial("")
	p.expect("0{")
	p.send("40")
	p.expect("40{")
	p.expect("42[\"auth\"")
	return p
}

func (p peer) send(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := p.ws.Write(ctx, websocket.MessageText, []byte(text))
		cancel()
		if err != nil {
			p.t.Fatalf("send %.60q: %v", text, err)
		}
	}
}

func (p peer) sendBinary(b []byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageBinary, b); err != nil {
		p.t.Fatalf("send attachment: %v", err)
	}
}

func (p peer) read() (websocket.MessageType, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.ws.Read(ctx)
}

// expect reads one message, which must begin with prefix, and returns it.
func (p peer) expect(prefix string) string {
	p.t.Helper()
	_, b, err := p.read()
	if err != nil {
		p.t.Fatalf("expected %q, got %v", prefix, err)
	}
	if !bytes.HasPrefix(b, []byte(prefix)) {
		p.t.Fatalf("expected %q, got %.100q", prefix, b)
	}
	return string(b)
}

// expectClosed reads until the server has closed.
func (p peer) expectClosed() {
	p.t.Helper()
	for {
		if _, _, err := p.read(); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				p.t.Fatal("the server didn't close")
			}
			return
		}
	}
}

// rawDial opens a TCP connection and does the WebSocket handshake by hand.
func (r *rig) rawDial(sid string) net.Conn {
	r.t.Helper()
	nc, err := r.dialer.Dial("tcp", r.addr())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	query := url.Values{"EIO": {"4"}, "transport": {"websocket"}}
	if sid != "" {
		query.Set("sid", sid)
	}
	fmt.Fprintf(nc, "GET /socket.io/?%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", query.Encode(), r.addr())
	head := make([]byte, 0, 512)
	for !bytes.Contains(head, []byte("\r\n\r\n")) {
		b := make([]byte, 1)
		if _, err := nc.Read(b); err != nil {
			r.t.Fatalf("handshake: %v after %q", err, head)
		}
		head = append(head, b...)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		r.t.Fatalf("handshake: %q", head)
	}
	return nc
}

// clientFrame encodes a masked frame.
func clientFrame(first byte, payload []byte) []byte {
	b := appendHeader(nil, 0, len(payload))
	b[0], b[1] = first, b[1]|0x80
	key := [4]byte{1, 2, 3, 4}
	b = append(b, key[:]...)
	masked := bytes.Clone(payload)
	unmask(masked, key)
	return append(b, masked...)
}

// reasons collects why sockets that join from now on are disconnected.
func (r *rig) reasons() <-chan string {
	c := make(chan string, 1000)
	r.io.On("connection", func(args ...any) {
		args[0].(*socket.Socket).On("disconnect", func(args ...any) { c <- args[0].(string) })
	})
	return c
}
