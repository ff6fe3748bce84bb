package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed says that the connection is closing or closed.
	ErrClosed = errors.New("engine: connection closed")
	// ErrSlow says that the outbox was full: the connection has been closed.
	ErrSlow = errors.New("engine: client too slow")
)

type connState uint8

const (
	stateOpen    connState = iota
	stateClosing           // refuses new messages, still writes what waits
	stateClosed
)

// Conn is one Engine.IO session, over whichever transport it has at the moment.
// All its methods may be called from any goroutine.
type Conn struct {
	// What every event needs stands first, in one line of memory: among thousands
	// of connections each line is a miss of the cache.
	srv *Server
	mu  sync.Mutex
	outbox
	probed    bool // the probe was answered
	posting   bool
	joined    atomic.Bool // a namespace has been joined
	ws, probe *wire
	poll      chan []byte // the pending GET, if any: takes one payload
	reason    string
	goodbye   *Msg // answers the last poll of a closing session

	id      string
	address string
	origin  origin // the request of the handshake
	release func()
	done    chan struct{}
	link    *link // the Socket.IO library's view, nil before the first packet; written by the deliverer, under mu

	// Times on the server's clock, 0 if not set.
	nextPing, pongBy atomic.Int64
	connectBy        atomic.Int64 // a namespace must be joined, or the goodbye be over
	attachBy         atomic.Int64 // the attachments of a packet must have come

	recv struct {
		sync.Mutex
		partial *Packet // waits for attachments
		bytes   int     // of them
	}
	in inbox
}

// inbox holds the packets that wait for the application. It is bounded: the
// reader of the connection waits when it is full.
type inbox struct {
	sync.Mutex
	room    sync.Cond
	packets []Packet
	bytes   int
	running bool // the deliverer is at work
	ended   bool // no packet is taken any more
	reason  string
	told    bool // the application knows the end
}

// ID is the Engine.IO session id: whoever knows it may speak for the client.
func (c *Conn) ID() string { return c.id }

// Address is the client's address, as Options.Address told it.
func (c *Conn) Address() string { return c.address }

// Done is closed when the connection takes no more messages.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Kick writes what waits, then closes; listeners of "disconnect" see reason. The
// client sees its transport close, and by default connects again.
func (c *Conn) Kick(reason string) { c.shut(reason) }

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != stateOpen
}

// join notes that a namespace has been joined: the client is somebody now.
func (c *Conn) join() {
	c.joined.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateOpen {
		c.connectBy.Store(0)
	}
}

// maxRefusals is how many bytes may wait for a client that is refused a namespace.
const maxRefusals = 1 << 20

// refused closes a client that is refused one namespace after the other and doesn't
// read it: refusals are what a stranger can ask for any number of, and an
// application may allow far more to wait than is good for that.
func (c *Conn) refused() {
	if c.Buffered() > maxRefusals {
		c.abort(ReasonSlow)
	}
}

// ---- inbound ----

// receive takes one message: an Engine.IO packet without its type. The memory is
// only lent.
func (c *Conn) receive(data []byte, binary bool) error {
	c.recv.Lock()
	defer c.recv.Unlock()
	if binary {
		return c.receiveAttachment(data)
	}
	if c.recv.partial != nil {
		return errors.New("text instead of an attachment")
	}
	p, err := ParsePacket(bytes.Clone(data))
	if err != nil {
		return err
	}
	if err := c.srv.opts.Check(p); err != nil {
		return err
	}
	if p.Attachments > 0 {
		c.recv.partial, c.recv.bytes = &p, len(data)
		c.attachBy.Store(c.srv.after(c.srv.opts.BodyTimeout))
		return nil
	}
	c.enqueue(p)
	return nil
}

func (c *Conn) receiveAttachment(data []byte) error {
	p := c.recv.partial
	if p == nil {
		return errors.New("attachment without a packet")
	}
	c.recv.bytes += len(data)
	if c.recv.bytes > c.srv.opts.MaxPayload {
		return errTooLarge
	}
	p.binaries = append(p.binaries, bytes.Clone(data))
	if len(p.binaries) == p.Attachments {
		c.recv.partial = nil
		c.attachBy.Store(0)
		c.enqueue(*p)
	}
	return nil
}

// enqueue hands a packet to the deliverer, and waits for room if there is none.
func (c *Conn) enqueue(p Packet) {
	in, size := &c.in, p.size()
	in.Lock()
	defer in.Unlock()
	for !in.ended && len(in.packets) > 0 &&
		(len(in.packets) >= c.srv.opts.Limits.Queue || in.bytes+size > 2*c.limit()) {
		in.room.Wait()
	}
	if in.ended {
		return
	}
	in.packets = append(in.packets, p)
	in.bytes += size
	c.deliver()
}

// deliver makes sure the deliverer runs; c.in is locked.
func (c *Conn) deliver() {
	if !c.in.running {
		c.in.running = true
		go c.deliverer()
	}
}

// deliverer hands packets to the application, one after another, and the end
// after the last. It lives only as long as there is something to deliver.
func (c *Conn) deliverer() {
	in := &c.in
	for {
		in.Lock()
		if len(in.packets) == 0 {
			in.running = false
			in.packets = nil
			last := in.ended && !in.told
			in.told = in.told || last
			reason := in.reason
			in.Unlock()
			if last {
				c.guard(func() { c.srv.app.closed(c, reason) })
				c.srv.alive.Done()
			}
			return
		}
		p := in.packets[0]
		in.packets[0] = Packet{}
		in.packets = in.packets[1:]
		in.bytes -= p.size()
		in.room.Broadcast()
		in.Unlock()
		c.guard(func() { c.srv.app.packet(c, &p) })
	}
}

// guard contains a panic of the application's listeners to its connection.
func (c *Conn) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			c.srv.opts.Log.Error("socket listener panicked", "address", c.address, "panic", r, "stack", string(debug.Stack()))
			c.abort(ReasonHandler)
		}
	}()
	f()
}

// end makes reason the last thing the application hears of this connection.
func (c *Conn) end(reason string) {
	close(c.done)
	c.in.Lock()
	defer c.in.Unlock()
	c.in.ended, c.in.reason = true, reason
	c.in.room.Broadcast()
	c.deliver()
}

// onPacket takes one Engine.IO packet; of binary ones only the data.
func (c *Conn) onPacket(p []byte, binary, polling bool) error {
	if binary {
		return c.receive(p, true)
	}
	if len(p) == 0 {
		return errors.New("empty packet")
	}
	switch {
	case p[0] == '4':
		return c.receive(p[1:], false)
	case p[0] == '3': // pong: counts only if a ping is out
		if c.pongBy.Swap(0) != 0 {
			c.nextPing.Store(c.srv.after(c.srv.opts.PingInterval))
		}
		return nil
	case p[0] == '1':
		c.clientClosed(polling)
		return nil
	case p[0] == '6':
		return nil
	case p[0] == 'b' && polling:
		data, err := decodeBase64(p[1:])
		if err != nil {
			return err
		}
		return c.receive(data, true)
	}
	return errors.New("unknown packet type")
}

// clientClosed ends the session after the client's close packet. Over polling a
// GET may be on its way: it is still answered.
func (c *Conn) clientClosed(polling bool) {
	c.mu.Lock()
	if polling && c.ws == nil && c.poll == nil && c.state == stateOpen {
		c.state, c.reason = stateClosing, ReasonTransportClose
		c.clearOut()
		c.goodbye = msgNoop
		c.connectBy.Store(c.srv.after(min(time.Second, c.srv.opts.LingerTimeout)))
		c.mu.Unlock()
		c.end(ReasonTransportClose)
		return
	}
	c.mu.Unlock()
	c.abort(ReasonTransportClose)
}

// ---- closing ----

// shut closes in order: refuses new messages, writes what waits, says goodbye.
func (c *Conn) shut(reason string) { c.shutWith(reason, 1000) }

// shutWith is shut with a status code of RFC 6455, section 7.4.1.
func (c *Conn) shutWith(reason string, status uint16) {
	c.mu.Lock()
	if c.state != stateOpen {
		c.mu.Unlock()
		return
	}
	c.state, c.reason = stateClosing, reason
	c.connectBy.Store(c.srv.after(c.srv.opts.LingerTimeout))
	write, answered := false, false
	if c.ws != nil {
		c.out = append(c.out, controlMsg(opClose, binary.BigEndian.AppendUint16(nil, status)))
		write = !c.writing
		c.writing = true
	} else {
		// A payload of its own, after what waits: the npm client handles a close
		// packet before the other packets beside it.
		c.goodbye = msgClose
		answered = c.poll != nil
		if answered {
			c.poll <- c.goodbye.appendPolling(nil)
			c.poll = nil
		}
	}
	c.mu.Unlock()
	c.end(reason)
	if write {
		c.write()
	}
	if answered {
		c.abort(reason)
	}
}

// abort closes at once and forgets what waits.
func (c *Conn) abort(reason string) {
	c.mu.Lock()
	if c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	wasOpen := c.state == stateOpen
	c.state = stateClosed
	if wasOpen {
		c.reason = reason
	}
	ws, probe, poll := c.ws, c.probe, c.poll
	c.poll = nil
	c.fd = 0
	c.clearOut()
	c.mu.Unlock()
	if poll != nil {
		if reason == ReasonTransportClose {
			poll <- []byte("6")
		} else {
			poll <- []byte("1")
		}
	}
	for _, w := range []*wire{ws, probe} {
		switch {
		case w == nil:
		case reason == ReasonSlow || reason == ReasonPing:
			w.drop()
		default:
			w.close()
		}
	}
	c.srv.unregister(c)
	if wasOpen {
		c.end(reason)
	}
	if c.release != nil {
		c.release()
	}
	c.srv.alive.Done()
}
