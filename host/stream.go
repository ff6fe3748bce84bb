package host

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// mergeLimit is the size in bytes up to which waiting chunks of one kind grow
// into one frame. It is also what ends the window early.
const mergeLimit = 64 << 10

// sink is where the frames of one attempt go: a *job.Attempt. It takes the
// events it is given even when it fails with a job.Retryable error (other than
// job.ErrBacklog), and writes them with the next call, which may bring none.
type sink interface {
	Append(ctx context.Context, events ...job.Event) error
}

// stream writes the frames of one attempt behind the plugin's back. The plugin
// emits into a queue; one goroutine (run) empties it into the sink.
//
//   - The first chunk of the attempt, and the first of the answer's text, go
//     out at once. After that a chunk that follows a silence of a window goes
//     out at once too; any other waits for at most a window, and what arrives
//     meanwhile, or while a write is in flight, is merged with it.
//   - Merging keeps the order and never crosses a kind.
//   - What waits is bounded: at limit bytes for this attempt, or when the
//     host's budget is spent, emit blocks until there is room. A chunk larger
//     than the limit passes alone.
//   - While the sink is away the writer tries again, backing off, for as long
//     as its context lives. An error that says that the attempt is over ends
//     the stream: emit fails with it from then on, and over is called with it.
//
// emit may be called from several goroutines; the order between them is theirs.
type stream struct {
	sink   sink
	window time.Duration
	limit  int
	budget *semaphore.Weighted
	most   int64 // size of the budget
	over   func(error)

	mu      sync.Mutex
	waiting []piece
	queued  int           // bytes waiting
	size    int           // bytes held: waiting and in flight
	room    chan struct{} // closed and replaced when size shrinks
	err     error         // why nothing more is accepted
	closed  bool
	chunked bool // a chunk has been queued before
	texted  bool // answer text has been

	wake chan struct{} // one slot: there may be something to write now

	stats streamStats // of run alone; others read it once that has returned
}

// streamStats is what the stream did.
type streamStats struct {
	Appends, Frames int64
}

// piece is one entry of the queue: a chunk that may still grow, or an event.
type piece struct {
	chunk  sdk.Chunk
	text   []byte // the chunk's whole text, once others have been merged with it
	event  job.Event
	bytes  int   // as accounted in size
	budget int64 // as taken from the host's budget
	at     time.Time
	now    bool // doesn't wait for the window
}

func newStream(s sink, window time.Duration, limit int, budget *semaphore.Weighted, most int64, over func(error)) *stream {
	return &stream{
		sink: s, window: window, limit: limit, budget: budget, most: most, over: over,
		room: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

var errStreamClosed = errors.New("the answer has already ended")

// emit queues a chunk. It blocks while the queue is full and fails once nobody
// wants the answer, or when ctx ends, with ctx's cause.
func (s *stream) emit(ctx context.Context, c sdk.Chunk) error {
	n := chunkBytes(c)
	share := min(int64(n), s.most)
	if err := s.reserve(ctx, n); err != nil {
		return err
	}
	if !s.budget.TryAcquire(share) {
		if err := s.budget.Acquire(ctx, share); err != nil {
			s.release(n)
			return context.Cause(ctx)
		}
	}
	s.mu.Lock()
	if s.err != nil {
		err := s.err
		s.mu.Unlock()
		s.budget.Release(share)
		s.release(n)
		return err
	}
	s.queue(piece{chunk: c, bytes: n, budget: share})
	s.mu.Unlock()
	return nil
}

// push queues an event of the host's own. It never blocks: there are few of
// them and they are small.
func (s *stream) push(e job.Event) {
	s.mu.Lock()
	if s.err == nil && !s.closed {
		s.queue(piece{event: e, now: true})
	}
	s.mu.Unlock()
}

// reserve takes n bytes of the attempt's own bound.
func (s *stream) reserve(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		err, room := s.err, s.room
		if err == nil && s.closed {
			err = errStreamClosed
		}
		if err == nil && (s.size == 0 || s.size+n <= s.limit) {
			s.size += n
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// release gives n bytes of the attempt's bound back.
func (s *stream) release(n int) {
	s.mu.Lock()
	s.size -= n
	close(s.room)
	s.room = make(chan struct{})
	s.mu.Unlock()
}

// queue appends p to what waits, merged with the last piece where that is
// allowed, and wakes the writer if it has a reason to act. The caller holds mu.
func (s *stream) queue(p piece) {
	if p.chunk != nil && !s.chunked {
		s.chunked, p.now = true, true
	}
	if _, ok := p.chunk.(sdk.Text); ok && !s.texted {
		s.texted, p.now = true, true
	}
	s.queued += p.bytes
	if len(s.waiting) == 0 || p.now || s.queued >= mergeLimit || s.size >= s.limit {
		s.ring()
	}
	if n := len(s.waiting); n > 0 && p.chunk != nil && s.waiting[n-1].absorb(p) {
		return
	}
	p.at = time.Now()
	s.waiting = append(s.waiting, p)
}

// absorb merges next into p, if that crosses no kind and no limit.
func (p *piece) absorb(next piece) bool {
	if p.chunk == nil || p.bytes+next.bytes > mergeLimit || !mergeable(p.chunk, next.chunk) {
		return false
	}
	if p.text == nil {
		p.text = []byte(textOf(p.chunk))
	}
	p.text = append(p.text, textOf(next.chunk)...)
	p.bytes += next.bytes
	p.budget += next.budget
	p.now = p.now || next.now
	return true
}

func (s *stream) ring() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close says that no chunk follows. run returns when all is written.
func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.ring()
}

// fail ends the stream: what waits is dropped, and emit fails with err.
func (s *stream) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.drop()
	s.mu.Unlock()
	s.ring()
	if first && s.over != nil {
		s.over(err)
	}
}

// drop forgets what waits. The caller holds mu.
func (s *stream) drop() {
	for _, p := range s.waiting {
		s.size -= p.bytes
		s.budget.Release(p.budget)
	}
	s.waiting, s.queued = nil, 0
	close(s.room)
	s.room = make(chan struct{})
}

// run writes until the stream is closed and empty (nil), until the sink says
// that the attempt is over, or until ctx ends (its cause). Call it once.
func (s *stream) run(ctx context.Context) error {
	var last time.Time // when the last write ended
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, err := s.due(last)
		switch {
		case err != nil && errors.Is(err, errStreamClosed):
			return nil
		case err != nil:
			return err
		case wait > 0: // also "nothing waits": an hour
			timer.Reset(wait)
			select {
			case <-s.wake:
			case <-timer.C:
			case <-ctx.Done():
				s.fail(context.Cause(ctx))
			}
			continue
		}
		batch := s.take()
		if err := s.write(ctx, batch); err != nil {
			s.settle(batch)
			s.fail(err)
			return err
		}
		s.settle(batch)
		last = time.Now()
	}
}

// due says how long what waits may still wait: 0 is now.
func (s *stream) due(last time.Time) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return 0, s.err
	case len(s.waiting) == 0 && s.closed:
		return 0, errStreamClosed
	case len(s.waiting) == 0:
		return time.Hour, nil
	case s.closed || s.size >= s.limit || s.queued >= mergeLimit:
		return 0, nil
	}
	first := s.waiting[0].at
	if first.Sub(last) >= s.window {
		return 0, nil
	}
	for i := range s.waiting {
		if s.waiting[i].now {
			return 0, nil
		}
	}
	return max(0, time.Until(first.Add(s.window))), nil
}

func (s *stream) take() []piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.waiting
	s.waiting, s.queued = nil, 0
	return batch
}

// settle gives back what a written (or dropped) batch held.
func (s *stream) settle(batch []piece) {
	bytes, share := 0, int64(0)
	for i := range batch {
		bytes += batch[i].bytes
		share += batch[i].budget
	}
	s.budget.Release(share)
	s.release(bytes)
}

// write appends a batch, again and again while the sink is away.
func (s *stream) write(ctx context.Context, batch []piece) error {
	events := make([]job.Event, 0, len(batch))
	for _, p := range batch {
		switch {
		case p.event != nil:
			events = append(events, p.event)
		case p.text != nil:
			events = append(events, eventOf(withText(p.chunk, string(p.text))))
		default:
			events = append(events, eventOf(p.chunk))
		}
	}
	s.stats.Frames += int64(len(events))
	return appendAll(ctx, counted{s.sink, &s.stats.Appends}, events...)
}

// counted is a sink whose calls are counted.
type counted struct {
	sink
	calls *int64
}

func (c counted) Append(ctx context.Context, events ...job.Event) error {
	*c.calls++
	return c.sink.Append(ctx, events...)
}

// appendAll gives events to the sink once, and has it write them until it has.
func appendAll(ctx context.Context, to sink, events ...job.Event) error {
	full := false
	return persist(ctx, func(ctx context.Context) error {
		if full { // of earlier ones: they go first
			if err := to.Append(ctx); err != nil {
				return err
			}
		}
		err := to.Append(ctx, events...)
		if full = errors.Is(err, job.ErrBacklog); !full {
			events = nil // taken
		}
		return err
	})
}
