package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/zishang520/socket.io/v2/socket"
)

var packetCount = flag.Int("packets", 100_000, "mutated packets in TestMutatedPackets")

// baseline remembers the number of goroutines and returns a check that it is
// reached again.
func baseline(t *testing.T) func() {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	before := runtime.NumGoroutine()
	return func() {
		t.Helper()
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > before {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
			<-time.After(time.Millisecond)
		}
	}
}

// alive checks that the server still serves.
func (r *rig) alive() {
	r.t.Helper()
	p := r.join()
	p.send(`42["message","alive"]`)
	p.expect(`42["message-back","alive"]`)
	p.ws.CloseNow()
}

// A client that sends too much hears that, whatever of it was never read: it
// would only send it again.
func TestTooLargeIsSaid(t *testing.T) {
	check := baseline(t)
	r := start(t, Options{MaxPayload: 50_000, LingerTimeout: patience})
	reasons := r.reasons()
	large := strings.Repeat("x", 4<<20)
	for name, send := range map[string]func(p peer){
		"joined": func(p peer) { p.send(`42["message","` + large + `"]`) },
		"attachments": func(p peer) {
			p.send(`452-["message"]`)
			p.sendBinary(make([]byte, 40_000))
			p.sendBinary(make([]byte, 40_000))
		},
	} {
		p := r.join()
		send(p)
		if _, _, err := p.read(); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("%s: %v", name, err)
		}
		if got := <-reasons; got != ReasonTooLarge {
			t.Errorf("%s: reason %q", name, got)
		}
	}
	for _, token := range []string{strings.Repeat("x", 16_900), strings.Repeat("x", 30_000), large} {
		p := r.dial("")
		p.expect("0{")
		p.send(`40{"token":"` + token + `"}`)
		if got := p.expect("44{"); !strings.HasSuffix(got, `"data":{"code":"request_too_large"}}`) || !json.Valid([]byte(got[2:])) {
			t.Errorf("%d bytes: %s", len(token), got)
		}
		if _, _, err := p.read(); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("%d bytes: %v", len(token), err)
		}
	}
	q := r.poller()
	if status, _ := q.post(`40{"token":"` + strings.Repeat("x", 16_900) + `"}`); status != 413 {
		t.Errorf("POST: %d", status)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}

func TestHostileFrames(t *testing.T) {
	check := baseline(t)
	r := start(t, Options{MaxPayload: 50_000})
	ten := bytes.Repeat([]byte("x"), 10)
	for name, data := range map[string][]byte{
		"no mask":                   {0x81, 1, '3'},
		"reserved bit":              clientFrame(0xc1, ten),
		"reserved opcode":           clientFrame(0x83, ten),
		"reserved control":          clientFrame(0x8b, ten),
		"continuation first":        clientFrame(0x80, ten),
		"text within a message":     append(clientFrame(0x01, ten), clientFrame(0x81, ten)...),
		"fragmented ping":           clientFrame(0x09, ten),
		"long ping":                 clientFrame(0x89, bytes.Repeat(ten, 20)),
		"long close":                clientFrame(0x88, bytes.Repeat(ten, 20)),
		"close":                     clientFrame(0x88, nil),
		"close with a byte":         clientFrame(0x88, []byte{3}),
		"2^63 bytes":                {0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
		"2^64-1 bytes":              {0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4},
		"a byte over the limit":     {0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xc3, 0x51, 1, 2, 3, 4},
		"over the limit, unknown":   {0x81, 0xff, 0, 0, 0, 0, 0, 0, 0x50, 0, 1, 2, 3, 4},
		"fragments over the limit":  bytes.Repeat(append(clientFrame(0x01, ten)[:0:0], clientFrame(0x01, bytes.Repeat(ten, 1700))...), 2),
		"fragments of one message":  append(clientFrame(0x01, bytes.Repeat(ten, 1700)), clientFrame(0x80, bytes.Repeat(ten, 1700))...),
		"invalid UTF-8":             clientFrame(0x81, []byte("42[\"\xff\"]")),
		"half a rune per fragment":  append(clientFrame(0x01, []byte("42[\"\xc3")), clientFrame(0x80, []byte("(\"]"))...),
		"HTTP on a WebSocket":       []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"binary first":              clientFrame(0x82, ten),
		"packet of another version": clientFrame(0x81, []byte("2probe")),
	} {
		nc := r.rawDial("")
		nc.Write(data)
		nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("%s: not closed", name)
		}
	}
	for _, partial := range [][]byte{{}, {0x81}, {0x81, 0xfe}, {0x81, 0xff, 0, 0}, {0x81, 0x85, 1, 2, 3}, clientFrame(0x81, ten)[:10], clientFrame(0x01, ten)} {
		nc := r.rawDial("")
		nc.Write(partial)
		nc.Close()
	}
	// A ping beside fragments is answered, between them.
	nc := r.rawDial("")
	nc.Write(clientFrame(0x01, []byte("4")))
	nc.Write(clientFrame(0x89, []byte("hi")))
	nc.Write(clientFrame(0x80, []byte("0")))
	got := make([]byte, 0, 1000)
	for !bytes.Contains(got, []byte{0x8a, 2, 'h', 'i'}) || !bytes.Contains(got, []byte("40{")) {
		b := make([]byte, 1000)
		n, err := nc.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, b[:n]...)
	}
	nc.Close()
	r.await("all to end", func() bool { return r.srv.Len() == 0 })
	r.alive()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestHostileHandshakes(t *testing.T) {
	r := start(t, Options{})
	for _, head := range []string{
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n",
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
		"Upgrade: websocket\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
		"Upgrade: h2c\r\nConnection: Upgrade\r\n",
		"Origin: http://evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
	} {
		nc, err := net.Dial("tcp", r.addr())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(nc, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\n%s\r\n", r.addr(), head)
		b := make([]byte, 12)
		if _, err := io.ReadFull(nc, b); err != nil || b[9] != '4' {
			t.Errorf("%q: answered %q, %v", head, b, err)
		}
		nc.Close()
	}
	if n := r.srv.Len(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestHostileBodies(t *testing.T) {
	r := start(t, Options{MaxPayload: 100_000, BodyTimeout: 50 * time.Millisecond})
	joined := func() poller {
		p := r.poller()
		p.post("40")
		p.packets(2)
		return p
	}
	ended := func(p poller) {
		t.Helper()
		r.await("the session to end", func() bool { return r.srv.find(p.sid) == nil })
	}
	p := joined() // 80 KB at once, more than a scanner's line
	big := `42["message","` + strings.Repeat("x", 80_000) + `"]`
	p.post(big)
	if got := p.packets(1)[0]; len(got) != len(big)+5 {
		t.Errorf("echo of %d bytes for %d", len(got), len(big))
	}
	if status, _ := p.post(strings.Repeat("x", 100_001)); status != 413 && status != 0 {
		t.Errorf("body over the limit: %d", status)
	}
	ended(p)

	p = joined() // without a length
	req, _ := http.NewRequest("POST", r.url(p.params()), io.LimitReader(endless{}, 30_000_000))
	if status, _ := r.do(req); status != 413 && status != 0 {
		t.Errorf("chunked body over the limit: %d", status)
	}
	ended(p)

	p = joined()
	req, _ = http.NewRequest("POST", r.url(p.params()), strings.NewReader("40"))
	req.Header.Set("Content-Type", "application/octet-stream")
	if status, _ := r.do(req); status != 400 {
		t.Errorf("binary body: %d", status)
	}
	ended(p)

	p = r.poller() // a stranger is allowed less
	if status, _ := p.post("40" + strings.Repeat(" ", 20_000)); status != 413 && status != 0 {
		t.Errorf("large body of a stranger: %d", status)
	}
	ended(p)

	p = joined() // dripping
	slow, _ := net.Dial("tcp", r.addr())
	defer slow.Close()
	fmt.Fprintf(slow, "POST /socket.io/?%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n4", p.params())
	ended(p)

	p = joined() // two POSTs at once
	pr, pw := io.Pipe()
	first := make(chan int)
	req, _ = http.NewRequest("POST", r.url(p.params()), pr)
	go func() {
		status, _ := r.do(req)
		first <- status
	}()
	pw.Write([]byte("4"))
	r.await("the first POST to be read", func() bool {
		c := r.srv.find(p.sid)
		if c == nil {
			return true
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.posting
	})
	if status, _ := p.post("3"); status != 400 {
		t.Errorf("second POST: %d", status)
	}
	pw.Close()
	<-first
	ended(p)
	r.alive()
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// mutate changes a packet in one to three places.
func mutate(rnd *rand.Rand, seed string) []byte {
	const alphabet = "0123456789-/,[]{}\":\\abtrue \x00\x1e\xff\xc3"
	b := []byte(seed)
	for range 1 + rnd.IntN(3) {
		at := rnd.IntN(len(b) + 1)
		switch c := alphabet[rnd.IntN(len(alphabet))]; rnd.IntN(5) {
		case 0:
			b = append(b[:at:at], append([]byte{c}, b[at:]...)...)
		case 1:
			if at < len(b) {
				b[at] = c
			}
		case 2:
			b = b[:at]
		case 3:
			b = append(b[:at:at], b[min(at+1+rnd.IntN(4), len(b)):]...)
		case 4:
			b = append(b, b[at:]...)
		}
	}
	return b
}

// TestMutatedPackets throws damaged packets at the whole stack, before and after
// CONNECT: nothing may crash, stay behind, or keep others from being served.
func TestMutatedPackets(t *testing.T) {
	check := baseline(t)
	r := start(t, Options{})
	seeds := append([]string{`2["message-with-ack",1]`, `21["message-with-ack",{"a":[1,2]}]`, "0/custom,{}", `51-["message",{"_placeholder":true,"num":0}]`}, packetSeeds...)
	engine := []string{"2", "3", "6", "1", "5", "2probe", "bAQID", "b", "0", "4"}
	var left, accepted, refused atomic.Int64
	left.Store(int64(*packetCount))
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(worker)))
			for left.Load() > 0 {
				sid := handle(r.srv, "GET", "", "")
				if rnd.IntN(4) > 0 {
					handle(r.srv, "POST", sid, "40")
				}
				for range 1 + rnd.IntN(20) {
					body := "4" + string(mutate(rnd, seeds[rnd.IntN(len(seeds))]))
					if rnd.IntN(8) == 0 {
						body = string(mutate(rnd, engine[rnd.IntN(len(engine))]))
					}
					left.Add(-1)
					if handle(r.srv, "POST", sid, body) != "ok" {
						refused.Add(1)
						break
					}
					accepted.Add(1)
				}
				if c := r.srv.find(sid); c != nil {
					c.abort(ReasonTransportClose)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d accepted, %d refused", accepted.Load(), refused.Load())
	if accepted.Load() < int64(*packetCount)/20 || refused.Load() < int64(*packetCount)/20 {
		t.Error("the mutations test one side only")
	}
	r.await("all to end", func() bool { return r.srv.Len() == 0 })
	r.alive()
	r.await("every socket to be disconnected", func() bool { return r.io.Sockets().Sockets().Len() == 0 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}

// handle does one polling request without a network; a handshake returns the
// session's id, anything else the answer.
func handle(s *Server, method, sid, body string) string {
	target := "/socket.io/?EIO=4&transport=polling"
	if sid != "" {
		target += "&sid=" + sid
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	if sid == "" {
		_, rest, _ := strings.Cut(w.Body.String(), `"sid":"`)
		sid, _, _ = strings.Cut(rest, `"`)
		return sid
	}
	return w.Body.String()
}

// TestMutatedFrames damages the frames themselves, over the network.
func TestMutatedFrames(t *testing.T) {
	check := baseline(t)
	r := start(t, Options{})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(worker)))
			for range 150 {
				nc := r.rawDial("")
				nc.Write(clientFrame(0x81, []byte("40")))
				for range 10 {
					f := clientFrame(0x81, []byte("4"+packetSeeds[rnd.IntN(len(packetSeeds))]))
					if _, err := nc.Write(mutate(rnd, string(f))); err != nil {
						break
					}
				}
				nc.Close()
			}
		})
	}
	wg.Wait()
	r.await("all to end", func() bool { return r.srv.Len() == 0 })
	r.alive()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}

// TestReconnectStorm drops everybody at once, again and again, at every stage of
// a connection's life.
func TestReconnectStorm(t *testing.T) {
	check := baseline(t)
	r := start(t, Options{})
	var joined, left atomic.Int64
	r.io.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		joined.Add(1)
		s.Join("room")
		s.On("disconnect", func(...any) { left.Add(1) })
	})
	stop := make(chan struct{})
	var noise sync.WaitGroup
	noise.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.io.To("room").Emit("noise", 1)
				r.srv.Each(func(c *Conn) bool { c.Send(NewEvent("/", "noise")); return true })
				runtime.Gosched()
			}
		}
	})
	var wg sync.WaitGroup
	for worker := range 40 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(3, uint64(worker)))
			for range 12 {
				switch rnd.IntN(4) {
				case 0: // polling, upgraded, cut
					p := r.poller()
					p.post("40")
					ws, err := r.tryDial(p.sid)
					if err != nil {
						t.Error(err)
						return
					}
					ws.send("2probe")
					if rnd.IntN(2) == 0 {
						ws.expect("3probe")
						ws.send("5")
					}
					ws.ws.CloseNow()
				case 1: // cut in the middle of the greeting
					p, err := r.tryDial("")
					if err != nil {
						t.Error(err)
						return
					}
					p.send("40")
					p.ws.CloseNow()
				default:
					p, err := r.tryDial("")
					if err != nil {
						t.Error(err)
						return
					}
					p.send("40", `42["message",1]`)
					for {
						_, b, err := p.read()
						if err != nil {
							t.Errorf("read: %v", err)
							return
						}
						if string(b) == `42["message-back",1]` {
							break
						}
					}
					p.ws.CloseNow()
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	noise.Wait()
	r.srv.Each(func(c *Conn) bool { // those that went on polling
		c.abort(ReasonTransportClose)
		return true
	})
	state := func() string {
		return fmt.Sprintf("%d connections, %d joined, %d left, %d sockets", r.srv.Len(), joined.Load(), left.Load(), r.io.Sockets().Sockets().Len())
	}
	defer func() {
		if t.Failed() {
			t.Log(state())
		}
	}()
	r.await("all to leave", func() bool {
		return r.srv.Len() == 0 && joined.Load() == left.Load() && r.io.Sockets().Sockets().Len() == 0
	})
	r.alive()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}

// TestSlowClients has some clients stop reading: they cost a bounded outbox, are
// closed with a reason, and the others get everything.
func TestSlowClients(t *testing.T) {
	check := baseline(t)
	r := start(t, Options{MaxBuffered: 64 << 10, SocketBuffer: 16 << 10})
	conns := make(chan *Conn, 10)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	reasons := r.reasons()
	var slow, quick []*Conn
	for range 3 {
		nc := r.rawDial("")
		nc.(*net.TCPConn).SetReadBuffer(4 << 10)
		nc.Write(clientFrame(0x81, []byte("40")))
		slow = append(slow, <-conns)
	}
	var peers []peer
	for range 3 {
		peers = append(peers, r.join())
		quick = append(quick, <-conns)
	}
	event := NewEvent("/", "chunk", []byte(`"`+strings.Repeat("x", 1000)+`"`))
	sent, peak := 0, 0
	for open := len(slow); open > 0; sent++ {
		open = 0
		for _, c := range slow {
			if err := c.Send(event); err == nil {
				open++
			}
			peak = max(peak, c.Buffered())
		}
		for i, c := range quick {
			if err := c.Send(event); err != nil {
				t.Fatalf("quick client: %v", err)
			}
			if got := peers[i].expect("42"); len(got) != 1014 {
				t.Fatalf("got %d bytes", len(got))
			}
		}
	}
	if peak > 64<<10 {
		t.Errorf("%d bytes waiting at the peak", peak)
	}
	for range slow {
		if got := <-reasons; got != ReasonSlow {
			t.Errorf("reason %q", got)
		}
	}
	if !errors.Is(slow[0].Send(event), ErrClosed) {
		t.Error("a slow connection takes more")
	}
	t.Logf("closed after %d events, at most %d bytes waiting", sent, peak)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}

// A client that reads nothing at all is closed even if nothing more is sent.
func TestBlockedWriteTimesOut(t *testing.T) {
	r := start(t, Options{WriteTimeout: 50 * time.Millisecond, SocketBuffer: 16 << 10})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	reasons := r.reasons()
	nc := r.rawDial("")
	nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	nc.Write(clientFrame(0x81, []byte("40")))
	c := <-conns
	event := NewEvent("/", "chunk", []byte(`"`+strings.Repeat("x", 500_000)+`"`))
	for range 2 {
		c.Send(event)
	}
	if got := <-reasons; got != ReasonSlow {
		t.Errorf("reason %q", got)
	}
}

// A write deadline that has passed must not fail a later write.
func TestWriteAfterBlockedWrite(t *testing.T) {
	r := start(t, Options{WriteTimeout: 200 * time.Millisecond, SocketBuffer: 16 << 10})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	p := r.join()
	c := <-conns
	c.Send(NewEvent("/", "chunk", []byte(`"`+strings.Repeat("x", 500_000)+`"`)))
	p.expect(`42["chunk"`)
	<-time.After(250 * time.Millisecond) // longer than the write's deadline
	c.Send(NewEvent("/", "after"))
	p.expect(`42["after"]`)
}
