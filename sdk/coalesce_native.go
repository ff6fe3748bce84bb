//go:build !wasip1

package sdk

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxPending bounds what waits while a send is in flight; one chunk may go over it.
const maxPending = 64 << 10

// coalescer is the emit of a native plugin. A chunk that finds the wire idle is sent at once; the
// ones emitted while a send is in flight go together in the next Batch. When maxPending is
// reached, emit waits.
type coalescer struct {
	ctx  context.Context
	send func(batch []byte) error

	mu      sync.Mutex
	wake    sync.Cond
	pending []byte // an encoded Batch
	closed  bool
	err     *Error
	ended   chan struct{} // the sender is done
}

func newCoalescer(ctx context.Context, send func(batch []byte) error) *coalescer {
	c := &coalescer{ctx: ctx, send: send, ended: make(chan struct{})}
	c.wake.L = &c.mu
	go c.sender()
	return c
}

func (c *coalescer) emit(chunk Chunk) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) >= maxPending && c.err == nil {
		c.wake.Wait()
	}
	switch {
	case c.closed:
		return &Error{Kind: Internal, Fault: Plugin, Message: "emit after Generate has returned"}
	case c.err != nil:
		return c.err
	case c.ctx.Err() != nil:
		return contextError(c.ctx)
	}
	was := len(c.pending)
	b, err := putChunk(c.pending, chunk)
	if err != nil {
		return err
	}
	c.pending = b
	if was == 0 {
		c.wake.Broadcast()
	}
	return nil
}

func (c *coalescer) sender() {
	defer close(c.ended)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.pending) == 0 && !c.closed {
			c.wake.Wait()
		}
		if len(c.pending) == 0 {
			return
		}
		batch := c.pending
		c.pending = nil // the wire keeps the batch
		c.wake.Broadcast()
		c.mu.Unlock()
		err := c.send(batch)
		c.mu.Lock()
		if err != nil {
			c.err = sendError(c.ctx, Host, "send chunks", err)
			c.wake.Broadcast()
			return
		}
	}
}

// close sends what is pending and waits for it.
func (c *coalescer) close() error {
	c.mu.Lock()
	c.closed = true
	c.wake.Broadcast()
	c.mu.Unlock()
	<-c.ended
	if c.err == nil {
		return nil // not a nil *Error in an error
	}
	return c.err
}

// putChunk appends a chunk as the next element of a Batch.
func putChunk(b []byte, c Chunk) ([]byte, error) {
	if t, ok := c.(Text); ok && len(t) < MaxChunk {
		s := string(t)
		if !utf8.ValidString(s) {
			s = strings.ToValidUTF8(s, "\uFFFD")
		}
		const tag = 1<<3 | wireBytes // of both Batch.chunks and Chunk.text
		var size [binary.MaxVarintLen64]byte
		n := binary.PutUvarint(size[:], uint64(len(s)))
		b = binary.AppendUvarint(append(b, tag), uint64(1+n+len(s)))
		b = append(append(b, tag), size[:n]...)
		return append(b, s...), nil
	}
	start := len(b)
	var kind uint32
	b = putMessage(b, 1, func(b []byte) []byte {
		if kind = chunkKind(c); kind == KindRefusal {
			return putStringAlways(b, int(kind), c.(Refusal))
		}
		return putMessage(b, int(kind), func(b []byte) []byte {
			_, b = EncodeChunk(b, c)
			return b
		})
	})
	switch {
	case kind == 0:
		return b[:start], &Error{Kind: Internal, Fault: Plugin, Message: fmt.Sprintf("emit of a %T, which is no chunk", c)}
	case len(b)-start > MaxChunk:
		return b[:start], &Error{Kind: Internal, Fault: Plugin, Message: "chunk larger than 32 MiB"}
	}
	return b, nil
}

func chunkKind(c Chunk) uint32 {
	switch c.(type) {
	case Text:
		return KindText
	case Reasoning:
		return KindReasoning
	case ToolCall:
		return KindToolCall
	case Refusal:
		return KindRefusal
	case Citation:
		return KindCitation
	case Image:
		return KindImage
	case Usage:
		return KindUsage
	case Finish:
		return KindFinish
	case ProviderData:
		return KindProviderData
	}
	return 0
}
