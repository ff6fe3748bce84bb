package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// maxPage is how many frames are read from the log at once for one socket that
// catches up, and maxHeld for how many of its jobs at a time; the pauses are those between two tries to read it.
const (
	maxPage  = 1000
	maxHeld  = 4
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// A backlog of more frames than mergeOver is sent with its chunks merged, up to
// mergeSize bytes of text in one: a client that comes late has the text at once.
const (
	mergeOver = 32
	mergeSize = 256 << 10
)

// watch is one socket's place in one job's log. It is either live, fed by the
// tail as frames are appended, or catching up, reading pages of the log as fast
// as the client takes them. A client that falls behind while live goes back to
// catching up: what it lacks waits in Redis, not in the gateway.
type watch struct {
	s   *session
	box *outbox // the session's

	mu sync.Mutex
	// seq is the last frame sent. Once the watch is over it stays.
	seq int64
	// turn counts the restarts; a delivery or a page of an older turn is void.
	turn int
	over bool   // the terminal frame was sent, or the watch was left
	stop func() // ends the live feed of this turn, nil while catching up
	// reading says that catchUp is at work: it takes up a turn that begins meanwhile.
	reading bool

	job     string
	user    string // the job's, as events name it
	foreign bool   // somebody else's job, watched by an admin
	from    int64  // where the socket stood in the job when this watch was made
}

// begin follows the job from where the socket stands in it, unless that has
// begun already. A job that the socket has not seen anything of is followed
// live at once.
func (w *watch) begin() {
	w.mu.Lock()
	if w.turn > 0 || w.over {
		w.mu.Unlock()
		return
	}
	w.turn = 1
	w.s.c.lobby.enter(w, w.seq == 0)
	if w.from > 0 {
		w.read()
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	w.goLive(1)
}

// resume follows the job from the frame after seq on, which the client asked
// for: what it was sent of that before is sent again. False means that the watch
// is over.
func (w *watch) resume(seq int64) bool {
	w.mu.Lock()
	if w.over {
		w.mu.Unlock()
		return false
	}
	w.turn++
	w.seq = seq
	stop := w.stop
	w.stop = nil
	w.s.c.lobby.enter(w, seq == 0)
	w.read()
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
	return true
}

// read begins to catch up, unless somebody does: a client that resumes again and
// again has one reader. w.mu is held.
func (w *watch) read() {
	if !w.reading {
		w.reading = true
		w.s.spawn(w.catchUp)
	}
}

// end leaves the job. No frame is sent after it.
func (w *watch) end() {
	w.mu.Lock()
	w.turn++
	w.over = true
	stop := w.stop
	w.stop = nil
	w.mu.Unlock()
	w.s.c.lobby.leave(w)
	if stop != nil {
		stop()
	}
}

// finish ends a turn that found nothing more to send of a job that is over.
func (w *watch) finish(turn int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.turn != turn || w.over {
		return
	}
	w.over = true
	w.s.c.lobby.leave(w)
	w.s.forget(w)
}

// goLive joins the tail. The tail itself fills what was appended between the
// last page and now.
func (w *watch) goLive(turn int) {
	w.mu.Lock()
	if w.turn != turn || w.over {
		w.mu.Unlock()
		return
	}
	after := w.seq
	w.mu.Unlock()

	// Not under the lock: the tail may deliver before Watch returns.
	stop := w.s.c.tail.Watch(w.job, after, w, turn)

	w.mu.Lock()
	current := w.turn == turn && !w.over
	if current {
		w.stop = stop
	}
	w.mu.Unlock()
	if !current {
		stop()
	}
}

// Frames takes frames from the tail. It must not block: a client that is behind is
// moved to catching up.
func (w *watch) Frames(turn int, frames []job.Frame) {
	m := w.box.metrics
	if len(frames) > 1 || frames[0].From < frames[0].Seq {
		m.gaps.Inc()
	} else {
		m.live(&frames[0], time.Now())
	}
	left, on := w.send(turn, frames)
	if !on || len(left) == 0 {
		return
	}
	w.mu.Lock()
	if w.turn != turn || w.over {
		w.mu.Unlock()
		return
	}
	m.behind.Inc()
	w.turn++
	stop := w.stop
	w.stop = nil
	w.read()
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// catchUp reads the log for the watch's turn, and for those that begin meanwhile.
func (w *watch) catchUp(ctx context.Context) {
	for again := true; again; {
		w.mu.Lock()
		turn := w.turn
		w.mu.Unlock()
		w.readLog(ctx, turn)
		w.mu.Lock()
		again = w.turn != turn && !w.over && ctx.Err() == nil
		w.reading = again
		w.mu.Unlock()
	}
}

// readLog reads the log page by page, each when the client has taken the one
// before, and goes live behind the last.
func (w *watch) readLog(ctx context.Context, turn int) {
	pause := minPause
	for p := (pages{size: maxPage}); ; {
		on, err := w.sendPage(ctx, turn, &p)
		switch {
		case err != nil:
			// The client was told that it will get every frame: keep trying
			// for as long as it is there.
			w.s.log.Warn("log could not be read, trying again", "job", w.job, "error", err)
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, maxPause)
		case !on:
			return
		default:
			pause = minPause
		}
	}
}

// pages is how one turn reads the log.
type pages struct {
	size    int  // of the next one, in frames
	backlog bool // it is long: chunks are merged
}

// sendPage reads the next page and sends it. A few pages at a time are held for a
// socket, however many jobs it watches. False means that this turn is live, or has
// ended; an error, that the log can't be read now.
func (w *watch) sendPage(ctx context.Context, turn int, p *pages) (on bool, err error) {
	select {
	case w.s.pages <- struct{}{}:
		defer func() { <-w.s.pages }()
	case <-ctx.Done():
		return false, nil
	}
	w.mu.Lock()
	seq, current := w.seq, w.turn == turn && !w.over
	w.mu.Unlock()
	if !current {
		return false, nil
	}
	frames, st, err := w.s.c.store.Read(ctx, w.job, seq, p.size)
	switch {
	case ctx.Err() != nil:
		return false, nil
	case errors.Is(err, job.ErrNotFound) || errors.Is(err, job.ErrGone):
		w.s.complain(complaint{refused: *refuse(codeNotFound, "the job is gone"), JobID: w.job})
		w.end()
		w.s.forget(w)
		return false, nil
	case err != nil:
		return true, err
	}
	if len(frames) == 0 && st.State.Terminal() && seq >= st.Seq {
		w.finish(turn)
		return false, nil
	}
	whole := len(frames) < p.size
	if p.size = w.nextPage(frames); p.size < len(frames) { // larger than thought: the rest is read again
		frames, whole = slices.Clone(frames[:p.size]), false
	}
	if p.backlog = p.backlog || len(frames) > mergeOver; p.backlog {
		frames = job.Merge(frames, w.s.mergeSize())
	}
	for len(frames) > 0 {
		if err := w.box.room(ctx, len(frames[0].Data), w.s.c.stall); err != nil {
			if errors.Is(err, errStalled) {
				w.s.tooSlow()
			}
			return false, nil
		}
		var on bool
		if frames, on = w.send(turn, frames); !on {
			return false, nil
		}
	}
	if whole {
		w.goLive(turn)
		return false, nil
	}
	return true, nil
}

// nextPage says how many frames to read next, so that a page of large frames
// is about as large as what may wait for the client.
func (w *watch) nextPage(last []job.Frame) int {
	size := 0
	for _, f := range last {
		size += len(f.Raw)
	}
	if size == 0 {
		return maxPage
	}
	return max(1, min(maxPage, w.box.limit/2*len(last)/size))
}

// send writes the frames that come next, in order, until the client is behind,
// and returns those that are left. False means that this turn has ended:
// another began, the socket is closed, or the job is over.
func (w *watch) send(turn int, frames []job.Frame) (left []job.Frame, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range frames {
		f := &frames[i]
		if w.turn != turn || w.over {
			return nil, false
		}
		if f.Seq <= w.seq {
			continue
		}
		switch taken, open := w.box.offer(f.Event, f.Data); {
		case !open:
			return nil, false
		case !taken:
			return frames[i:], true
		}
		if w.seq == 0 {
			w.s.c.lobby.leave(w)
		}
		if f.From < f.Seq {
			w.box.metrics.merged.Add(float64(f.Seq - f.From + 1))
		}
		w.seq = f.Seq
		if f.Terminal() {
			w.over = true
			w.s.forget(w)
			return nil, false
		}
	}
	return nil, w.turn == turn && !w.over
}

// waiting tells the client where its job stands in the queue, unless it has left
// the queue.
func (w *watch) waiting(p queuedProgress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seq > 0 || w.over {
		return
	}
	p.JobID, p.UserID, p.Status = w.job, w.user, string(job.StateQueued)
	w.s.emit(job.EventProgress, p)
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
