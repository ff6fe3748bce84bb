package engine

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

// separator stands between the packets of a polling payload.
const separator = 0x1e

// splitPayload calls packet for each packet of a polling payload.
func splitPayload(body []byte, packet func([]byte) error) error {
	for {
		p, rest, more := bytes.Cut(body, []byte{separator})
		if err := packet(p); err != nil {
			return err
		}
		if !more {
			return nil
		}
		body = rest
	}
}

func decodeBase64(p []byte) ([]byte, error) {
	data := make([]byte, base64.StdEncoding.DecodedLen(len(p)))
	n, err := base64.StdEncoding.Decode(data, p)
	if err != nil {
		return nil, err
	}
	return data[:n], nil
}

// writePayload answers a poll. The response goes out before the deadline is
// lifted, which would otherwise outlive this request on the same connection.
func writePayload(w http.ResponseWriter, timeout time.Duration, b []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	bounded := rc.SetWriteDeadline(time.Now().Add(timeout)) == nil
	w.Write(b)
	if bounded && rc.Flush() == nil {
		rc.SetWriteDeadline(time.Time{})
	}
}

// servePoll answers a GET: with what waits, or when something comes.
func (c *Conn) servePoll(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	switch {
	case c.ws != nil || c.state == stateClosed:
		c.mu.Unlock()
		fail(w, errRequest)
		return
	case c.poll != nil: // two polls at once: one of them isn't ours
		c.mu.Unlock()
		c.abort(ReasonTransportError)
		fail(w, errRequest)
		return
	case len(c.out) > 0:
		b := c.takePayload()
		c.mu.Unlock()
		writePayload(w, c.srv.opts.WriteTimeout, b)
		return
	case c.state == stateClosing:
		b, reason := c.goodbye.appendPolling(nil), c.reason
		c.mu.Unlock()
		writePayload(w, c.srv.opts.WriteTimeout, b)
		c.abort(reason)
		return
	case c.probed: // let the client get on with its upgrade
		c.mu.Unlock()
		writePayload(w, c.srv.opts.WriteTimeout, []byte("6"))
		return
	}
	poll := make(chan []byte, 1)
	c.poll = poll
	c.mu.Unlock()
	select {
	case b := <-poll:
		writePayload(w, c.srv.opts.WriteTimeout, b)
	case <-r.Context().Done():
		c.mu.Lock()
		if c.poll == poll {
			c.poll = nil
		}
		c.mu.Unlock()
		c.abort(ReasonTransportError)
	}
}

// servePost takes the packets of one body.
func (c *Conn) servePost(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	if c.ws != nil || c.state != stateOpen {
		c.mu.Unlock()
		fail(w, errRequest)
		return
	}
	if c.posting {
		c.mu.Unlock()
		c.abort(ReasonTransportError)
		fail(w, errRequest)
		return
	}
	c.posting = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.posting = false
		c.mu.Unlock()
	}()
	body, err := c.readBody(w, r)
	if err != nil {
		c.abort(ReasonTransportError)
		w.Header().Set("Connection", "close")
		if errors.Is(err, errTooLarge) {
			failWith(w, http.StatusRequestEntityTooLarge, errRequest)
		} else {
			fail(w, errRequest)
		}
		return
	}
	if utf8.Valid(body) {
		err = splitPayload(body, func(p []byte) error { return c.onPacket(p, false, true) })
	} else {
		err = errors.New("not UTF-8") // nor would a WebSocket take it
	}
	if err != nil {
		c.srv.opts.Log.Debug("bad packet", "address", c.address, "error", err)
		status := http.StatusBadRequest
		if errors.Is(err, errTooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		c.abort(ReasonParse)
		failWith(w, status, errRequest)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html")
	h.Set("Content-Length", "2")
	w.Write([]byte("ok"))
}

func (c *Conn) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Header.Get("Content-Type") == "application/octet-stream" {
		return nil, errors.New("binary body")
	}
	limit := int64(c.limit())
	if r.ContentLength > limit {
		return nil, errTooLarge
	}
	rc := http.NewResponseController(w)
	bounded := rc.SetReadDeadline(time.Now().Add(c.srv.opts.BodyTimeout)) == nil
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = errTooLarge
	}
	if bounded && err == nil { // what is left of a refused one has no more time
		rc.SetReadDeadline(time.Time{})
	}
	return body, err
}

// limit is the largest message taken at the moment: little from a client that
// has joined no namespace, so that strangers can't make the server hold much.
func (c *Conn) limit() int {
	if c.joined.Load() {
		return c.srv.opts.MaxPayload
	}
	return min(c.srv.opts.MaxPayload, c.srv.opts.Limits.Connect+1024)
}
