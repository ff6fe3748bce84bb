package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	eio "github.com/zishang520/engine.io-go-parser/packet"
	"github.com/zishang520/engine.io/v2/config"
	"github.com/zishang520/engine.io/v2/engine"
	"github.com/zishang520/engine.io/v2/events"
	"github.com/zishang520/engine.io/v2/transports"
	"github.com/zishang520/engine.io/v2/types"
	"github.com/zishang520/socket.io-go-parser/v2/parser"
	"github.com/zishang520/socket.io/v2/socket"
)

// Times of the Socket.IO protocol. A client that doesn't answer a ping within
// pingTimeout is gone; one that doesn't join a namespace within joinTimeout is
// no client; one that can't be authenticated within authTimeout is told to come
// again.
const (
	pingInterval = 25 * time.Second
	pingTimeout  = 20 * time.Second
	joinTimeout  = 10 * time.Second
	authTimeout  = 10 * time.Second
)

// packetSlack is what a packet may have beside the payload that the limits speak of.
const packetSlack = 64 << 10

// socketServer puts sessions on the Socket.IO library. From the library come
// the handshake, the namespace, connect and disconnect; events don't take its
// way: it handles each in a goroutine of its own, which loses their order, and
// some malformed ones take the process down. A decoder of our own reads the
// packets and hands events to the session, and the session writes packets that
// are encoded already.
type socketServer struct {
	core   *core
	io     *socket.Server
	engine interface {
		engine.BaseServer
		http.Handler
	}
}

func newSocketServer(c *core) *socketServer {
	s := &socketServer{core: c}
	transport := config.DefaultServerOptions()
	transport.SetPingInterval(pingInterval)
	transport.SetPingTimeout(pingTimeout)
	transport.SetMaxHttpBufferSize(maxPacket(c))
	transport.SetTransports(types.NewSet(transports.POLLING, transports.WEBSOCKET))
	s.engine = engine.NewServer(transport)

	options := socket.DefaultServerOptions()
	options.SetServeClient(false)
	options.SetConnectTimeout(joinTimeout)
	options.SetParser(packetParser{})
	s.io = socket.NewServer(nil, options)
	s.io.Use(s.admit)
	s.io.On("connection", func(args ...any) {
		if sock, ok := args[0].(*socket.Socket); ok {
			s.connected(sock)
		}
	})
	s.io.Bind(s.engine)
	return s
}

// maxPacket is the size of the largest packet a client may send.
func maxPacket(c *core) int64 { return int64(c.conf.Limits.Request) + packetSlack }

func (s *socketServer) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.engine.ServeHTTP(w, r) }

// close ends every connection that is still there.
func (s *socketServer) close() { s.io.Close(nil) }

// guest is a socket on its way to a session.
type guest struct {
	who     identity
	decoder *decoder

	mu      sync.Mutex
	session *session
	gone    bool
}

// admit authenticates a socket. It runs beside the connection's reader, which a
// slow key server must not hold up.
func (s *socketServer) admit(sock *socket.Socket, next func(*socket.ExtendedError)) {
	hello, ok := sock.Handshake().Auth.(*hello)
	if !ok {
		next(socket.NewExtendedError("Authentication failed: unexpected handshake", nil))
		return
	}
	cred := credentials{
		Auth:   hello.auth,
		Header: sock.Request().Headers().Peek("Authorization"),
		Query:  sock.Request().Query().Peek("token"),
	}
	s.core.work.Go(func() {
		defer s.recovered("admit")
		ctx, cancel := context.WithTimeout(s.core.ctx, authTimeout)
		defer cancel()
		who, err := s.core.auth.identify(ctx, cred)
		if err != nil {
			s.core.log.Info("handshake refused", "address", sock.Handshake().Address, "err", err)
			next(socket.NewExtendedError(err.Error(), map[string]any{"code": codeUnauthorized}))
			return
		}
		g := &guest{who: who, decoder: hello.decoder}
		sock.SetData(g)
		sock.On("disconnect", func(args ...any) {
			defer s.recovered("disconnect")
			g.leave(fmt.Sprint(args[0]))
		})
		hello.decoder.admit()
		next(nil)
	})
}

// connected opens the session of an admitted socket, unless it left meanwhile.
func (s *socketServer) connected(sock *socket.Socket) {
	defer s.recovered("connection")
	g, ok := sock.Data().(*guest)
	if !ok {
		return
	}
	wire := &peer{sock: sock}
	if !g.enter(s.core, wire) {
		wire.Hangup() // not under the guest's lock: it ends in leave
	}
}

// enter opens the session; false means that the gateway is stopping.
func (g *guest) enter(c *core, w wire) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return true
	}
	if g.session = c.open(g.who, w); g.session == nil {
		return false
	}
	g.decoder.open(g.session.receive)
	return true
}

func (g *guest) leave(reason string) {
	g.mu.Lock()
	g.gone = true
	session := g.session
	g.mu.Unlock()
	if session != nil {
		session.end(reason)
	}
}

func (s *socketServer) recovered(where string) {
	if r := recover(); r != nil {
		s.core.log.Error("panic in a socket handler", "where", where, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	}
}

// peer is the wire of one session.
type peer struct{ sock *socket.Socket }

func (p *peer) ID() string { return string(p.sock.Id()) }

func (p *peer) Write(b []byte, sent func()) {
	conn := p.sock.Conn()
	if conn.ReadyState() != "open" {
		sent()
		return
	}
	conn.Write(types.NewStringBuffer(b), &eio.Options{}, func(transports.Transport) { sent() })
}

func (p *peer) Hangup() { p.sock.Conn().Close(true) }

// packetParser is the parser of the library with a decoder of our own.
type packetParser struct{}

func (packetParser) NewEncoder() parser.Encoder { return parser.NewEncoder() }
func (packetParser) NewDecoder() parser.Decoder { return &decoder{EventEmitter: events.New()} }

// hello travels through the library in the place of the auth object, so that
// the middleware finds the decoder of its connection.
type hello struct {
	decoder *decoder
	auth    []byte // JSON, or nil
}

// maxEarly bounds the events of a client between its admission and its session.
const maxEarly = 32

// decoder reads the packets of one connection. The engine calls Add with one
// packet after the other; events keep that order. An error closes the connection.
type decoder struct {
	events.EventEmitter

	mu       sync.Mutex
	asked    bool // a CONNECT for the main namespace was passed on
	admitted bool
	receive  func(event) // set when the session is open
	early    []event
	// A binary event is held until its attachments have come and been dropped.
	held    *event
	missing int
}

var errProtocol = errors.New("protocol violation")

// Add takes one packet: text, or the bytes of an attachment.
func (d *decoder) Add(data any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errProtocol, r)
		}
	}()
	text, binary, err := content(data)
	if err != nil {
		return err
	}
	if binary {
		return d.attachment()
	}
	p, err := parsePacket(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	d.mu.Lock()
	if d.missing > 0 {
		d.mu.Unlock()
		return fmt.Errorf("%w: text in the place of an attachment", errProtocol)
	}
	d.mu.Unlock()
	switch p.Kind {
	case packetConnect:
		return d.connect(p)
	case packetDisconnect:
		d.Emit("decoded", &parser.Packet{Type: parser.DISCONNECT, Nsp: p.Namespace})
		return nil
	case packetEvent, packetBinaryEvent:
		return d.event(p)
	case packetAck, packetBinaryAck:
		return d.ack(p)
	}
	return fmt.Errorf("%w: packet type %q from a client", errProtocol, p.Kind)
}

// content takes what an engine hands over: text in a string or a text reader,
// anything else is binary.
func content(data any) (text []byte, binary bool, err error) {
	switch v := data.(type) {
	case string:
		return []byte(v), false, nil
	case *types.StringBuffer:
		return v.Bytes(), false, nil
	case *strings.Reader:
		text, err = io.ReadAll(v)
		return text, false, err
	}
	return nil, true, nil
}

// connect passes a CONNECT on to the library, once: another one would make a
// second socket of the same connection.
func (d *decoder) connect(p packet) error {
	out := &parser.Packet{Type: parser.CONNECT, Nsp: p.Namespace}
	if p.Namespace == "/" {
		d.mu.Lock()
		again := d.asked
		d.asked = true
		d.mu.Unlock()
		if again {
			return fmt.Errorf("%w: connected twice", errProtocol)
		}
		out.Data = &hello{decoder: d, auth: append([]byte(nil), p.Data...)}
	}
	d.Emit("decoded", out)
	return nil
}

func (d *decoder) event(p packet) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.admitted || p.Namespace != "/" {
		return fmt.Errorf("%w: event before the connection was accepted", errProtocol)
	}
	e, err := p.event()
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	if p.Attachments > 0 {
		d.held, d.missing = &e, p.Attachments
		return nil
	}
	return d.deliver(e)
}

// ack drops an answer: the gateway never asks for one.
func (d *decoder) ack(p packet) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.missing = p.Attachments
	return nil
}

func (d *decoder) attachment() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.missing == 0 {
		return fmt.Errorf("%w: unexpected attachment", errProtocol)
	}
	if d.missing--; d.missing > 0 || d.held == nil {
		return nil
	}
	e := *d.held
	d.held = nil
	return d.deliver(e)
}

// deliver is called with the lock held: that is what keeps the order.
func (d *decoder) deliver(e event) error {
	if d.receive != nil {
		d.receive(e)
		return nil
	}
	if len(d.early) == maxEarly {
		return fmt.Errorf("%w: too many events before the connection was accepted", errProtocol)
	}
	d.early = append(d.early, e)
	return nil
}

// admit lets events in: they wait for the session.
func (d *decoder) admit() {
	d.mu.Lock()
	d.admitted = true
	d.mu.Unlock()
}

// open gives the session what came early, and from now on all that comes.
func (d *decoder) open(receive func(event)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.receive = receive
	for _, e := range d.early {
		receive(e)
	}
	d.early = nil
}

// Destroy is called when the connection has ended.
func (d *decoder) Destroy() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.early, d.receive = nil, nil, func(event) {}
}
