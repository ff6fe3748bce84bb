//go:build unix

package engine

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zishang520/socket.io/v2/socket"
	"golang.org/x/sys/unix"
)

// A client that takes bytes, however slowly, is not closed: one large event may
// take it much longer than WriteTimeout.
func TestSlowClientThatTakesBytes(t *testing.T) {
	const size, timeout = 96 << 10, time.Second
	r := start(t, Options{WriteTimeout: timeout, SocketBuffer: 16 << 10})
	conns := make(chan *Conn, 1)
	r.io.On("connection", func(args ...any) { conns <- ConnOf(args[0].(*socket.Socket)) })
	reasons := r.reasons()
	// From the beginning, or the first window takes too much.
	r.dialer.Control = func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10); err != nil {
				t.Error(err)
			}
		})
	}
	nc := r.rawDial("")
	nc.Write(clientFrame(0x81, []byte("40")))
	c := <-conns
	c.Send(NewEvent("/", "large", []byte(`"`+strings.Repeat("x", size)+`"`)))
	c.Send(NewEvent("/", "last"))
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var got []byte
	for b := make([]byte, 1<<10); c.Buffered() > 0; <-tick.C {
		n, err := nc.Read(b)
		if err != nil {
			t.Fatalf("closed after %v with %d bytes read: %v", time.Since(began), len(got), err)
		}
		got = append(got, b[:n]...)
	}
	if took := time.Since(began); took < 2*timeout {
		t.Errorf("the kernel took all within %v: nothing was shown", took)
	}
	for b := make([]byte, 4<<10); !bytes.HasSuffix(got, []byte(`42["last"]`)); {
		n, err := nc.Read(b)
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got = append(got, b[:n]...)
	}
	select {
	case reason := <-reasons:
		t.Errorf("closed: %s", reason)
	default:
	}
}
