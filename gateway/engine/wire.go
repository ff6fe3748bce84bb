package engine

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// wire is the network connection under one WebSocket. One goroutine reads; one
// at a time writes (Conn.writing says which).
type wire struct {
	nc  net.Conn
	raw syscall.RawConn // to wait for what the client sends; nil if nc has no descriptor of its own (TLS)

	buf []byte // read buffer without raw

	readBuf  *[]byte
	readN    int
	readErr  error
	readFunc func(fd uintptr) bool

	// fd is nc's descriptor, to write without asking the runtime; 0 if it has none.
	// It is another's once nc is closed: sending is held while it is used.
	fd      int
	sending sync.Mutex
	closed  bool
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
	w := &wire{nc: nc, raw: rawOf(nc)}
	if w.raw != nil {
		w.raw.Control(func(fd uintptr) { w.fd = int(fd) })
	}
	return w
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

// tryWrite writes what the kernel takes at once and returns how much that was: 0
// if there is no descriptor.
func (w *wire) tryWrite(b []byte) (int, error) {
	w.sending.Lock()
	defer w.sending.Unlock()
	switch {
	case w.closed:
		return 0, net.ErrClosed
	case w.fd == 0:
		return 0, nil
	}
	return send(w.fd, b)
}

// writeAll writes b, however long that takes, unless the client takes nothing for
// patience: then the error is os.ErrDeadlineExceeded. wrote is called after each
// piece.
func (w *wire) writeAll(b []byte, patience time.Duration, wrote func(n int)) error {
	defer w.nc.SetWriteDeadline(time.Time{})
	// The kernel says that there is room when a good part of its buffer is free,
	// which a slow client may take minutes for. It takes bytes before: ask.
	look := min(patience/4, 2*time.Second)
	if w.raw == nil { // TLS doesn't go on after a deadline, not even after a part of b
		look = patience
	}
	for last := time.Now(); len(b) > 0; {
		w.nc.SetWriteDeadline(time.Now().Add(look))
		n, err := w.nc.Write(b[:min(len(b), 32<<10)])
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = w.tryWrite(b)
			if n == 0 && err == nil && (w.raw == nil || time.Since(last) >= patience) {
				return os.ErrDeadlineExceeded
			}
		}
		if n > 0 {
			last = time.Now()
			b = b[n:]
			wrote(n)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

// answer writes the response to the handshake, before there is anybody else who
// could write. It fits the kernel's buffer, unless the client takes nothing of what
// it asked for before on the same connection.
func (w *wire) answer(b []byte, patience time.Duration) error {
	w.nc.SetWriteDeadline(time.Now().Add(patience))
	defer w.nc.SetWriteDeadline(time.Time{})
	_, err := w.nc.Write(b)
	return err
}

// shut ends the sending side and lets the reader wait for the client's end.
func (w *wire) shut(linger time.Duration) {
	if half, ok := w.nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	w.nc.SetReadDeadline(time.Now().Add(linger))
}

func (w *wire) close() {
	w.sending.Lock()
	w.closed = true
	w.sending.Unlock()
	w.nc.Close()
}

// drop closes at once, and makes the kernel forget what the client didn't read.
func (w *wire) drop() {
	if tcp, ok := w.nc.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	w.close()
}

// deadline bounds all reading from now on; 0 lifts it.
func (w *wire) deadline(d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	w.nc.SetReadDeadline(at)
}
