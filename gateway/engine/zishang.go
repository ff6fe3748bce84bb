package engine

import (
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/zishang520/engine.io-go-parser/packet"
	"github.com/zishang520/engine.io/v2/config"
	zishang "github.com/zishang520/engine.io/v2/engine"
	"github.com/zishang520/engine.io/v2/transports"
	"github.com/zishang520/engine.io/v2/types"
)

// link is a Conn as the Socket.IO library sees it.
type link struct {
	emitter
	conn    *Conn
	binding *binding
	sockets namespaces

	contextMu sync.Mutex
	context   *types.HttpContext
}

var _ zishang.Socket = (*link)(nil)

func newLink(b *binding, c *Conn) *link {
	return &link{conn: c, binding: b}
}

func (l *link) Id() string                      { return l.conn.id }
func (l *link) Protocol() int                   { return 4 }
func (l *link) RemoteAddress() string           { return l.conn.address }
func (l *link) Upgrading() bool                 { return l.conn.transport().upgrading }
func (l *link) Upgraded() bool                  { return l.conn.transport().name == transports.WEBSOCKET }
func (l *link) Transport() transports.Transport { return newTransportView(l) }

// Request is the request of the handshake, which has ended: it has no body, no
// context, and nothing can be written to it. The library takes what it needs of
// it when a namespace is joined; afterwards it is made anew for whoever asks.
func (l *link) Request() *types.HttpContext {
	l.contextMu.Lock()
	defer l.contextMu.Unlock()
	if l.context == nil {
		l.context = types.NewHttpContext(noResponse{}, l.conn.origin.request())
		l.context.Flush() // ends its goroutine
	}
	return l.context
}

// forgetRequest frees the memory of the request, over a kilobyte.
func (l *link) forgetRequest() {
	l.contextMu.Lock()
	defer l.contextMu.Unlock()
	l.context = nil
}

func (l *link) ReadyState() string {
	l.sockets.Lock()
	defer l.sockets.Unlock()
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if p := l.sockets.pending; p != nil && l.conn.state == stateOpen {
		p.asked = true
	}
	return [...]string{stateOpen: "open", stateClosing: "closing", stateClosed: "closed"}[l.conn.state]
}

// Write sends an encoded Socket.IO packet, or an attachment. It never blocks.
func (l *link) Write(data io.Reader, _ *packet.Options, sent zishang.SendCallback) zishang.Socket {
	switch d := data.(type) {
	case *types.StringBuffer:
		l.writePacket(d.Bytes())
	case *strings.Reader:
		b, _ := io.ReadAll(d) // from memory
		l.writePacket(b)
	case *types.BytesBuffer:
		l.conn.Send(newAttachment(d.Bytes()))
	default:
		b, err := io.ReadAll(data)
		if err != nil {
			l.conn.abort(ReasonForced)
			return l
		}
		l.conn.Send(newAttachment(b))
	}
	if sent != nil {
		sent(l.Transport())
	}
	return l
}

func (l *link) writePacket(b []byte) {
	l.binding.answering(l, b)
	if len(b) > 0 && b[0] == TypeDisconnect {
		if p, err := ParsePacket(b); err == nil {
			l.sockets.leave(p.Namespace)
		}
	}
	l.conn.Send(NewPacket(b))
	if len(b) > 0 && b[0] == TypeConnectError {
		l.conn.refused()
		l.sockets.Lock()
		l.sockets.settle()
		l.sockets.Unlock()
	}
}

// Send is Write.
func (l *link) Send(data io.Reader, o *packet.Options, sent zishang.SendCallback) zishang.Socket {
	return l.Write(data, o, sent)
}

// Close ends the connection; discard forgets what waits.
func (l *link) Close(discard bool) {
	if discard {
		l.conn.abort(ReasonForced)
		return
	}
	l.conn.shut(ReasonForced)
}

// The rest of the interface is the library's own construction of its sockets,
// which never happens to ours.

func (l *link) SetReadyState(string)              {}
func (l *link) MaybeUpgrade(transports.Transport) {}

func (l *link) Construct(string, zishang.BaseServer, transports.Transport, *types.HttpContext, int) {
}

// noResponse stands for the response of a handshake, which has been sent.
type noResponse struct{}

func (noResponse) Header() http.Header       { return http.Header{} }
func (noResponse) Write([]byte) (int, error) { return 0, http.ErrHandlerTimeout }
func (noResponse) WriteHeader(int)           {}

// transportState is what listeners may ask about a transport.
type transportState struct {
	name                string
	upgrading, writable bool
}

func (c *Conn) transport() transportState {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := transportState{name: transports.POLLING, upgrading: c.probe != nil}
	if c.ws != nil {
		t.name = transports.WEBSOCKET
		t.writable = c.state == stateOpen && c.Buffered() == 0
	} else {
		t.writable = c.state == stateOpen && c.poll != nil
	}
	return t
}

// transportView is the transport at the time it was asked for. What it doesn't
// define is the library's base, which does nothing.
type transportView struct {
	transports.Transport
	link  *link
	state transportState
}

func newTransportView(l *link) *transportView {
	return &transportView{Transport: transports.MakeTransport(), link: l, state: l.conn.transport()}
}

func (t *transportView) Name() string             { return t.state.name }
func (t *transportView) Writable() bool           { return t.state.writable }
func (t *transportView) Sid() string              { return t.link.conn.id }
func (t *transportView) Protocol() int            { return 4 }
func (t *transportView) SupportsBinary() bool     { return true }
func (t *transportView) HandlesUpgrades() bool    { return t.state.name == transports.WEBSOCKET }
func (t *transportView) MaxHttpBufferSize() int64 { return int64(t.link.conn.srv.opts.MaxPayload) }
func (t *transportView) ReadyState() string       { return t.link.ReadyState() }

// Close closes the connection under the transport, in order.
func (t *transportView) Close(done ...types.Callable) {
	t.link.Close(false)
	for _, f := range done {
		if f != nil {
			f()
		}
	}
}

// engineView is the Server as the library sees it: it gets the connections and
// can close them all. Requests never come this way, so the base's middleware and
// handshakes are not used.
type engineView struct {
	zishang.BaseServer
	srv *Server
}

func newEngineView(s *Server) *engineView {
	v := &engineView{BaseServer: zishang.MakeBaseServer(), srv: s}
	o := config.DefaultServerOptions()
	o.SetPingInterval(s.opts.PingInterval)
	o.SetPingTimeout(s.opts.PingTimeout)
	o.SetUpgradeTimeout(s.opts.UpgradeTimeout)
	o.SetMaxHttpBufferSize(int64(s.opts.MaxPayload))
	v.Construct(o)
	v.Prototype(v)
	return v
}

func (v *engineView) ClientsCount() uint64 { return uint64(v.srv.Len()) }

// Clients lists the connections that have sent a packet.
func (v *engineView) Clients() *types.Map[string, zishang.Socket] {
	m := &types.Map[string, zishang.Socket]{}
	v.srv.Each(func(c *Conn) bool {
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		if l != nil {
			m.Store(c.id, l)
		}
		return true
	})
	return m
}

// Close says goodbye to all clients and takes no more; it doesn't wait.
func (v *engineView) Close() zishang.BaseServer {
	v.srv.closeAll()
	return v
}
