package engine

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// protocolError is the answer to a request that breaks the protocol.
// https://github.com/socketio/engine.io/blob/main/lib/server.ts
type protocolError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

var (
	errTransport = protocolError{0, "Transport unknown"}
	errSession   = protocolError{1, "Session ID unknown"}
	errMethod    = protocolError{2, "Bad handshake method"}
	errRequest   = protocolError{3, "Bad request"}
	errForbidden = protocolError{4, "Forbidden"}
	errVersion   = protocolError{5, "Unsupported protocol version"}
)

func fail(w http.ResponseWriter, e protocolError) {
	status := http.StatusBadRequest
	if e.Code == errForbidden.Code {
		status = http.StatusForbidden
	}
	failWith(w, status, e)
}

func failWith(w http.ResponseWriter, status int, e protocolError) {
	b, _ := json.Marshal(e) // a string and a number always encode
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}

// ServeHTTP answers one request: a handshake, a poll, a POST or a WebSocket.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.allowOrigin(w, r) {
		return
	}
	query := r.URL.Query()
	transport := query.Get("transport")
	if transport != "polling" && transport != "websocket" {
		fail(w, errTransport)
		return
	}
	if (transport == "websocket") != isUpgrade(r) {
		fail(w, errRequest)
		return
	}
	if id := query.Get("sid"); id != "" {
		s.serveSession(w, r, id, transport)
		return
	}
	if r.Method != http.MethodGet {
		fail(w, errMethod)
		return
	}
	if query.Get("EIO") != "4" {
		fail(w, errVersion)
		return
	}
	s.handshake(w, r, transport)
}

// allowOrigin judges a browser's origin and answers preflights. False: answered.
func (s *Server) allowOrigin(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin != "" {
		if !s.opts.Origin(r, origin) {
			fail(w, errForbidden)
			return false
		}
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if r.Method != http.MethodOptions {
		return true
	}
	if origin != "" {
		h.Set("Access-Control-Allow-Methods", "GET,POST")
		h.Set("Access-Control-Max-Age", "600")
		if ask := r.Header.Get("Access-Control-Request-Headers"); ask != "" {
			h.Set("Access-Control-Allow-Headers", ask)
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return false
}

func sameHost(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && hasToken(r.Header["Connection"], "upgrade")
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// handshake opens a session.
func (s *Server) handshake(w http.ResponseWriter, r *http.Request, transport string) {
	if n := s.count.Add(1); s.app == nil || s.stopping.Load() || s.opts.MaxConns > 0 && n > int64(s.opts.MaxConns) {
		s.count.Add(-1)
		refuse(w, &Refusal{Status: http.StatusServiceUnavailable, Message: "no room for more connections", RetryAfter: 2 * time.Second})
		return
	}
	c, err := s.admit(r)
	if err != nil {
		s.count.Add(-1)
		refuse(w, err)
		return
	}
	if transport == "websocket" {
		s.acceptSocket(w, r, c)
		return
	}
	if !s.open(c) {
		refuse(w, &Refusal{Status: http.StatusServiceUnavailable, Message: "shutting down", RetryAfter: 2 * time.Second})
		return
	}
	writePayload(w, s.opts.WriteTimeout, []byte(s.openPacket(c, `"websocket"`)))
}

// open registers a session, or gives back what it held.
func (s *Server) open(c *Conn) bool {
	if s.register(c) {
		return true
	}
	s.discard(c)
	return false
}

// discard gives back what a session held that never opened.
func (s *Server) discard(c *Conn) {
	s.count.Add(-1)
	if c.release != nil {
		c.release()
	}
}

func (s *Server) admit(r *http.Request) (*Conn, error) {
	var release func()
	if s.opts.Admit != nil {
		var err error
		if release, err = s.opts.Admit(r); err != nil {
			return nil, err
		}
	}
	c := &Conn{srv: s, id: newID(), address: strings.Clone(s.opts.Address(r)), release: release, done: make(chan struct{}), origin: originOf(r)}
	c.in.room.L = &c.in
	return c, nil
}

// origin is what is kept of the request of a handshake. The request itself would
// keep its connection's buffers and context alive.
type origin struct {
	uri, host, remote string
	header            http.Header
	tls               *tls.ConnectionState
}

func originOf(r *http.Request) origin {
	header := make(http.Header, len(r.Header))
	for name, values := range r.Header {
		switch name {
		case "Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions":
			// means nothing to the application
		default:
			header[name] = values
		}
	}
	return origin{uri: r.RequestURI, host: r.Host, remote: r.RemoteAddr, header: header, tls: r.TLS}
}

// request makes a request again, without body and context.
func (o *origin) request() *http.Request {
	u, err := url.ParseRequestURI(o.uri)
	if err != nil { // not from a network
		u = &url.URL{}
	}
	return &http.Request{Method: http.MethodGet, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: o.header, Host: o.host, RemoteAddr: o.remote, RequestURI: o.uri, TLS: o.tls}
}

func refuse(w http.ResponseWriter, err error) {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		fail(w, errForbidden)
		return
	}
	if refusal.RetryAfter > 0 {
		seconds := (refusal.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	failWith(w, refusal.Status, protocolError{errForbidden.Code, refusal.Message})
}

// newID makes a session id of 120 random bits: knowing it is all that a polling
// client has to show.
func newID() string {
	var b [15]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (s *Server) openPacket(c *Conn, upgrades string) string {
	return fmt.Sprintf(`0{"sid":"%s","upgrades":[%s],"pingInterval":%d,"pingTimeout":%d,"maxPayload":%d}`,
		c.id, upgrades, s.opts.PingInterval.Milliseconds(), s.opts.PingTimeout.Milliseconds(), s.opts.MaxPayload)
}

// serveSession serves a request of an open session.
func (s *Server) serveSession(w http.ResponseWriter, r *http.Request, id, transport string) {
	c := s.find(id)
	if c != nil {
		if by := c.pongBy.Load(); by != 0 && s.now() >= by { // not yet seen by the heartbeat
			c.abort(ReasonPing)
			c = nil
		}
	}
	switch {
	case c == nil:
		fail(w, errSession)
	case transport == "websocket":
		s.probeSocket(w, r, c)
	case r.Method == http.MethodGet:
		c.servePoll(w, r)
	case r.Method == http.MethodPost:
		c.servePost(w, r)
	default:
		fail(w, errRequest)
	}
}

// acceptKey is the answer to a WebSocket handshake, RFC 6455 section 4.2.2.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
