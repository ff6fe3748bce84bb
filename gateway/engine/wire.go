package engine

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// wire is the network connection under one WebSocket. One goroutine reads; one
// at a time writes (Conn.writing says which).
type wire struct {
	nc  net.Conn
	raw syscall.RawConn // nil if nc has no descriptor of its own (TLS)

	buf []byte // read buffer without raw

	readBuf           *[]byte
	readN, writeN     int
	readErr, writeErr error
	readFunc          func(fd uintptr) bool
	writeBuf          []byte
	writeFunc         func(fd uintptr)
}

const readSize = 8 << 10

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

func newWire(nc net.Conn, sendBuffer int) *wire {
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetNoDelay(true)
		if sendBuffer > 0 {
			tcp.SetWriteBuffer(sendBuffer)
		}
	}
	nc.SetDeadline(time.Time{})
	return &wire{nc: nc, raw: rawOf(nc)}
}

// read returns what has arrived; done gives the memory back.
func (w *wire) read() (data []byte, done func(), err error) {
	if w.raw != nil {
		buf, n, err := w.rawRead()
		if err != nil {
			return nil, nil, err
		}
		return (*buf)[:n], func() { readBuffers.Put(buf) }, nil
	}
	if w.buf == nil {
		w.buf = make([]byte, readSize/2)
	}
	n, err := w.nc.Read(w.buf)
	return w.buf[:n], func() {}, err
}

// writeAll writes b in pieces, each within timeout: a slow reader is told from a
// stuck one. wrote is called after each piece.
func (w *wire) writeAll(b []byte, timeout time.Duration, wrote func(n int)) error {
	defer w.nc.SetWriteDeadline(time.Time{}) // tryWrite minds it too
	for len(b) > 0 {
		w.nc.SetWriteDeadline(time.Now().Add(timeout))
		n, err := w.nc.Write(b[:min(len(b), 32<<10)])
		wrote(n)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// shut ends the sending side and lets the reader wait for the client's end.
func (w *wire) shut(linger time.Duration) {
	if half, ok := w.nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	w.nc.SetReadDeadline(time.Now().Add(linger))
}

// drop closes at once, and makes the kernel forget what the client didn't read.
func (w *wire) drop() {
	if tcp, ok := w.nc.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	w.nc.Close()
}

// deadline bounds all reading from now on; 0 lifts it.
func (w *wire) deadline(d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	w.nc.SetReadDeadline(at)
}
