package job

import (
	"context"
	"iter"
)

// Read returns up to max frames after a seq, and the record; ErrNotFound if there is none. The status is read
// first: if it is terminal and the frames reach its Seq, that was all. max <= 0 means 1000.
func (s *Store) Read(ctx context.Context, id string, after int64, max int) ([]Frame, Status, error) {
	return nil, Status{}, errProtocol
}

// Follow yields the frames of a job after a seq, first from the log, then as they are appended, without gap or
// repetition, and ends after the terminal frame. It waits out an absence of Redis; it ends with an error when
// ctx does, with ErrNotFound if there is no such job and with ErrGone if Redis loses it.
// It holds one pub/sub connection; a gateway uses a Tail.
func (s *Store) Follow(ctx context.Context, id string, after int64) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) { yield(Frame{}, errProtocol) }
}
