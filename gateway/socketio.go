package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/zishang520/socket.io/v2/socket"
	"golang.org/x/time/rate"

	"github.com/sluicehq/sluice/gateway/engine"
)

// Times of the Socket.IO protocol. A client that doesn't answer a ping within
// pingTimeout is gone, and so is one that takes nothing for writeTimeout; one
// that can't be authenticated within authTimeout is told to come again.
const (
	pingInterval = 25 * time.Second
	pingTimeout  = 20 * time.Second
	writeTimeout = 45 * time.Second
	authTimeout  = 10 * time.Second
)

// socketBuffer is how much the kernel may hold for one client, which would
// otherwise be megabytes for one that doesn't read. At a round trip of 100 ms it
// lets 2.5 MB/s through.
const socketBuffer = 256 << 10

// maxBuffered is what the transport lets wait for one client. It is never reached:
// the outbox judges before, and one large event isn't too much.
const maxBuffered = 1 << 30

// packetSlack is what a packet may have beside the payload that the limits speak of.
const packetSlack = 64 << 10

// socketServer puts sessions on the Socket.IO library. From the library come
// the handshake, the namespace, connect and disconnect. The transport below is
// package engine's, and frames go straight to it, encoded: the library's rooms
// and its way of emitting have no part in them.
type socketServer struct {
	core   *core
	io     *socket.Server
	engine *engine.Server
	// complaints are rate-limited: strangers must not fill the log. All are counted.
	complaints *rate.Limiter
}

func newSocketServer(c *core) *socketServer {
	s := &socketServer{core: c, io: socket.NewServer(nil, nil), complaints: rate.NewLimiter(5, 20)}
	limits := c.conf.Limits
	s.engine = engine.New(engine.Options{
		Log:          c.log,
		PingInterval: pingInterval,
		PingTimeout:  pingTimeout,
		WriteTimeout: writeTimeout,
		MaxPayload:   int(limits.Request) + packetSlack,
		MaxBuffered:  maxBuffered,
		MaxConns:     limits.Connections,
		SocketBuffer: socketBuffer,
		// Schemas of tools nest deeply; what is too much is decided by size.
		Limits: engine.Limits{Depth: 64, Values: 500_000},
		// What goes to a provider goes as it came: a schema's members have an order.
		RawArguments: true,
		Admit:        c.admission.admit,
		Address:      c.admission.address,
		Origin: func(r *http.Request, origin string) bool {
			return originAllowed(c.conf.Origins, origin, r.Host)
		},
	})
	s.io.Use(s.admit)
	s.io.On("connection", func(args ...any) {
		if sock, ok := args[0].(*socket.Socket); ok {
			s.connected(sock)
		}
	})
	s.engine.Bind(s.io)
	return s
}

func (s *socketServer) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.engine.ServeHTTP(w, r) }

// run serves connections until ctx ends, and returns when all of them have.
func (s *socketServer) run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { s.core.hub.collectWhenCalm(ctx) })
	defer beside.Wait()
	return s.engine.Run(ctx)
}

// admit authenticates a socket: its identity becomes the socket's data. It runs
// beside the connection's reader, and nothing of the client is taken meanwhile.
func (s *socketServer) admit(sock *socket.Socket, next func(*socket.ExtendedError)) {
	cred := credentials{
		Auth:   token(sock.Handshake().Auth),
		Header: sock.Request().Headers().Peek("Authorization"),
		Query:  sock.Request().Query().Peek("token"),
	}
	ctx, cancel := context.WithTimeout(s.core.ctx, authTimeout)
	defer cancel()
	who, err := s.core.auth.identify(ctx, cred)
	if err != nil {
		if s.complaints.Allow() {
			s.core.log.Info("handshake refused", "address", sock.Handshake().Address, "error", err)
		}
		s.refuse(asUnauthorized(err), next)
		return
	}
	conn := engine.ConnOf(sock)
	if conn == nil {
		next(socket.NewExtendedError("not a connection of this gateway", nil))
		return
	}
	seat, err := s.core.seats.take(ctx, who.owner(), s.core.socketsOf(who), conn.Done())
	if err != nil {
		s.refuse(asRefused(err), next)
		return
	}
	sock.SetData(admitted{who, seat})
	next(nil)
}

// refuse tells a client why it may not come in, and when it may try again.
func (s *socketServer) refuse(why *refused, next func(*socket.ExtendedError)) {
	s.core.metrics.refused(why.Code)
	data := map[string]any{"code": why.Code}
	if why.RetryAfterMs > 0 {
		data["retryAfterMs"] = why.RetryAfterMs
	}
	next(socket.NewExtendedError(why.Message, data))
}

// admitted is the data of a socket that may come in.
type admitted struct {
	who  identity
	seat *seat
}

// token finds the token in a client's auth object, {"token":"…"}.
func token(auth any) string {
	fields, _ := auth.(map[string]any)
	text, _ := fields["token"].(string)
	return text
}

// connected opens the session of an admitted socket.
func (s *socketServer) connected(sock *socket.Socket) {
	guest, ok := sock.Data().(admitted)
	conn := engine.ConnOf(sock)
	if !ok || conn == nil {
		sock.Disconnect(true)
		return
	}
	forgetHandshake(sock)
	guest.seat.sit()
	session := s.core.open(guest.who, &peer{sock: sock, conn: conn})
	if session == nil {
		guest.seat.leave()
		return
	}
	sock.OnAny(func(args ...any) {
		defer s.recovered(sock)
		session.receive(readEvent(args))
	})
	end := func(args ...any) {
		session.end(fmt.Sprint(args[0]))
		guest.seat.leave()
	}
	// At "disconnect" the client may be on its way in again, to the seat that it has.
	// Who was sent away before anybody could listen is found by the other two.
	sock.On("disconnecting", end)
	sock.On("disconnect", end)
	if !sock.Connected() {
		end("sent away")
	}
}

// forgetHandshake drops what the library would keep of the handshake and of rooms,
// nearly two kilobytes for each socket: the session has what it needs.
func forgetHandshake(sock *socket.Socket) {
	sock.SetData(nil)
	h := sock.Handshake()
	h.Auth, h.Headers, h.Query = nil, nil, nil
	sock.Nsp().Adapter().DelAll(sock.Id())
}

// recovered contains what the session itself doesn't: a panic costs the socket,
// not the process.
func (s *socketServer) recovered(sock *socket.Socket) {
	if r := recover(); r != nil {
		s.core.log.Error("panic in a socket handler", "socket", string(sock.Id()), "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		sock.Disconnect(true)
	}
}

// readEvent takes what a listener is given: name, arguments, and a function if
// the client wants an answer. Those of an event with attachments are decoded, and
// one that holds bytes becomes null: no event of the gateway takes any.
func readEvent(args []any) event {
	var e event
	e.Name, _ = args[0].(string)
	for _, arg := range args[1:] {
		switch v := arg.(type) {
		case socket.Ack:
			e.Ack = func(data []byte) { v([]any{json.RawMessage(data)}, nil) }
		case json.RawMessage:
			e.Args = append(e.Args, v)
		default:
			e.Args = append(e.Args, rawJSON(v))
		}
	}
	return e
}

// rawJSON encodes an argument that the engine has decoded.
func rawJSON(v any) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if holdsBytes(v) || encoder.Encode(v) != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimSpace(b.Bytes())
}

func holdsBytes(v any) bool {
	switch v := v.(type) {
	case io.Reader:
		return true
	case []any:
		return slices.ContainsFunc(v, holdsBytes)
	case map[string]any:
		for _, member := range v {
			if holdsBytes(member) {
				return true
			}
		}
	}
	return false
}

// peer is the wire of one session.
type peer struct {
	sock *socket.Socket
	conn *engine.Conn
}

func (p *peer) ID() string { return string(p.sock.Id()) }

func (p *peer) Line() line { return p.conn }

func (p *peer) Hangup(reason string) { p.conn.Kick(reason) }

func (p *peer) Dismiss() { p.sock.Disconnect(true) }
