package engine

import (
	"encoding/json"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/zishang520/engine.io/v2/events"
	"github.com/zishang520/engine.io/v2/types"
	"github.com/zishang520/socket.io-go-parser/v2/parser"
	"github.com/zishang520/socket.io/v2/socket"
)

// Bind puts io on this server, in place of io.Bind. The library keeps namespaces,
// middleware, rooms, outgoing packets and the bookkeeping of sockets; events and
// acknowledgements are delivered here, since the library would do that in a
// goroutine each. For one connection:
//
//   - the listeners of "connection" have returned before the first event comes,
//   - packets are delivered one after another, in the order they were sent, so a
//     listener that takes its time holds up its own client and nobody else,
//   - a listener that panics closes the connection with ReasonHandler,
//   - while a namespace's middleware ponders, the packets behind it wait.
//
// Not run is middleware of single sockets (socket.Use); namespaces' (io.Use) is,
// and so is socket.OnAny. Listeners of "connect", which is "connection" by another
// name, and callbacks of socket.Timeout are called by the library in goroutines of
// its own: a panic there ends the process. Bind is called once, before Run.
func (s *Server) Bind(io *socket.Server) {
	b := &binding{srv: s, io: io}
	b.engine = newEngineView(s)
	io.Bind(b.engine)
	s.app = b
}

// ConnOf returns the connection under a socket, nil if it isn't one of ours.
func ConnOf(s *socket.Socket) *Conn {
	if l, ok := s.Conn().(*link); ok {
		return l.conn
	}
	return nil
}

// binding delivers packets to a socket.Server; it is the Server's application.
type binding struct {
	srv    *Server
	io     *socket.Server
	engine *engineView
}

// joined is a namespace of one connection; namespaces' lock guards it.
type joined struct {
	namespace string
	socket    *socket.Socket // nil while its middleware decides
	gone      bool           // disconnected; late packets are ignored
	leaving   chan struct{}  // the client has been told that it is disconnected; closed when the library has done it
}

// namespaces is what a link knows about its sockets.
type namespaces struct {
	sync.Mutex
	joined  []*joined
	pending *pending // the packet in the library's hands, nil if none
	closed  bool     // the library has heard of the end
}

// pending is a packet that the library deals with in goroutines of its own.
type pending struct {
	done     chan struct{} // closed when the next packet may be delivered
	answered chan struct{} // closed when a CONNECT has succeeded: listeners will be called
	asked    bool          // the library may have found the connection open
}

// find returns a namespace and what is known about it now; nil if it isn't joined.
func (n *namespaces) find(name string) (j *joined, now joined) {
	n.Lock()
	defer n.Unlock()
	for _, j := range n.joined {
		if j.namespace == name {
			return j, *j
		}
	}
	return nil, joined{}
}

// leave notes that the client hears of a disconnection before the library has done
// with it.
func (n *namespaces) leave(name string) {
	n.Lock()
	defer n.Unlock()
	for _, j := range n.joined {
		if j.namespace == name && !j.gone && j.leaving == nil {
			j.leaving = make(chan struct{})
		}
	}
}

func (n *namespaces) remove(name string) {
	for i, j := range n.joined {
		if j.namespace == name {
			n.joined = append(n.joined[:i:i], n.joined[i+1:]...)
			return
		}
	}
}

// settle ends the waiting for the library, if there is any.
func (n *namespaces) settle() {
	if n.pending != nil {
		close(n.pending.done)
		n.pending = nil
	}
}

// packet delivers one packet. The library learns of a connection with its first
// packet: one that never sends any costs it nothing.
func (b *binding) packet(c *Conn, p *Packet) {
	if c.link == nil {
		if p.Type != TypeConnect { // nothing else can be the first
			c.abort(ReasonParse)
			return
		}
		l := newLink(b, c)
		c.mu.Lock()
		c.link = l
		c.mu.Unlock()
		b.engine.Emit("connection", c.link)
	}
	l := c.link
	j, now := l.sockets.find(p.Namespace)
	switch {
	case p.Type == TypeConnect:
		b.connect(l, p)
	case j == nil:
		c.abort(ReasonParse)
	case now.gone: // it was disconnected while this was on its way
	case now.socket == nil: // the connection closed before its middleware decided
	case p.Type == TypeDisconnect:
		l.handOver([]byte("1"+nameWithComma(p.Namespace)), j, nil)
	case p.Type == TypeAck || p.Type == TypeBinaryAck:
		b.ack(c, now.socket, p)
	default:
		b.event(c, now.socket, p)
	}
}

func nameWithComma(namespace string) string {
	return string(appendNamespace(nil, namespace))
}

// connect lets the library decide about one namespace and waits for its answer.
func (b *binding) connect(l *link, p *Packet) {
	c := l.conn
	if _, now := l.sockets.find(p.Namespace); now.leaving != nil {
		select {
		case <-now.leaving:
		case <-c.done:
		}
	}
	if j, now := l.sockets.find(p.Namespace); j != nil && !now.gone { // clients that connect() twice say it twice; there is one socket
		return
	}
	l.sockets.Lock()
	l.sockets.remove(p.Namespace)
	full := len(l.sockets.joined) >= b.srv.opts.Limits.Namespaces
	if !full {
		l.sockets.joined = append(l.sockets.joined, &joined{namespace: p.Namespace})
	}
	l.sockets.Unlock()
	if full {
		c.Send(NewPacket([]byte("4" + nameWithComma(p.Namespace) + `{"message":"too many namespaces"}`)))
		c.refused()
		return
	}
	if c.isClosed() {
		return
	}
	raw := append([]byte("0"+nameWithComma(p.Namespace)), p.Data...)
	if p.Data == nil {
		raw = append(raw, "{}"...) // middleware sees an empty auth, as Node's does, not nil
	}
	if !l.handOver(raw, nil, c.done) {
		return
	}
	l.sockets.Lock()
	defer l.sockets.Unlock()
	for _, j := range l.sockets.joined {
		if j.namespace == p.Namespace && j.socket == nil { // refused
			l.sockets.remove(p.Namespace)
			return
		}
	}
}

// handOver gives a packet to the library and waits until it is done with it;
// false if stop came first, or if j, when given, is gone by now.
func (l *link) handOver(raw []byte, j *joined, stop <-chan struct{}) bool {
	wait := &pending{done: make(chan struct{}), answered: make(chan struct{})}
	l.sockets.Lock()
	if j != nil && j.gone {
		l.sockets.Unlock()
		return false
	}
	l.sockets.pending = wait
	l.sockets.Unlock()
	l.Emit("data", types.NewStringBuffer(raw))
	select {
	case <-wait.done:
		return true
	case <-stop:
		return false
	}
}

// event calls the listeners of an event.
func (b *binding) event(c *Conn, s *socket.Socket, p *Packet) {
	decode := p.arguments
	if b.srv.opts.RawArguments && p.Type == TypeEvent {
		decode = p.rawArguments
	}
	args, err := decode()
	if err != nil {
		c.srv.opts.Log.Debug("bad event", "address", c.address, "error", err)
		c.abort(ReasonParse)
		return
	}
	if p.ID >= 0 {
		args = append(args, b.acknowledge(c, s.Nsp().Name(), uint64(p.ID)))
	}
	for _, listener := range s.ListenersAny() {
		listener(args...)
	}
	if s.Connected() {
		s.EmitUntyped(p.Event, args[1:]...)
	}
}

// acknowledge makes the function with which a listener answers an event, once.
func (b *binding) acknowledge(c *Conn, namespace string, id uint64) socket.Ack {
	var once sync.Once
	return func(args []any, _ error) {
		once.Do(func() {
			if args == nil {
				args = []any{}
			}
			encoded := b.io.Encoder().Encode(&parser.Packet{Type: parser.ACK, Nsp: namespace, Id: &id, Data: args})
			ms := make([]*Msg, len(encoded))
			for i, e := range encoded {
				if ms[i] = newAttachment(e.Bytes()); i == 0 {
					ms[i] = NewPacket(e.Bytes())
				}
			}
			c.Send(ms...)
		})
	}
}

// ack calls the function that waits for a client's acknowledgement, if any.
func (b *binding) ack(c *Conn, s *socket.Socket, p *Packet) {
	args, err := p.arguments()
	if err != nil {
		c.abort(ReasonParse)
		return
	}
	if f, ok := s.Acks().LoadAndDelete(uint64(p.ID)); ok {
		f(args, nil)
	}
}

// rawArguments takes the payload apart, and decodes only the event's name.
func (p *Packet) rawArguments() ([]any, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(p.Data, &raw); err != nil {
		return nil, err
	}
	args := make([]any, len(raw), len(raw)+1) // and a function to answer with
	args[0] = p.Event
	for i, arg := range raw[1:] {
		args[1+i] = arg
	}
	return args, nil
}

// arguments decodes the payload and puts the attachments in their places.
func (p *Packet) arguments() ([]any, error) {
	var args []any
	if err := json.Unmarshal(p.Data, &args); err != nil {
		return nil, err
	}
	if p.Type != TypeBinaryEvent && p.Type != TypeBinaryAck {
		return args, nil
	}
	if _, err := p.fill(args); err != nil {
		return nil, err
	}
	return args, nil
}

// fill replaces the placeholders in v, whose depth Limits has bounded.
func (p *Packet) fill(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case []any:
		for i := range v {
			if v[i], err = p.fill(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if v["_placeholder"] == true {
			n, ok := v["num"].(float64)
			if !ok || n < 0 || n >= float64(len(p.binaries)) || n != float64(int(n)) {
				return nil, errors.New("placeholder without an attachment")
			}
			return types.NewBytesBuffer(p.binaries[int(n)]), nil
		}
		for key := range v {
			if v[key], err = p.fill(v[key]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// closed tells the library the end of a connection.
func (b *binding) closed(c *Conn, reason string) {
	l := c.link
	if l == nil {
		return
	}
	l.awaitConnect()
	l.sockets.Lock()
	l.sockets.closed = true
	l.sockets.Unlock()
	l.Emit("close", reason)
}

// awaitConnect lets a CONNECT finish that the library has let pass. Otherwise
// the socket's "disconnect" could come before its "connection", when nobody
// listens to it yet. Between finding the connection open and answering, the
// library does next to nothing: a second is plenty.
func (l *link) awaitConnect() {
	l.sockets.Lock()
	p := l.sockets.pending
	asked := p != nil && p.asked
	l.sockets.Unlock()
	if !asked {
		return
	}
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case <-p.done:
	case <-p.answered:
		<-p.done
	case <-grace.C:
	}
}

// answering is called by a link before it writes a packet of the library.
func (b *binding) answering(l *link, packet []byte) {
	if len(packet) == 0 || packet[0] != TypeConnect {
		return
	}
	if p, err := ParsePacket(packet); err == nil {
		b.watch(b.io.Of(p.Namespace, nil)) // exists: a socket has just joined it
	}
	l.conn.join()
	l.sockets.Lock()
	defer l.sockets.Unlock()
	if p := l.sockets.pending; p != nil {
		close(p.answered)
	}
}

// watch makes sure that onConnect is a listener of the namespace: between the
// library's answer to CONNECT and its first listener this is the only place where
// the namespace's name is known.
func (b *binding) watch(n socket.Namespace) {
	if connect := events.Listener(b.onConnect); !has(n.Listeners("connect"), connect) {
		n.On("connect", connect)
	}
}

// onConnect calls the listeners of "connection", in the library's place: it would
// call them next, in this goroutine of its own, where a panic ends the process.
func (b *binding) onConnect(args ...any) {
	s, l := socketOf(args)
	if l == nil {
		return
	}
	l.sockets.Lock()
	for _, j := range l.sockets.joined {
		if j.namespace == s.Nsp().Name() && !j.gone {
			j.socket = s
		}
	}
	l.sockets.Unlock()
	s.On("disconnect", func(...any) { l.left(s) })
	for _, listener := range s.Nsp().Listeners("connection") {
		l.conn.guard(func() { listener(args...) })
	}
	l.conn.guard(func() { b.connected(s, l) })
	runtime.Goexit() // what is left is to call them again
}

// connected lets the next packet be delivered. A client that went away during its
// authentication has left the library a socket that nobody would ever disconnect.
func (b *binding) connected(s *socket.Socket, l *link) {
	l.forgetRequest()
	l.sockets.Lock()
	closed := l.sockets.closed
	l.sockets.settle()
	l.sockets.Unlock()
	if closed {
		s.Disconnect(false)
	}
}

// left notes that a socket has been disconnected, by whichever side.
func (l *link) left(s *socket.Socket) {
	l.sockets.Lock()
	defer l.sockets.Unlock()
	for _, j := range l.sockets.joined {
		if j.socket == s && !j.gone {
			j.gone = true
			if j.leaving != nil {
				close(j.leaving)
			}
			l.sockets.settle()
		}
	}
}

func socketOf(args []any) (*socket.Socket, *link) {
	if len(args) == 1 {
		if s, ok := args[0].(*socket.Socket); ok {
			if l, ok := s.Conn().(*link); ok {
				return s, l
			}
		}
	}
	return nil, nil
}

func has(all []events.Listener, l events.Listener) bool {
	for _, a := range all {
		if same(a, l) {
			return true
		}
	}
	return false
}
