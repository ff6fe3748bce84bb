package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zishang520/socket.io/v2/socket"
)

// A client that pings and doesn't read is owed one pong, and not one for each ping.
func TestPingsOfAClientThatDoesNotRead(t *testing.T) {
	r := start(t, Options{MaxBuffered: 1 << 30, SocketBuffer: 4 << 10})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	nc := r.rawDial("")
	pings := bytes.Repeat(clientFrame(0x89, bytes.Repeat([]byte("x"), 125)), 1000)
	for range 100 {
		if _, err := nc.Write(pings); err != nil {
			t.Fatal(err)
		}
	}
	nc.Write(clientFrame(0x81, []byte("40"))) // comes after all pings
	if n := (<-conns).Buffered(); n > 64<<10 {
		t.Errorf("%d bytes wait for a client that only pings", n)
	}
}

// A stranger can't have the server hold refusals without end.
func TestRefusalsOfAClientThatDoesNotRead(t *testing.T) {
	r := start(t, Options{MaxBuffered: 1 << 30, SocketBuffer: 4 << 10, ConnectTimeout: time.Minute, WriteTimeout: time.Minute})
	joined := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { joined <- ConnOf(args[0].(*socket.Socket)) })
	nc := r.rawDial("")
	connects := bytes.Repeat(clientFrame(0x81, []byte("40/"+strings.Repeat("n", 120)+",")), 100)
	for range 100 {
		if _, err := nc.Write(connects); err != nil {
			break
		}
	}
	nc.Write(clientFrame(0x81, []byte("40"))) // comes after all of them
	r.await("the end of the connection", func() bool {
		select {
		case c := <-joined:
			t.Errorf("%d bytes of refusals wait", c.Buffered())
			return true
		default:
			return r.srv.Len() == 0
		}
	})
}

// Who has joined no namespace can't fill the queue of those who have.
func TestQueueOfAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Conn{srv: New(Options{})}
		c.in.room.L = &c.in
		c.in.running = true // middleware that ponders
		p := Packet{Type: TypeConnect, Data: bytes.Repeat([]byte(" "), 16<<10)}
		var waiting sync.WaitGroup
		for range 100 {
			waiting.Go(func() { c.enqueue(p) })
		}
		synctest.Wait()
		c.in.Lock()
		if c.in.bytes > 64<<10 {
			t.Errorf("%d bytes wait", c.in.bytes)
		}
		c.in.ended = true
		c.in.room.Broadcast()
		c.in.Unlock()
		waiting.Wait()
	})
}

// logFunc is a log that calls a function.
type logFunc func(slog.Record)

func (logFunc) Enabled(context.Context, slog.Level) bool        { return true }
func (f logFunc) Handle(_ context.Context, r slog.Record) error { f(r); return nil }
func (f logFunc) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f logFunc) WithGroup(string) slog.Handler                 { return f }

// After a write that broke off nobody else writes: it would be into the middle of a frame.
func TestNothingIsWrittenAfterAFailedWrite(t *testing.T) {
	var c *Conn
	r := start(t, Options{Log: slog.New(logFunc(func(rec slog.Record) {
		if rec.Message == "socket write ended" {
			c.Send(NewEvent("/", "intruder"))
		}
	}))})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	p := r.join()
	c = <-conns
	r.await("a pause", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		idle := !c.writing && !c.delayed
		c.writing, c.lastWrite = c.writing || idle, 0 // out of the batching window
		return idle
	})
	c.writeFailed(errors.New("broken off"))
	for {
		_, b, err := p.read()
		if err != nil {
			return
		}
		if strings.Contains(string(b), "intruder") {
			t.Errorf("%q was written", b)
		}
	}
}

// fullConn takes no more after so many bytes, as if its client had stopped reading,
// and counts the writes.
type fullConn struct {
	net.Conn
	room   atomic.Int64
	writes atomic.Int64
}

func (c *fullConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	if left := c.room.Add(-int64(len(b))); left < 0 {
		return 0, &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
	}
	return c.Conn.Write(b)
}

// A client over TLS that stops in the middle of a write is given up: nothing can be
// written after a deadline, and trying is not waiting.
func TestBlockedWriteOverTLS(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	below := &fullConn{Conn: server}
	below.room.Store(1 << 20)
	certificate := testCertificate(t)
	outer := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{certificate}})
	reader := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 64<<10)
		for {
			if _, err := reader.Read(b); err != nil {
				return
			}
		}
	})
	defer reading.Wait()
	defer client.Close()
	if err := outer.Handshake(); err != nil {
		t.Fatal(err)
	}
	counted := &fullConn{Conn: outer}
	counted.room.Store(1 << 40)
	below.room.Store(20 << 10) // the first record goes out, the second doesn't
	w := newWire(counted, 0)
	written := 0
	if err := w.writeAll(make([]byte, 64<<10), 200*time.Millisecond, func(n int) { written += n }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if written == 0 {
		t.Error("nothing was written, so nothing was shown")
	}
	if n := counted.writes.Load(); n > 3 {
		t.Errorf("%d writes to a connection that is broken", n)
	}
}

func testCertificate(t *testing.T) tls.Certificate {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.TLS.Certificates[0]
}

// shutting is a connection whose end of sending may take its time, as over TLS.
type shutting struct {
	net.Conn
	shut func()
}

func (s shutting) CloseWrite() error { s.shut(); return nil }

// The goodbye of one client holds up nobody who looks at its connection.
func TestGoodbyeHoldsNoLock(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	c := &Conn{srv: New(Options{})}
	called := false
	c.ws = newWire(shutting{server, func() {
		if called = true; !c.mu.TryLock() {
			t.Error("the connection is locked while it says goodbye")
			return
		}
		c.mu.Unlock()
	}}, 0)
	c.state, c.writing = stateClosing, true
	c.write()
	if !called {
		t.Error("the sending side was not ended")
	}
}

// pipes is a listener for connections whose writes wait for a reader.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	nc, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return nc, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// Who never takes the answer to the handshake holds no place for ever.
func TestHandshakeNobodyReads(t *testing.T) {
	admitted := make(chan bool, 2)
	var released atomic.Int64
	r := start(t, Options{WriteTimeout: 50 * time.Millisecond, Admit: func(*http.Request) (func(), error) {
		admitted <- true
		return func() { released.Add(1) }, nil
	}})
	listener := make(pipes, 1)
	server := &http.Server{Handler: r.srv}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(listener) })
	client, nc := net.Pipe()
	listener <- nc
	fmt.Fprintf(client, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	<-admitted
	r.await("the handshake to be given up", func() bool { return r.srv.Len() == 0 && released.Load() == 1 })
	client.Close()
	close(listener)
	server.Close()
	serving.Wait()
}
