package gateway

import (
	"context"
	"sync"
	"sync/atomic"
)

// outbox counts what was written to one socket and has not left for the
// network yet, and cuts the socket off when that passes a limit. It is the only
// way to a socket, so packets keep their order. Safe for concurrent use.
type outbox struct {
	// limit and low are bytes: over limit the client is cut off; at low or
	// below it counts as keeping up.
	limit, low int64
	// write hands one packet to the engine, which calls sent when it has been
	// given to the network or dropped. sent may be called inside write.
	write func(packet []byte, sent func())
	// overflow is called once, from the sender that passed the limit.
	overflow func()

	pending atomic.Int64

	mu     sync.Mutex // orders writes
	closed bool       // nothing is sent any more
	ended  bool       // and the last word was said

	waitMu  sync.Mutex
	waiters []waiter
}

// waiter is told when no more than level bytes are pending.
type waiter struct {
	level int64
	turn  chan struct{}
}

func newOutbox(limit int64, write func([]byte, func()), overflow func()) *outbox {
	return &outbox{limit: limit, low: limit / 4, write: write, overflow: overflow}
}

// send queues a packet. False means that the socket is closed, or closing now
// because this packet was too much.
func (o *outbox) send(packet []byte) bool {
	size := int64(len(packet))
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return false
	}
	if o.pending.Add(size) > o.limit {
		o.closed = true
		o.mu.Unlock()
		o.overflow()
		return false
	}
	o.write(packet, func() { o.sent(size) })
	o.mu.Unlock()
	return true
}

func (o *outbox) sent(size int64) {
	pending := o.pending.Add(-size)
	o.waitMu.Lock()
	defer o.waitMu.Unlock()
	still := o.waiters[:0]
	for _, w := range o.waiters {
		if pending <= w.level {
			close(w.turn)
		} else {
			still = append(still, w)
		}
	}
	o.waiters = still
}

// behind reports whether the client is so late that live frames should wait in
// the log instead of here.
func (o *outbox) behind() bool { return o.pending.Load() > o.limit/2 }

// ready returns when the client keeps up again, or with the context's error.
func (o *outbox) ready(ctx context.Context) error { return o.wait(ctx, o.low) }

// flushed returns when all that was sent has left, or with the context's error.
func (o *outbox) flushed(ctx context.Context) error { return o.wait(ctx, 0) }

func (o *outbox) wait(ctx context.Context, level int64) error {
	o.waitMu.Lock()
	if o.pending.Load() <= level {
		o.waitMu.Unlock()
		return ctx.Err()
	}
	turn := make(chan struct{})
	o.waiters = append(o.waiters, waiter{level, turn})
	o.waitMu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// last writes one more packet, whatever the limit says, and refuses all that
// comes after. Only the first call writes.
func (o *outbox) last(packet []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	o.closed, o.ended = true, true
	if packet != nil {
		size := int64(len(packet))
		o.pending.Add(size)
		o.write(packet, func() { o.sent(size) })
	}
}

// close refuses whatever comes after.
func (o *outbox) close() { o.last(nil) }
