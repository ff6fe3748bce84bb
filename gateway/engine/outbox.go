package engine

import (
	"errors"
	"net"
	"os"
	"sync"
)

// outbox is what waits towards the client; Conn.mu guards it.
type outbox struct {
	out       []*Msg
	outBytes  int
	writing   bool  // somebody is writing, and takes what is added
	delayed   bool  // the server's flusher will write
	lastWrite int64 // on the server's clock
}

// Buffered is the number of bytes waiting towards the client, those handed to
// the kernel not counted.
func (c *Conn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outBytes
}

// Send queues messages, in order, and writes them unless the connection is busy.
// It never blocks. A client that has more than Options.MaxBuffered waiting is
// closed, and ErrSlow returned; one Send alone may exceed it.
func (c *Conn) Send(ms ...*Msg) error {
	size := 0
	for _, m := range ms {
		size += len(m.frame)
	}
	c.mu.Lock()
	if c.state != stateOpen {
		c.mu.Unlock()
		return ErrClosed
	}
	if c.outBytes > 0 && c.outBytes+size > c.srv.opts.MaxBuffered {
		c.mu.Unlock()
		c.abort(ReasonSlow)
		return ErrSlow
	}
	c.outBytes += size
	now := c.srv.now()
	if c.ws != nil && !c.writing && !c.delayed && len(c.out) == 0 && len(ms) == 1 && !c.srv.inWindow(c.lastWrite, now) {
		c.writing = true // what most events need, and no more
		c.lastWrite = now
		ws := c.ws
		c.mu.Unlock()
		c.writeFrom(now, ms[0].frame, nil, ws)
		return nil
	}
	c.out = append(c.out, ms...)
	switch {
	case c.ws == nil:
		c.answerPoll()
	case c.writing || c.delayed:
	case c.srv.inWindow(c.lastWrite, now):
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

// sendControl queues a control frame if ws is the session's WebSocket (a probe has
// nothing to say), and doesn't wait for a batching window.
func (c *Conn) sendControl(ws *wire, m *Msg) {
	c.mu.Lock()
	if c.ws != ws || c.state != stateOpen || c.outBytes > c.srv.opts.MaxBuffered {
		c.mu.Unlock()
		return
	}
	c.out = append(c.out, m)
	c.outBytes += len(m.frame)
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
	b := make([]byte, 0, c.outBytes+len(c.out))
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
	c.out, c.outBytes = nil, 0
}

var joinBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// write empties the outbox into the WebSocket, as far as that goes without
// blocking; a goroutine takes over when the kernel's buffer is full. The caller
// has set c.writing.
func (c *Conn) write() {
	if batch, ws, now, ok := c.nextBatch(0); ok {
		b, pooled := join(batch)
		c.writeFrom(now, b, pooled, ws)
	}
}

// writeFrom is write, beginning at now with b, which is in no outbox any more.
func (c *Conn) writeFrom(now int64, b []byte, pooled *[]byte, ws *wire) {
	for {
		n, err := ws.tryWrite(b)
		c.srv.pace.wrote(now, c.srv.now(), c.srv.opts.MaxDelay)
		if err != nil {
			c.wrote(n)
			c.writeFailed(err)
			return
		}
		if n < len(b) {
			c.mu.Lock()
			c.outBytes = max(c.outBytes-n, 0)
			if c.state == stateClosed {
				c.mu.Unlock()
				return
			}
			c.srv.alive.Add(1) // under mu, so that it comes before the connection's own Done
			c.mu.Unlock()
			go func() {
				defer c.srv.alive.Done()
				c.writeBlocking(ws, b[n:], pooled)
			}()
			return
		}
		giveBack(pooled)
		var batch []*Msg
		var ok bool
		if batch, ws, now, ok = c.nextBatch(n); !ok {
			return
		}
		b, pooled = join(batch)
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
	defer c.mu.Unlock()
	c.outBytes = max(c.outBytes-written, 0)
	if len(c.out) == 0 || c.state == stateClosed {
		c.writing = false
		if c.state == stateClosing {
			c.ws.shut(c.srv.opts.LingerTimeout)
		}
		return nil, nil, 0, false
	}
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
	c.outBytes = max(c.outBytes-n, 0)
	c.mu.Unlock()
}

func (c *Conn) writeFailed(err error) {
	c.mu.Lock()
	c.writing = false
	c.mu.Unlock()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.abort(ReasonSlow)
	default:
		if !errors.Is(err, net.ErrClosed) {
			c.srv.opts.Log.Debug("socket write ended", "address", c.address, "err", err)
		}
		c.abort(ReasonTransportClose)
	}
}
