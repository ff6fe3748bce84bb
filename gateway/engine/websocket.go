package engine

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"unicode/utf8"
)

// hijack answers a WebSocket handshake except for writing the response, which it
// returns. It has answered the request if ok is false.
func (s *Server) hijack(w http.ResponseWriter, r *http.Request) (ws *wire, response, early []byte, ok bool) {
	key := r.Header.Get("Sec-WebSocket-Key")
	nonce, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(nonce) != 16 || r.Method != http.MethodGet || r.Header.Get("Sec-WebSocket-Version") != "13" {
		fail(w, errRequest)
		return nil, nil, nil, false
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, errRequest)
		return nil, nil, nil, false
	}
	if n := rw.Reader.Buffered(); n > 0 {
		peeked, _ := rw.Reader.Peek(n)
		early = bytes.Clone(peeked)
	}
	response = []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptKey(key) + "\r\n\r\n")
	return newWire(nc, s.opts.SocketBuffer), response, early, true
}

// acceptSocket opens a session over WebSocket from the start.
func (s *Server) acceptSocket(w http.ResponseWriter, r *http.Request, c *Conn) {
	ws, response, early, ok := s.hijack(w, r)
	if !ok {
		s.discard(c)
		return
	}
	c.use(ws)
	response = append(response, newMsg(false, []byte(s.openPacket(c, ""))).frame...)
	err := ws.answer(response, s.opts.WriteTimeout)
	if err != nil || !s.open(c) {
		ws.close()
		if err != nil {
			s.discard(c)
		}
		return
	}
	s.read(c, ws, early, false)
}

// probeSocket starts the upgrade of a polling session.
func (s *Server) probeSocket(w http.ResponseWriter, r *http.Request, c *Conn) {
	ws, response, early, ok := s.hijack(w, r)
	if !ok {
		return
	}
	c.mu.Lock()
	mine := c.state == stateOpen && c.ws == nil && c.probe == nil
	if mine {
		c.probe = ws // before the client knows that it has a WebSocket
	}
	c.mu.Unlock()
	if !mine {
		response = append(response, controlMsg(opClose, []byte{0x03, 0xf0}).frame...) // 1008
	} else {
		ws.deadline(s.opts.UpgradeTimeout)
	}
	if ws.answer(response, s.opts.WriteTimeout) != nil || !mine {
		c.mu.Lock()
		if c.probe == ws {
			c.probe = nil
		}
		c.mu.Unlock()
		ws.close()
		return
	}
	s.read(c, ws, early, true)
}

// read starts the reader of ws. The handler's own goroutine, with its deep
// stack, ends here.
func (s *Server) read(c *Conn, ws *wire, early []byte, probing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateClosed {
		ws.close()
		return
	}
	s.alive.Add(1) // under mu, so that it comes before the connection's own Done
	go func() {
		defer s.alive.Done()
		rd := reader{c: c, ws: ws, probing: probing}
		reason := rd.run(early)
		c.mu.Lock()
		mine := c.ws == ws
		if mine {
			c.fd = 0
		}
		if c.probe == ws { // no upgrade: the session goes on polling
			c.probe, c.probed = nil, false
		}
		c.mu.Unlock()
		ws.close()
		if mine {
			c.abort(reason)
		}
	}()
}

// use makes ws the transport; c.mu is held, or nobody else knows of c yet.
func (c *Conn) use(ws *wire) { c.ws, c.fd = ws, int32(ws.fd) }

// reader takes the frames of one WebSocket apart.
type reader struct {
	c       *Conn
	ws      *wire
	probing bool
	msg     assembler
}

// run reads until the end and returns its reason.
func (rd *reader) run(data []byte) string {
	owned := data // what is left over of earlier reads, in memory of our own
	for {
		rest, reason := rd.frames(owned)
		if reason != "" {
			return rd.last(reason)
		}
		owned = rest
		data, done, err := rd.ws.read()
		if err != nil {
			return endReason(err)
		}
		if len(owned) > 0 {
			owned = append(owned, data...)
		} else {
			if rest, reason = rd.frames(data); reason == "" {
				owned = bytes.Clone(rest)
			}
		}
		done()
		if reason != "" {
			return rd.last(reason)
		}
	}
}

// last returns the reason of the end. A client that has sent too much is told so
// first, and read on until it has heard it: what it has sent and nobody read would
// have the kernel take back what is on its way to it.
func (rd *reader) last(reason string) string {
	if reason != ReasonTooLarge || rd.probing {
		return reason
	}
	c := rd.c
	c.srv.opts.Log.Debug("message too large", "address", c.address, "limit", c.limit())
	if !c.joined.Load() { // most likely by a token
		c.Send(NewPacket(fmt.Appendf(nil, `4{"message":"what a client says before it has joined may have %d bytes at most","data":{"code":"request_too_large"}}`, c.limit())))
	}
	c.shutWith(ReasonTooLarge, 1009)
	for {
		_, done, err := rd.ws.read()
		if err != nil {
			return reason
		}
		done()
	}
}

// frames handles the whole frames in data and returns the remainder.
func (rd *reader) frames(data []byte) (rest []byte, reason string) {
	for len(data) > 0 {
		limit := rd.c.limit()
		op, fin, payload, n, err := parseFrame(data, limit)
		if err != nil {
			return nil, badFrame(err)
		}
		if n == 0 {
			return data, ""
		}
		data = data[n:]
		if op >= opClose {
			if reason := rd.control(op, payload); reason != "" {
				return nil, reason
			}
			continue
		}
		op, message, whole, err := rd.msg.add(op, fin, payload, limit)
		if err != nil {
			return nil, badFrame(err)
		}
		if whole {
			if reason := rd.message(op, message); reason != "" {
				return nil, reason
			}
		}
	}
	return nil, ""
}

func badFrame(err error) (reason string) {
	if errors.Is(err, errTooLarge) {
		return ReasonTooLarge
	}
	return ReasonTransportError
}

func (rd *reader) control(op byte, payload []byte) (reason string) {
	switch op {
	case opClose:
		rd.c.sendControl(rd.ws, controlMsg(opClose, []byte{0x03, 0xe8}))
		return ReasonTransportClose
	case opPing:
		rd.c.sendControl(rd.ws, controlMsg(opPong, payload))
	}
	return ""
}

func (rd *reader) message(op byte, message []byte) (reason string) {
	if op == opText && !utf8.Valid(message) {
		return ReasonTransportError
	}
	if rd.probing {
		done, ok := rd.c.onProbe(rd.ws, op, message)
		if !ok {
			return ReasonTransportError
		}
		rd.probing = !done
		return ""
	}
	if err := rd.c.onPacket(message, op == opBinary, false); err != nil {
		rd.c.srv.opts.Log.Debug("bad packet", "address", rd.c.address, "error", err)
		if errors.Is(err, errTooLarge) {
			return ReasonTooLarge
		}
		return ReasonParse
	}
	return ""
}

// onProbe handles a message on a WebSocket that isn't the session's yet.
func (c *Conn) onProbe(ws *wire, op byte, message []byte) (done, ok bool) {
	if op != opText {
		return false, false
	}
	switch string(message) {
	case "2probe":
		if ws.writeAll(msgProbe.frame, c.srv.opts.WriteTimeout, func(int) {}) != nil {
			return false, false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.probed = true
		if c.poll != nil { // the client waits for its poll before it upgrades
			c.poll <- []byte("6")
			c.poll = nil
		}
		return false, true
	case "5":
		c.mu.Lock()
		if c.state == stateClosed || c.goodbye == msgNoop || !c.probed {
			c.mu.Unlock()
			return false, false
		}
		if c.poll != nil {
			c.poll <- []byte("6")
			c.poll = nil
		}
		c.use(ws)
		c.probe = nil
		ws.deadline(0)
		if c.state == stateClosing { // closed while upgrading: the last words go this way
			c.out = append(c.out, controlMsg(opClose, []byte{0x03, 0xe8}))
		}
		write := len(c.out) > 0 && !c.writing
		c.writing = c.writing || write
		c.mu.Unlock()
		if write {
			c.write()
		}
		return true, true
	}
	return false, false
}

func endReason(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, os.ErrDeadlineExceeded):
		return ReasonTransportClose
	}
	return ReasonTransportError
}
