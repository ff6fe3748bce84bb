package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// wire is the socket under a session. Its methods never block.
type wire interface {
	ID() string
	Line() line
	// Hangup lets go what waits and closes the connection. A client comes back
	// by itself and resumes.
	Hangup(reason string)
	// Dismiss is Hangup for a client that is to stay away.
	Dismiss()
}

// line is where events are written. It is apart from the rest of a wire, so that an
// event finds it without a detour: with thousands of sockets each line of memory is
// a miss of the cache.
type line interface {
	// Emit queues one event with one argument, whose memory must not change any
	// more. An error says that the socket is closed.
	Emit(namespace, event string, data json.RawMessage) error
	// Buffered is the number of bytes that wait for the client.
	Buffered() int
}

// mainNamespace is the only one that has sessions.
const mainNamespace = "/"

// stallTime is how long a client may take nothing of what it lacks before it is
// cut off: shorter than the transport's own patience, which gives no reason.
const stallTime = 15 * time.Second

// look is how often a client that is behind is looked at.
const look = 10 * time.Millisecond

// outbox is the way to one socket. It bounds what waits there and cuts the
// socket off when that passes the limit. Safe for concurrent use.
type outbox struct {
	mu     sync.Mutex // orders what is sent
	closed bool
	alone  int // bytes of the last event before which nothing waited

	line line
	// limit is in bytes; one event alone may pass it.
	limit   int
	metrics *metrics
	// overflow is called once, by the sender that passed the limit.
	overflow func()
}

// send queues an event. False means that the socket is closed, or closing now
// because this was too much.
func (o *outbox) send(event string, data []byte) bool {
	ok := o.queue(len(data), func() bool { return o.emit(event, data) })
	if ok {
		o.metrics.sent(event, len(data))
	}
	return ok
}

func (o *outbox) emit(event string, data []byte) bool {
	return o.line.Emit(mainNamespace, event, data) == nil
}

// queue has a message of so many bytes sent, unless it is too much. An event that
// was alone when it was sent doesn't count, however large it is and however long
// it takes: what comes after it finds the whole limit.
func (o *outbox) queue(size int, send func() bool) bool {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return false
	}
	switch waiting := o.line.Buffered(); {
	case waiting == 0:
		o.alone = size
	case waiting+size > o.limit+o.alone:
		o.closed = true
		o.mu.Unlock()
		o.overflow()
		return false
	}
	ok := send()
	o.mu.Unlock()
	return ok
}

// offer queues an event that the client can have later just as well: taken only
// if no more than half of the limit waits then, so that what can't wait has room.
// open is false when the socket is closed.
func (o *outbox) offer(event string, data []byte) (taken, open bool) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return false, false
	}
	switch waiting := o.line.Buffered(); {
	case waiting == 0:
		o.alone = len(data)
	case waiting+len(data) > o.limit/2:
		o.mu.Unlock()
		return false, true
	}
	ok := o.emit(event, data)
	o.mu.Unlock()
	if ok {
		o.metrics.sent(event, len(data))
	}
	return ok, ok
}

// room returns when the client has taken most of what waits and size bytes fit,
// or with the context's error, or with errStalled when the client has taken
// nothing for stall.
func (o *outbox) room(ctx context.Context, size int, stall time.Duration) error {
	before, since := o.line.Buffered(), time.Now()
	for {
		waiting := o.line.Buffered()
		if waiting == 0 || waiting <= o.limit/4 && waiting+size <= o.limit/2 {
			return ctx.Err()
		}
		if waiting < before {
			since = time.Now()
		} else if time.Since(since) >= stall {
			return errStalled
		}
		before = waiting
		if !sleep(ctx, look) {
			return ctx.Err()
		}
	}
}

var errStalled = errors.New("the client takes nothing")

// close refuses whatever comes after.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
}
