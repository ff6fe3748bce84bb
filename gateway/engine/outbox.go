package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// outbox is what waits towards the client; Conn.mu guards it, except that anybody
// may read outBytes.
type outbox struct {
	fd        int32 // to write to at once, 0 if there is none; while mu is held it isn't closed
	state     connState
	writing   bool  // somebody is writing, and takes what is added
	delayed   bool  // the server's flusher will write
	lastWrite int64 // on the server's clock
	outBytes  atomic.Int64
	out       []*Msg
}

// Buffered is the number of bytes waiting towards the client, those handed to
// the kernel not counted.
func (c *Conn) Buffered() int { return int(c.outBytes.Load()) }

// taken subtracts bytes from what waits; c.mu is held. What was cleared meanwhile
// counts no more.
func (o *outbox) taken(n int) { o.outBytes.Store(max(o.outBytes.Load()-int64(n), 0)) }

// Send queues messages, in order, and writes them unless the connection is busy.
// It never blocks. A client that has more than Options.MaxBuffered waiting is
// closed, and ErrSlow returned; one Send alone may exceed it.
func (c *Conn) Send(ms ...*Msg) error {
	if len(ms) == 1 {
		if done, err := c.sendNow(ms[0].frame, ms[0]); done {
			return err
		}
	}
	size := 0
	for _, m := range ms {
		size += len(m.frame)
	}
	c.mu.Lock()
	if c.state != stateOpen {
		c.mu.Unlock()
		return ErrClosed
	}
	if waiting := c.Buffered(); waiting > 0 && waiting+size > c.srv.opts.MaxBuffered {
		c.mu.Unlock()
		c.abort(ReasonSlow)
		return ErrSlow
	}
	c.outBytes.Add(int64(size))
	c.out = append(c.out, ms...)
	switch {
	case c.ws == nil:
		c.answerPoll()
	case c.writing || c.delayed:
	case c.srv.inWindow(c.lastWrite, c.srv.now()):
		c.delayed = true
		c.mu.Unlock()
		c.srv.delay(c)
		return nil
	default:
		c.writing = true
		c.mu.Unlock()
		c.write()
		return nil
	}
	c.mu.Unlock()
	return nil
}

// shortEvent is how many bytes an event's argument may have to be written from
// the stack, without a message being made of it.
const shortEvent = 512

// Emit sends an event with one argument, encoded as NewEvent does. The memory of
// arg must not change any more: when it is sent to many connections, one after
// another, it is encoded once.
func (c *Conn) Emit(namespace, name string, arg json.RawMessage) error {
	if len(arg) <= shortEvent && len(namespace)+len(name) <= shortEvent/4 && plain(name) {
		var scratch [2 * shortEvent]byte
		frame, _ := appendEvent(scratch[:0], namespace, name, arg)
		if done, err := c.sendNow(frame, nil); done {
			return err
		}
	}
	return c.Send(c.srv.recent.event(namespace, name, arg))
}

// sendNow writes one message if nothing is in its way: what most events need, and
// no more. m is the message; without one, what the kernel doesn't take of the
// frame is copied.
func (c *Conn) sendNow(frame []byte, m *Msg) (done bool, err error) {
	c.mu.Lock()
	now := c.srv.now()
	if c.fd == 0 || c.state != stateOpen || c.writing || c.delayed || len(c.out) > 0 || c.srv.inWindow(c.lastWrite, now) {
		c.mu.Unlock()
		return false, nil
	}
	c.lastWrite = now
	timed := c.srv.pace.wrote(1)
	n, err := send(int(c.fd), frame)
	if timed {
		c.srv.pace.took(now, c.srv.now(), c.srv.opts.MaxDelay)
	}
	if n == len(frame) {
		c.mu.Unlock()
		return true, nil
	}
	if err != nil {
		c.mu.Unlock()
		c.writeFailed(err)
		return true, nil
	}
	var rest []byte
	if m != nil {
		rest = m.frame[n:]
	} else {
		rest = bytes.Clone(frame[n:])
	}
	c.outBytes.Add(int64(len(rest)))
	c.writing = true
	c.writeLater(c.ws, rest, nil)
	c.mu.Unlock()
	return true, nil
}

// writeLater has a goroutine write rest, and what comes to wait meanwhile; c.mu is
// held, and c.writing set.
func (c *Conn) writeLater(ws *wire, rest []byte, pooled *[]byte) {
	c.srv.alive.Add(1) // under mu, so that it comes before the connection's own Done
	go func() {
		defer c.srv.alive.Done()
		c.writeBlocking(ws, rest, pooled)
	}()
}

// sendControl queues a control frame if ws is the session's WebSocket (a probe has
// nothing to say), and doesn't wait for a batching window. A pong takes the place of
// one that waits still (RFC 6455 section 5.5.3), or a client that pings and doesn't
// read could have the server hold any number.
func (c *Conn) sendControl(ws *wire, m *Msg) {
	c.mu.Lock()
	if c.ws != ws || c.state != stateOpen || c.Buffered() > c.srv.opts.MaxBuffered {
		c.mu.Unlock()
		return
	}
	if last := len(c.out) - 1; last >= 0 && m.isPong() && c.out[last].isPong() {
		c.outBytes.Add(int64(len(m.frame) - len(c.out[last].frame)))
		c.out[last] = m
		c.mu.Unlock() // whoever writes, or will, takes it along
		return
	}
	c.out = append(c.out, m)
	c.outBytes.Add(int64(len(m.frame)))
	write := !c.writing
	c.writing = true
	c.mu.Unlock()
	if write {
		c.write()
	}
}

// flushDelayed ends a batching window.
func (c *Conn) flushDelayed() {
	c.mu.Lock()
	c.delayed = false
	if c.writing || c.ws == nil || len(c.out) == 0 {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.write()
}

// answerPoll gives a pending GET what waits; c.mu is held.
func (c *Conn) answerPoll() bool {
	if c.poll == nil || len(c.out) == 0 {
		return false
	}
	c.poll <- c.takePayload()
	c.poll = nil
	return true
}

// takePayload empties the outbox into a polling payload; c.mu is held.
func (c *Conn) takePayload() []byte {
	b := make([]byte, 0, c.Buffered()+len(c.out))
	for i, m := range c.out {
		if i > 0 {
			b = append(b, separator)
		}
		b = m.appendPolling(b)
	}
	c.clearOut()
	return b
}

func (c *Conn) clearOut() {
	c.out = nil
	c.outBytes.Store(0)
}

var joinBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// write empties the outbox into the WebSocket, as far as that goes without
// blocking; a goroutine takes over when the kernel's buffer is full. The caller
// has set c.writing.
func (c *Conn) write() {
	n := 0
	for {
		batch, ws, now, ok := c.nextBatch(n)
		if !ok {
			return
		}
		b, pooled := join(batch)
		var err error
		timed := c.srv.pace.wrote(len(batch))
		n, err = ws.tryWrite(b)
		if timed {
			c.srv.pace.took(now, c.srv.now(), c.srv.opts.MaxDelay)
		}
		if err != nil {
			c.wrote(n)
			c.writeFailed(err)
			return
		}
		if n < len(b) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.taken(n)
			if c.state != stateClosed {
				c.writeLater(ws, b[n:], pooled)
			}
			return
		}
		giveBack(pooled)
	}
}

// writeBlocking writes rest and then what waits, until the outbox is empty.
func (c *Conn) writeBlocking(ws *wire, rest []byte, pooled *[]byte) {
	for {
		if err := ws.writeAll(rest, c.srv.opts.WriteTimeout, c.wrote); err != nil {
			c.writeFailed(err)
			return
		}
		giveBack(pooled)
		batch, next, _, ok := c.nextBatch(0)
		if !ok {
			return
		}
		ws = next
		rest, pooled = join(batch)
	}
}

// nextBatch takes all that waits, when so many bytes have been written. With
// nothing left it ends the writing, and after the goodbye the sending side.
func (c *Conn) nextBatch(written int) (batch []*Msg, ws *wire, now int64, ok bool) {
	c.mu.Lock()
	c.taken(written)
	if len(c.out) == 0 || c.state == stateClosed {
		c.writing = false
		ws, last := c.ws, c.state == stateClosing
		c.mu.Unlock()
		if last { // over TLS that is one more write
			ws.shut(c.srv.opts.LingerTimeout)
		}
		return nil, nil, 0, false
	}
	defer c.mu.Unlock()
	batch = c.out
	c.out = nil
	c.lastWrite = c.srv.now()
	return batch, c.ws, c.lastWrite, true
}

// join makes one buffer of a batch. pooled is nil if b is a message's own memory.
func join(batch []*Msg) (b []byte, pooled *[]byte) {
	if len(batch) == 1 {
		return batch[0].frame, nil
	}
	pooled = joinBuffers.Get().(*[]byte)
	b = (*pooled)[:0]
	for _, m := range batch {
		b = append(b, m.frame...)
	}
	*pooled = b
	return b, pooled
}

func giveBack(pooled *[]byte) {
	if pooled != nil && cap(*pooled) <= 64<<10 {
		joinBuffers.Put(pooled)
	}
}

func (c *Conn) wrote(n int) {
	c.mu.Lock()
	c.taken(n)
	c.mu.Unlock()
}

// writeFailed ends a connection whose last frame may have been written in part: it
// stays marked as being written to, so that nobody writes after that.
func (c *Conn) writeFailed(err error) {
	c.mu.Lock()
	c.writing = true
	c.mu.Unlock()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.abort(ReasonSlow)
	default:
		if !errors.Is(err, net.ErrClosed) {
			c.srv.opts.Log.Debug("socket write ended", "address", c.address, "error", err)
		}
		c.abort(ReasonTransportClose)
	}
}
