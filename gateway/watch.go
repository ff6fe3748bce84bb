package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// pageSize is how many frames are read from the log at once for one socket that
// catches up.
const pageSize = 256

// watch is one socket's place in one job's log. It is either live, fed by the
// tail as frames are appended, or catching up, reading pages of the log as fast
// as the client takes them. A client that falls behind while live goes back to
// catching up: what it lacks waits in Redis, not in the gateway.
type watch struct {
	s   *session
	job string

	mu sync.Mutex
	// seq is the last frame sent.
	seq int64
	// turn counts the restarts; a delivery or a page of an older turn is void.
	turn int
	stop func() // ends the live feed of this turn, nil while catching up
	over bool   // the terminal frame was sent, or the watch was left
}

// start follows the job from the frame after seq on: live when nothing can have
// been missed yet (a job just created), else by catching up first.
func (w *watch) start(seq int64, fresh bool) {
	w.mu.Lock()
	w.turn++
	w.seq = seq
	turn, stop := w.turn, w.stop
	w.stop = nil
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
	if fresh {
		w.goLive(turn)
		return
	}
	w.s.spawn(func(ctx context.Context) { w.catchUp(ctx, turn) })
}

// end leaves the job. No frame is sent after it.
func (w *watch) end() {
	w.mu.Lock()
	w.turn++
	w.over = true
	stop := w.stop
	w.stop = nil
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
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
	stop := w.s.c.tail.Watch(w.job, after, func(frames []job.Frame) { w.live(turn, frames) })

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

// live takes frames from the tail. It must not block: a client that is behind
// is moved to catching up.
func (w *watch) live(turn int, frames []job.Frame) {
	if !w.send(turn, frames) {
		return
	}
	if !w.s.box.behind() {
		return
	}
	w.mu.Lock()
	if w.turn != turn || w.over {
		w.mu.Unlock()
		return
	}
	w.turn++
	next, stop := w.turn, w.stop
	w.stop = nil
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
	w.s.spawn(func(ctx context.Context) { w.catchUp(ctx, next) })
}

// catchUp reads the log page by page, each when the client has taken the one
// before, and goes live behind the last.
func (w *watch) catchUp(ctx context.Context, turn int) {
	pause := 50 * time.Millisecond
	for {
		if w.s.box.ready(ctx) != nil {
			return
		}
		w.mu.Lock()
		seq, current := w.seq, w.turn == turn && !w.over
		w.mu.Unlock()
		if !current {
			return
		}
		frames, _, err := w.s.c.store.Read(ctx, w.job, seq, pageSize)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, job.ErrNotFound) || errors.Is(err, job.ErrGone):
			w.s.complain(complaint{refused: *refuse(codeNotFound, "the job is gone"), JobID: w.job})
			w.s.forget(w)
			return
		case err != nil:
			// The client was told that it will get every frame: keep trying
			// for as long as it is there.
			w.s.log.Warn("log could not be read, trying again", "job", w.job, "err", err)
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, 2*time.Second)
			continue
		}
		pause = 50 * time.Millisecond
		if !w.send(turn, frames) {
			return
		}
		if len(frames) < pageSize {
			w.goLive(turn)
			return
		}
	}
}

// send writes the frames that come next, in order. False means that this turn
// has ended: another began, the socket is closed, or the job is over.
func (w *watch) send(turn int, frames []job.Frame) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range frames {
		if w.turn != turn || w.over {
			return false
		}
		if f.Seq <= w.seq {
			continue
		}
		if !w.s.box.send(encodeEvent(f.Event, f.Data)) {
			return false
		}
		w.seq = f.Seq
		if f.Terminal() {
			w.over = true
			w.s.forget(w)
			return false
		}
	}
	return w.turn == turn && !w.over
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
