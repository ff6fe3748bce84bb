package engine

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// Options configures a Server. The zero value is usable: it accepts pages of
// its own host only, and messages up to 1 MB.
type Options struct {
	Log *slog.Logger // nil discards

	// Heartbeat of Engine.IO v4: the server pings every PingInterval (25 s) and
	// closes with "ping timeout" when no pong came within PingTimeout (20 s).
	PingInterval, PingTimeout time.Duration
	// UpgradeTimeout bounds the probe of a WebSocket beside a polling session (10 s).
	UpgradeTimeout time.Duration
	// ConnectTimeout closes a connection that has joined no namespace (10 s).
	ConnectTimeout time.Duration
	// BodyTimeout bounds the reading of one POST body (10 s).
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take nothing of what waits for it; then
	// it counts as slow (10 s).
	WriteTimeout time.Duration
	// LingerTimeout bounds the goodbye: what is queued is still written, and the
	// client's side of the close awaited, for at most this long (2 s).
	LingerTimeout time.Duration

	// MaxPayload bounds one inbound message, WebSocket or POST body, in bytes
	// (1,000,000). It is announced in the handshake, and clients split by it.
	MaxPayload int
	// MaxBuffered bounds the bytes queued towards one client (1 MiB). A client
	// that has more waiting is closed with the reason ReasonSlow.
	MaxBuffered int
	// MaxConns bounds the connections of this server (0: no bound); beyond it a
	// handshake is answered 503 with Retry-After.
	MaxConns int
	// SocketBuffer sets the kernel's send buffer per connection in bytes
	// (0 keeps the system's, which may grow to megabytes).
	SocketBuffer int

	// MaxDelay is the longest batching window (0: 20 ms, negative: none). A
	// connection that wrote nothing within the window writes at once; what comes
	// sooner waits, at most this long, and goes out in one write. While writing
	// takes the server little time the window is 2 ms at most, so that only
	// bursts are joined; when the server is busy it opens step by step to
	// MaxDelay, as long as a wider one joins more.
	MaxDelay time.Duration

	// Origin decides whether a page of this origin may connect; it is asked only
	// if the request carries an Origin header. Nil accepts the server's own host.
	Origin func(r *http.Request, origin string) bool
	// Admit is asked before each handshake. A non-nil error refuses it: a
	// *Refusal says how, anything else is answered 403. The function it returns
	// (may be nil) is called once, when the connection has ended.
	Admit func(r *http.Request) (release func(), err error)
	// Address tells the client's address, for example from a proxy's header.
	// Nil takes the RemoteAddr of the request.
	Address func(r *http.Request) string

	// RawArguments has listeners of events without attachments get each argument as
	// the json.RawMessage that the client wrote, and not decoded: numbers keep their
	// digits and objects the order of their members, and nothing is built of what
	// may be thrown away.
	RawArguments bool

	// Limits bound the Socket.IO packets that are let through.
	Limits Limits
	// Check, if set, replaces Limits as the judge of each Socket.IO packet after
	// it was parsed. An error closes the connection with "parse error". It must
	// be safe for concurrent use.
	Check func(Packet) error
}

// Refusal is an error of Options.Admit that says how to answer.
type Refusal struct {
	Status     int    // HTTP status, for example 429 or 503
	Message    string // shown to the client
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return fmt.Sprintf("refused with %d: %s", r.Status, r.Message) }

// Reasons a connection ends with, as listeners of "disconnect" see them. Those
// that a Socket.IO server knows keep its words.
const (
	ReasonTransportClose = "transport close" // the client closed, or went away
	ReasonTransportError = "transport error" // a violation of the transport's protocol
	ReasonParse          = "parse error"     // an invalid packet
	ReasonTooLarge       = "payload too large"
	ReasonPing           = "ping timeout"
	ReasonForced         = "forced close" // closed by this server, or no namespace joined in time
	ReasonShutdown       = "server shutting down"
	ReasonSlow           = "slow consumer" // the outbox was full, or nothing of it was taken for too long
	ReasonHandler        = "handler panic" // a listener of the application panicked
)

func (o *Options) setDefaults() {
	duration := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	duration(&o.PingInterval, 25*time.Second)
	duration(&o.PingTimeout, 20*time.Second)
	duration(&o.UpgradeTimeout, 10*time.Second)
	duration(&o.ConnectTimeout, 10*time.Second)
	duration(&o.BodyTimeout, 10*time.Second)
	duration(&o.WriteTimeout, 10*time.Second)
	duration(&o.LingerTimeout, 2*time.Second)
	duration(&o.MaxDelay, 20*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPayload <= 0 {
		o.MaxPayload = 1_000_000
	}
	if o.MaxBuffered <= 0 {
		o.MaxBuffered = 1 << 20
	}
	if o.Origin == nil {
		o.Origin = sameHost
	}
	if o.Address == nil {
		o.Address = func(r *http.Request) string { return r.RemoteAddr }
	}
	o.Limits.setDefaults()
	if o.Check == nil {
		o.Check = o.Limits.Check
	}
}
