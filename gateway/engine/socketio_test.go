package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zishang520/socket.io/v2/socket"
)

// The cases of the Socket.IO protocol's language-neutral test suite, version 5,
// with the library bound to the engine.
// https://github.com/socketio/socket.io/tree/main/docs/socket.io-protocol/v5-test-suite

func TestConnectNamespaces(t *testing.T) {
	r := start(t, Options{})
	p := r.dial("")
	p.expect("0{")
	p.send("40")
	p.expect(`40{"sid":"`)
	p.expect(`42["auth",{}]`)
	p.send(`40/custom,{"token":"123"}`)
	p.expect(`40/custom,{"sid":"`)
	p.expect(`42/custom,["auth",{"token":"123"}]`)
	p.send("40/random")
	if got := p.expect("44/random,"); got != `44/random,{"message":"Invalid namespace"}` {
		t.Errorf("got %q", got)
	}
	p.send("40/custom?with=query,") // the name is taken as it is
	p.expect("44/custom?with=query,")
	p.send(`42["message",1]`)
	p.expect(`42["message-back",1]`)

	q := r.dial("")
	q.expect("0{")
	q.send(`40{"token":"abc"}`)
	q.expect(`40{"sid":"`)
	q.expect(`42["auth",{"token":"abc"}]`)
}

func TestDisconnectNamespace(t *testing.T) {
	r := start(t, Options{})
	reasons := r.reasons()
	p := r.join()
	p.send("40/custom")
	p.expect("40/custom,")
	p.expect("42/custom,")
	for range 3 {
		p.send("41")
		if got := <-reasons; got != "client namespace disconnect" {
			t.Errorf("reason %q", got)
		}
		p.send(`42["message","late"]`) // was on its way, say
		p.send("40")
		p.expect("40{")
		p.expect("42[\"auth\"")
		p.send(`42["message",1]`)
		p.expect(`42["message-back",1]`)
	}
	p.send("41/custom")
	p.send("41/custom") // twice is no reason to close
	p.send(`42["message",2]`)
	p.expect(`42["message-back",2]`)
}

func TestEventsAndAcks(t *testing.T) {
	r := start(t, Options{})
	p := r.join()
	for _, c := range [][2]string{
		{`42["message",1,"2",{"3":[true]}]`, `42["message-back",1,"2",{"3":[true]}]`},
		{`42["message"]`, `42["message-back"]`},
		{`42456["message-with-ack",1,"2",{"3":[false]}]`, `43456[1,"2",{"3":[false]}]`},
		{`420["message-with-ack"]`, `430[]`},
		{`450-["message","no attachment"]`, `42["message-back","no attachment"]`},
		{`42 [ "message" , 1 ]`, `42["message-back",1]`},
		{`42["message\u002dwith-ack",1]`, ``},
		{`42["\u006dessage",1]`, `42["message-back",1]`},
		{`42["nobody listens",1]`, ``},
		{`42["message","` + strings.Repeat("é", 100_000) + `"]`, `42["message-back","` + strings.Repeat("é", 100_000) + `"]`},
	} {
		p.send(c[0])
		if c[1] == "" {
			continue
		}
		if got := p.expect("4"); got != c[1] {
			t.Errorf("%.60s: got %.60s, want %.60s", c[0], got, c[1])
		}
	}
}

func TestBinary(t *testing.T) {
	r := start(t, Options{})
	p := r.join()
	p.send(`452-["message",{"_placeholder":true,"num":1},{"a":{"_placeholder":true,"num":0}}]`)
	p.sendBinary([]byte{1, 2, 3})
	p.sendBinary([]byte{4})
	p.expect(`452-["message-back",{"_placeholder":true,"num":0},{"a":{"_placeholder":true,"num":1}}]`)
	for _, want := range []string{"\x04", "\x01\x02\x03"} {
		if _, b, err := p.read(); err != nil || string(b) != want {
			t.Fatalf("attachment %q, %v; want %q", b, err, want)
		}
	}
	p.send(`451-789["message-with-ack",{"_placeholder":true,"num":0}]`)
	p.sendBinary([]byte{5, 6})
	p.expect(`461-789[{"_placeholder":true,"num":0}]`)
	if _, b, err := p.read(); err != nil || string(b) != "\x05\x06" {
		t.Fatalf("attachment %q, %v", b, err)
	}
}

func TestBinaryRefused(t *testing.T) {
	r := start(t, Options{Limits: Limits{Attachments: 2}, MaxPayload: 1000, BodyTimeout: 20 * time.Millisecond})
	for name, do := range map[string]func(p peer){
		"too many":       func(p peer) { p.send(`453-["message"]`) },
		"none announced": func(p peer) { p.sendBinary([]byte{1}) },
		"text instead":   func(p peer) { p.send(`451-["message"]`, `42["message"]`) },
		"too large together": func(p peer) {
			p.send(`452-["message"]`)
			p.sendBinary(make([]byte, 600))
			p.sendBinary(make([]byte, 600))
		},
		"never come":              func(p peer) { p.send(`451-["message"]`) },
		"a placeholder beyond":    func(p peer) { p.send(`451-["message",{"_placeholder":true,"num":1}]`); p.sendBinary([]byte{1}) },
		"a placeholder below":     func(p peer) { p.send(`451-["message",{"_placeholder":true,"num":-1}]`); p.sendBinary([]byte{1}) },
		"a placeholder between":   func(p peer) { p.send(`451-["message",{"_placeholder":true,"num":0.5}]`); p.sendBinary([]byte{1}) },
		"a placeholder of text":   func(p peer) { p.send(`451-["message",{"_placeholder":true,"num":"0"}]`); p.sendBinary([]byte{1}) },
		"a huge placeholder":      func(p peer) { p.send(`451-["message",{"_placeholder":true,"num":1e300}]`); p.sendBinary([]byte{1}) },
		"in front of a namespace": func(p peer) { p.send(`45/custom,1-["message"]`) },
	} {
		reasons := r.reasons()
		p := r.join()
		do(p)
		p.expectClosed()
		want := ReasonParse
		if name == "too large together" {
			want = ReasonTooLarge
		}
		if got := <-reasons; got != want {
			t.Errorf("%s: reason %q", name, got)
		}
	}
}

func TestServerAcks(t *testing.T) {
	r := start(t, Options{})
	answers := make(chan []any, 10)
	r.io.On("connection", func(args ...any) {
		args[0].(*socket.Socket).EmitWithAck("question", 1)(func(args []any, err error) { answers <- args })
	})
	p := r.join()
	q := p.expect("42")
	id := strings.TrimSuffix(strings.TrimPrefix(q, "42"), `["question",1]`)
	p.send("43"+id+`["yes",2]`, "43"+id+`["again"]`, "4399999[]")
	if got := <-answers; fmt.Sprint(got) != "[yes 2]" {
		t.Errorf("answer %v", got)
	}
	p.send(`42["message",1]`)
	p.expect("42")
	if len(answers) != 0 {
		t.Errorf("an answer counted twice: %v", <-answers)
	}
}

// What would crash or confuse the library closes the connection instead.
func TestBadPacketsClose(t *testing.T) {
	r := start(t, Options{})
	for _, packet := range []string{
		"42", "42{}", "42[]", "42[1]", "42[null]", `42["connect"]`, `42["disconnect"]`, `42["\u0064isconnect"]`,
		"421", `42["a"`, `42["a"]x`, "42/none,[\"a\"]", "43", "431", "43[]", "431{}", "43/none,1[]",
		"40[]", "40null", "400", "41{}", "411", "44", `44{"message":"x"}`, "45", "45-", `451["a"]`, `45-1["a"]`,
		"46", "460-", `451-1-["a"]`, "47", "4x", "4\x00", "42" + strings.Repeat("[", 10_000), "42" + strings.Repeat("9", 30) + `["a"]`,
		`42["` + strings.Repeat("a", 200) + `"]`, "42/" + strings.Repeat("n", 200) + `,["a"]`, `42["a",` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "]",
		`42["a"` + strings.Repeat(",1", 60_000) + "]", `42["a","\ud800"`,
	} {
		reasons := r.reasons()
		p := r.join()
		p.send(packet)
		p.expectClosed()
		if got := <-reasons; got != ReasonParse {
			t.Errorf("%.40q: reason %q", packet, got)
		}
	}
	for _, first := range []string{`42["message"]`, "41", "431[]", `451-["message"]`} {
		p := r.dial("")
		p.send(first)
		if first[1] == '5' {
			p.sendBinary([]byte{1})
		}
		p.expectClosed()
	}
}

// However many CONNECT packets come at once, a namespace gets one socket.
func TestConnectFlood(t *testing.T) {
	r := start(t, Options{Limits: Limits{Namespaces: 2}})
	var sockets atomic.Int64
	r.io.On("connection", func(...any) { sockets.Add(1) })
	p := r.dial("")
	p.expect("0{")
	for range 100 {
		p.send("40")
	}
	p.expect("40{")
	p.expect(`42["auth"`)
	p.send(`42["message",1]`, "40", `42["message",2]`)
	p.expect(`42["message-back",1]`)
	p.expect(`42["message-back",2]`)
	if n := sockets.Load(); n != 1 {
		t.Errorf("%d sockets", n)
	}
	q := r.dial("")
	q.expect("0{")
	for i := range 50 {
		q.send(fmt.Sprintf("40/none%d", i)) // refused ones aren't counted
	}
	q.send("40", "40/custom", "40/third")
	for range 51 {
		q.expect("4")
	}
	q.expect("4")
	for {
		if got := q.expect("4"); strings.HasPrefix(got, "44/third") {
			if got != `44/third,{"message":"too many namespaces"}` {
				t.Errorf("got %s", got)
			}
			break
		}
	}
}

func TestMiddleware(t *testing.T) {
	r := start(t, Options{})
	later := make(chan func(), 10)
	r.io.Use(func(s *socket.Socket, next func(*socket.ExtendedError)) {
		auth, _ := s.Handshake().Auth.(map[string]any)
		switch auth["token"] {
		case "later":
			later <- func() { next(nil) }
		case "panic":
			panic("on-purpose")
		case "good":
			next(nil)
		default:
			next(socket.NewExtendedError("Authentication error", map[string]any{"code": "unauthorized"}))
		}
	})
	p := r.dial("")
	p.expect("0{")
	p.send("40")
	if got := p.expect("44"); got != `44{"data":{"code":"unauthorized"},"message":"Authentication error"}` {
		t.Errorf("refusal %s", got)
	}
	p.send(`40{"token":"later"}`, `42["message","behind"]`) // events wait for the decision
	(<-later)()
	p.expect("40{")
	p.expect(`42["auth"`)
	p.expect(`42["message-back","behind"]`)

	q := r.dial("")
	q.send(`40{"token":"panic"}`)
	q.expectClosed()

	// The client goes away while its token is looked at: no socket stays behind.
	reasons := r.reasons()
	for range 20 {
		gone := r.dial("")
		gone.send(`40{"token":"later"}`)
		next := <-later
		gone.ws.CloseNow()
		next()
	}
	p.ws.CloseNow()
	r.await("every socket to be disconnected", func() bool { return r.srv.Len() == 0 && r.io.Sockets().Sockets().Len() == 0 })
	for len(reasons) > 0 {
		if got := <-reasons; got != ReasonTransportClose && got != "server namespace disconnect" {
			t.Errorf("reason %q", got)
		}
	}
	r.await("every room to be left", func() bool { return r.io.Sockets().Adapter().Sids().Len() == 0 })
}

// A client that leaves while the listeners of "connection" are at work: the
// socket's "disconnect" comes after them, when somebody listens.
func TestDisconnectAfterConnection(t *testing.T) {
	r := start(t, Options{})
	entered, release, left := make(chan struct{}), make(chan struct{}), make(chan string, 1)
	r.io.Of("/slow", nil).On("connection", func(args ...any) {
		close(entered)
		<-release
		args[0].(*socket.Socket).On("disconnect", func(args ...any) { left <- args[0].(string) })
	})
	p := r.dial("")
	p.send("40/slow")
	<-entered
	p.ws.CloseNow()
	r.await("the connection to end", func() bool { return r.srv.Len() == 0 })
	close(release)
	if got := <-left; got != ReasonTransportClose {
		t.Errorf("reason %q", got)
	}
}

// A client that is disconnected from a namespace may join it again the moment it
// hears so, though the library is still about the disconnection.
func TestConnectRightAfterDisconnect(t *testing.T) {
	r := start(t, Options{})
	said := make(chan struct{})
	r.io.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		s.On("leave", func(...any) { go s.Disconnect(false) })
		s.On("disconnecting", func(...any) { <-said })
	})
	p := r.join()
	p.send(`42["leave"]`)
	p.expect("41")
	p.send("40", `42["message","again"]`)
	r.await("the packet to be taken", func() bool {
		waiting := 0
		r.srv.Each(func(c *Conn) bool {
			c.in.Lock()
			defer c.in.Unlock()
			waiting = len(c.in.packets)
			return true
		})
		return waiting == 1 // the event, behind CONNECT
	})
	close(said)
	p.expect("40{")
	p.expect(`42["auth"`)
	p.expect(`42["message-back","again"]`)
}

// Events of one client are delivered in order and never at the same time.
func TestInboundOrder(t *testing.T) {
	r := start(t, Options{})
	const n = 3000
	var at, inside, wrong atomic.Int64
	done := make(chan struct{})
	r.io.On("connection", func(args ...any) {
		runtime.Gosched() // the listener below is added late, the events wait
		args[0].(*socket.Socket).On("count", func(args ...any) {
			if inside.Add(1) != 1 || int64(args[0].(float64)) != at.Load() {
				wrong.Add(1)
			}
			runtime.Gosched()
			inside.Add(-1)
			if at.Add(1) == n {
				close(done)
			}
		})
	})
	p := r.dial("")
	p.expect("0{")
	p.send("40")
	p.expect("40")
	for i := range n {
		p.send(fmt.Sprintf(`42["count",%d]`, i))
	}
	<-done
	if wrong.Load() != 0 {
		t.Errorf("%d events out of order", wrong.Load())
	}
}

// A listener that blocks stops reading from its client, and only from it; the
// queue in front of it is bounded.
func TestSlowListener(t *testing.T) {
	r := start(t, Options{Limits: Limits{Queue: 4}, MaxPayload: 1000})
	release, entered := make(chan struct{}), make(chan struct{}, 1000)
	var handled atomic.Int64
	r.io.On("connection", func(args ...any) {
		args[0].(*socket.Socket).On("block", func(...any) {
			entered <- struct{}{}
			<-release
			handled.Add(1)
		})
	})
	slow, quick := r.join(), r.join()
	for range 20 {
		slow.send(`42["block"]`)
	}
	<-entered
	quick.send(`42["message",1]`)
	quick.expect(`42["message-back",1]`)
	var c *Conn
	r.srv.Each(func(x *Conn) bool {
		x.in.Lock()
		defer x.in.Unlock()
		if x.in.running {
			c = x
		}
		return true
	})
	c.in.Lock()
	if n := len(c.in.packets); n > 4 {
		t.Errorf("%d packets queued", n)
	}
	c.in.Unlock()
	close(release)
	r.await("all to be handled", func() bool { return handled.Load() == 20 })
}

func TestPanicInListener(t *testing.T) {
	r := start(t, Options{})
	r.io.On("connection", func(args ...any) {
		args[0].(*socket.Socket).On("panic", func(...any) { panic("on-purpose") })
	})
	reasons := r.reasons()
	p, q := r.join(), r.join()
	p.send(`42["panic"]`)
	p.expectClosed()
	if got := <-reasons; got != ReasonHandler {
		t.Errorf("reason %q", got)
	}
	q.send(`42["message",1]`)
	q.expect(`42["message-back",1]`)
}

// A panic in a listener of "connection" costs the connection; the other listeners
// are called all the same, once.
func TestPanicInConnection(t *testing.T) {
	r := start(t, Options{})
	var bad atomic.Bool
	bad.Store(true)
	r.io.On("connection", func(...any) {
		if bad.Load() {
			panic("on-purpose")
		}
	})
	var calls atomic.Int64
	r.io.On("connection", func(...any) { calls.Add(1) })
	reasons := r.reasons()
	p := r.dial("")
	p.send("40", `42["message",1]`)
	p.expectClosed()
	if got := <-reasons; got != ReasonHandler {
		t.Errorf("reason %q", got)
	}
	r.await("the connection to end", func() bool { return r.srv.Len() == 0 && r.io.Sockets().Sockets().Len() == 0 })
	bad.Store(false)
	q := r.join()
	q.send(`42["message",1]`)
	q.expect(`42["message-back",1]`)
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls for 2 connections", n)
	}
}

// The last words before a disconnect arrive, and the client learns who hung up.
func TestDisconnectByServer(t *testing.T) {
	r := start(t, Options{})
	r.io.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		s.On("bye", func(args ...any) {
			s.Emit("last words")
			s.Disconnect(args[0].(bool))
		})
	})
	for range 50 {
		p := r.join()
		p.send(`42["bye",true]`)
		p.expect(`42["last words"]`)
		p.expect("41")
		p.expectClosed()
	}
	q := r.poller()
	q.post("40")
	q.packets(2)
	if status, _ := q.post(`42["bye",true]`); status != 200 {
		t.Errorf("POST: %d", status)
	}
	r.await("the last words", func() bool {
		c := r.srv.find(q.sid)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.state == stateClosing
	})
	if got := strings.Join(q.packets(2), " "); got != `42["last words"] 41` {
		t.Errorf("got %q", got)
	}
	if got := q.packets(1); got[0] != "1" { // a payload of its own
		t.Errorf("got %q", got)
	}
	p := r.join()
	p.send(`42["bye",false]`)
	p.expect(`42["last words"]`)
	p.expect("41")
	p.send(`42["message","late"]`, "40")
	p.expect("40{")
}

func TestConnSendAndKick(t *testing.T) {
	r := start(t, Options{})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	reasons := r.reasons()
	p := r.join()
	c := <-conns
	if c.Address() == "" || c.ID() == "" || r.srv.find(c.ID()) != c {
		t.Errorf("address %q, id %q", c.Address(), c.ID())
	}
	big := json.RawMessage(`"` + strings.Repeat("x", 70_000) + `"`)
	if err := c.Send(NewEvent("/", "a", []byte("1"), []byte(`"2"`)), NewEvent("/custom", `q"`), NewPacket([]byte(`2["b"]`)), NewEvent("", "big", big)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`42["a",1,"2"]`, `42/custom,["q\""]`, `42["b"]`, `42["big",` + string(big) + `]`} {
		if got := p.expect("42"); got != want {
			t.Errorf("got %.60q, want %.60q", got, want)
		}
	}
	c.Send(NewEvent("/", "bye"))
	c.Kick("token expired")
	p.expect(`42["bye"]`)
	p.expectClosed()
	<-c.Done()
	if got := <-reasons; got != "token expired" {
		t.Errorf("reason %q", got)
	}
	if err := c.Send(NewEvent("/", "late")); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after the end: %v", err)
	}
	c.Kick("again")
}

// Room broadcasts of the library arrive whole, back to back.
func TestRoomBurst(t *testing.T) {
	r := start(t, Options{})
	r.io.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		s.Join("room")
		s.On("burst", func(args ...any) {
			for i := range 2000 {
				r.io.To("room").Emit("n", i)
			}
			args[0].(socket.Ack)(nil, nil)
		})
	})
	p := r.join()
	p.send(`421["burst"]`)
	for i := range 2000 {
		if got := p.expect("42"); got != fmt.Sprintf(`42["n",%d]`, i) {
			t.Fatalf("message %d: %s", i, got)
		}
	}
	p.expect("431[]")
}

// The windows of batching neither lose nor reorder, whoever sends.
func TestBatching(t *testing.T) {
	for _, delay := range []time.Duration{-1, time.Microsecond, 5 * time.Millisecond} {
		r := start(t, Options{MaxDelay: delay})
		conns := make(chan *Conn, 1)
		r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
		p := r.join()
		c := <-conns
		var mu sync.Mutex
		next := 0
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 500 {
					mu.Lock()
					if arg := json.RawMessage(fmt.Sprint(next)); next%2 == 0 {
						c.Send(NewEvent("/", "n", arg))
					} else {
						c.Emit("/", "n", arg)
					}
					next++
					mu.Unlock()
				}
			})
		}
		for i := range 2000 {
			if got := p.expect("42"); got != fmt.Sprintf(`42["n",%d]`, i) {
				t.Fatalf("delay %v, message %d: %s", delay, i, got)
			}
		}
		wg.Wait()
		r.await("the outbox to be empty", func() bool { return c.Buffered() == 0 })
	}
}

// Short events are written from the stack; what the kernel doesn't take is kept,
// from the byte on where it stopped.
func TestEmitIntoAFullKernel(t *testing.T) {
	r := start(t, Options{SocketBuffer: 16 << 10, MaxDelay: -1})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	p := r.join()
	c := <-conns
	event := func(i int) string { return fmt.Sprintf(`{"n":%d,"s":%q}`, i, strings.Repeat("x", i%shortEvent)) }
	sent := 0
	for ; sent < 100 || c.Buffered() == 0; sent++ {
		if err := c.Emit("/", "n", json.RawMessage(event(sent))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sent {
		if got := p.expect("42"); got != `42["n",`+event(i)+`]` {
			t.Fatalf("message %d of %d: %s", i, sent, got)
		}
	}
	if err := c.Emit("/none", "é", json.RawMessage(`1`)); err != nil {
		t.Fatal(err)
	}
	if got := p.expect("42"); got != `42/none,["é",1]` {
		t.Error(got)
	}
}

// Raw arguments come as they were written, those beside attachments decoded.
func TestRawArguments(t *testing.T) {
	r := start(t, Options{RawArguments: true})
	got := make(chan []any, 1)
	r.io.On("connection", func(args ...any) {
		args[0].(*socket.Socket).On("raw", func(args ...any) { got <- args })
	})
	p := r.join()
	p.send(`427[ "r\u0061w", {"z":1.0,"a":12345678901234567890} ,null,"x"]`)
	args := <-got
	if len(args) != 4 {
		t.Fatalf("%d arguments: %q", len(args), args)
	}
	for i, want := range []string{`{"z":1.0,"a":12345678901234567890}`, `null`, `"x"`} {
		if raw, ok := args[i].(json.RawMessage); !ok || string(raw) != want {
			t.Errorf("argument %d: %T %s", i, args[i], args[i])
		}
	}
	args[3].(socket.Ack)([]any{"done"}, nil)
	p.expect(`437["done"]`)
	p.send(`451-["raw",{"_placeholder":true,"num":0},1]`)
	p.sendBinary([]byte("bytes"))
	if args = <-got; len(args) != 2 || args[1] != 1.0 {
		t.Errorf("beside an attachment: %v", args)
	}
}
