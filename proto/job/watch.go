package job

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// tailJob is a job with watches; its fields are guarded by Tail.mu. With thousands of jobs each line of memory that
// a frame needs is a miss of the cache, and costs as much as parsing the frame: they stand together.
type tailJob struct {
	t       *Tail
	id      string
	moved   time.Duration // last message or check, on the Tail's clock
	watches []*watch      // replaced, never changed in place
	one     [1]*watch     // of watches, while first is the only one
	first   watch

	missing time.Time // since when Redis has no record of it
	waiting Ticket    // that it waits for
	waits   time.Time // since when, or when that was last reported
}

// watch is one cursor on one job. While it reads the log, live frames only raise seen; it stops reading when the
// log has nothing after what was seen, in the same step in which live frames are accepted again.
type watch struct {
	mu      sync.Mutex // held while the Watcher is told
	pos     int64      // last seq delivered
	seen    int64      // highest seq offered
	ended   atomic.Bool
	reading bool // queued to read the log, or reading
	again   bool // asked to read while reading
	to      Watcher
	turn    int
	job     *tailJob
}

func (w *watch) stop() {
	if w.ended.Swap(true) {
		return
	}
	j := w.job
	t := j.t
	t.mu.Lock()
	defer t.mu.Unlock()
	j.watches = without(j.watches, w)
	if len(j.watches) == 0 && t.jobs[j.id] == j {
		delete(t.jobs, j.id)
		t.l.remove(Channel(j.id))
	}
}

// offer hands a live frame to the watch.
func (w *watch) offer(frames []Frame) {
	f := &frames[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = max(w.seen, f.Seq)
	switch {
	case w.ended.Load() || w.reading || f.Seq <= w.pos:
	case f.From > w.pos+1:
		w.reading = true
		w.job.t.enqueue(w)
	default:
		w.pos = f.Seq
		w.to.Frames(w.turn, frames)
		if f.Terminal() {
			w.stop()
		}
	}
}

// wantRead makes the watch read the log after its position.
func (w *watch) wantRead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.again = true
	if !w.reading {
		w.reading = true
		w.job.t.enqueue(w)
	}
}

func (t *Tail) enqueue(w *watch) {
	t.mu.Lock()
	t.queue = append(t.queue, w)
	t.mu.Unlock()
	t.nudge()
}

func (t *Tail) nudge() {
	select {
	case t.poke <- struct{}{}:
	default:
	}
}

// readers serves the queue, one of several.
func (t *Tail) readers(ctx context.Context) {
	for {
		t.mu.Lock()
		var w *watch
		if n := len(t.queue); n > 0 {
			w = t.queue[0]
			t.queue[0] = nil
			if t.queue = t.queue[1:]; n == 1 {
				t.queue = nil
			}
		}
		more := len(t.queue) > 0
		t.mu.Unlock()
		if w == nil {
			select {
			case <-ctx.Done():
				return
			case <-t.poke:
			}
			continue
		}
		if more {
			t.nudge()
		}
		if ctx.Err() != nil {
			return
		}
		w.read(ctx)
	}
}

// read delivers the log after the watch's position until live frames can go on.
func (w *watch) read(ctx context.Context) {
	for {
		after, seen := w.place()
		if w.ended.Load() {
			return
		}
		frames, st, err := w.job.t.s.Read(ctx, w.job.id, after, pageSize)
		if !w.take(ctx, frames, st, err, seen) {
			return
		}
	}
}

// place is where to read from, and what had been seen before.
func (w *watch) place() (after, seen int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.again = false
	return w.pos, w.seen
}

// take delivers a page and reports whether another one should be read; seen is what had been seen before the page
// was read.
func (w *watch) take(ctx context.Context, frames []Frame, st Status, err error, seen int64) (more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended.Load() {
		return false
	}
	t := w.job.t
	if err != nil {
		w.reading = false // the next confirmation, gap or check of quiet jobs starts it again
		if !Retryable(err) && !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
			t.log.Error("log of a job can't be read", "job", w.job.id, "error", err)
			w.stop()
			if t.lost != nil {
				t.lost(w.job.id)
			}
		}
		return false
	}
	if n := len(frames); n > 0 {
		if frames[0].From > w.pos+1 {
			t.log.Warn("Redis lost frames of a job for good", "job", w.job.id, "from", w.pos+1, "to", frames[0].From-1)
		}
		w.pos = frames[n-1].Seq
		more = n >= pageSize
		if t.o.Merge >= 0 && n > t.o.Merge {
			frames = Merge(frames, t.o.MergeSize)
		}
		w.to.Frames(w.turn, frames)
	} else if w.seen == seen {
		w.seen = w.pos // what was seen beyond isn't there: Redis went back
	}
	if st.State.Terminal() && w.pos >= st.Seq && !more {
		w.stop()
		return false
	}
	if more || w.again || w.seen > w.pos {
		return true
	}
	w.reading = false
	return false
}

// checkBatch is how many quiet jobs one pipeline asks about.
const checkBatch = 256

// check asks for the position of jobs that have been quiet: a publication may have been lost, the last one too.
func (t *Tail) check(ctx context.Context) {
	tick := time.NewTicker(max(t.o.Quiet/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			var quiet []*tailJob
			now := t.now()
			t.mu.Lock()
			for _, j := range t.jobs {
				if now-j.moved >= t.o.Quiet {
					j.moved = now
					quiet = append(quiet, j)
				}
			}
			t.mu.Unlock()
			for len(quiet) > 0 {
				n := min(len(quiet), checkBatch)
				if !t.checkJobs(ctx, quiet[:n]) {
					break
				}
				quiet = quiet[n:]
			}
		}
	}
}

func (t *Tail) checkJobs(ctx context.Context, jobs []*tailJob) bool {
	metas := make([]*redis.SliceCmd, len(jobs))
	_, err := t.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, j := range jobs {
			metas[i] = p.HMGet(ctx, metaKey(j.id), "state", "seq", "attempt", "priority")
		}
		return nil
	})
	if err != nil {
		return false // Redis is away; a reconnection reads everything again
	}
	for i, j := range jobs {
		v := metas[i].Val()
		gone := v[0] == nil
		t.mu.Lock()
		watches := j.watches
		if !gone {
			j.missing = time.Time{}
		} else if j.missing.IsZero() {
			j.missing = time.Now()
		}
		lost := gone && time.Since(j.missing) >= t.o.Lost
		state, next := State(text(v[0])), Ticket{Job: j.id, Attempt: integer(v[2]) + 1}
		idle := false
		switch {
		case state != StateQueued && state != StateWaiting:
			j.waiting = Ticket{}
		case j.waiting != next:
			j.waiting, j.waits = next, time.Now()
		case time.Since(j.waits) >= t.o.Idle:
			idle, j.waits = true, time.Now()
		}
		t.mu.Unlock()
		if idle && len(watches) > 0 && t.idle != nil {
			t.idle(next, text(v[3]))
		}
		for _, w := range watches {
			switch {
			case lost:
				w.stop()
			case !gone:
				w.moved(integer(v[1]), state.Terminal())
			}
		}
		if lost && len(watches) > 0 && t.lost != nil {
			t.lost(j.id)
		}
	}
	return true
}

// moved compares the watch with the job's position.
func (w *watch) moved(seq int64, terminal bool) {
	w.mu.Lock()
	behind := seq > w.pos
	busy := w.reading
	w.mu.Unlock()
	switch {
	case behind:
		w.wantRead()
	case terminal && !busy:
		w.stop()
	}
}
