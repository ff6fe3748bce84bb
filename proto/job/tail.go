package job

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	defaultQuiet = 1500 * time.Millisecond
	defaultLost  = 15 * time.Second
	defaultIdle  = 10 * time.Second
)

// TailOptions of a Tail; the zero value is usable.
type TailOptions struct {
	Quiet     time.Duration // a watched job without frames for so long has its position checked; 0 = 1.5 s
	Lost      time.Duration // a watched job without a record for so long is reported lost; 0 = 15 s
	Idle      time.Duration // a watched job that waits for a host for so long is reported idle, again and again; 0 = 10 s
	Merge     int           // catch-up of more frames than this comes with chunks merged; 0 = 16, < 0 = never
	MergeSize int           // bytes of text in one merged chunk; 0 = 64 KiB
	Readers   int           // catch-up reads at a time; 0 = 4
}

// Tail follows many jobs and users over one pub/sub connection. Safe for concurrent use.
//
// It buffers nothing: a frame that can't be delivered in its turn makes the watch read the log instead.
// It outlives any absence of Redis and misses nothing: it reads the log of every watched job again after a
// (re)subscription, on a gap of seq, and when a quiet job's position has moved.
type Tail struct {
	s      *Store
	log    *slog.Logger
	o      TailOptions
	l      *listener
	start  time.Time
	legacy func(channel string, payload []byte)
	lost   func(id string)
	idle   func(next Ticket, priority string)

	// Used by the receiver alone.
	down bool
	one  [1]Frame // the slice that watches are lent

	mu    sync.Mutex
	jobs  map[string]*tailJob
	users map[string][]*userWatch // slices are replaced, never changed in place
	live  map[string]struct{}     // channels whose subscription is confirmed
	queue []*watch                // that want to read the log; each at most once
	poke  chan struct{}
}

// NewTail returns a Tail; nothing happens before Run.
func NewTail(s *Store, log *slog.Logger, o TailOptions) *Tail {
	if o.Quiet <= 0 {
		o.Quiet = defaultQuiet
	}
	if o.Lost <= 0 {
		o.Lost = defaultLost
	}
	if o.Idle <= 0 {
		o.Idle = defaultIdle
	}
	if o.Merge == 0 {
		o.Merge = 16
	}
	if o.MergeSize <= 0 {
		o.MergeSize = 64 << 10
	}
	if o.Readers <= 0 {
		o.Readers = 4
	}
	return &Tail{
		s: s, log: log, o: o, l: newListener(s.rdb), start: time.Now(),
		jobs: make(map[string]*tailJob), users: make(map[string][]*userWatch), live: make(map[string]struct{}),
		poke: make(chan struct{}, 1),
	}
}

// Legacy sets the receiver of messages without seq, on the general channels and on job:<id> of watched jobs.
// Called before Run; without it the general channels are not subscribed. f must not block.
func (t *Tail) Legacy(f func(channel string, payload []byte)) {
	t.legacy = f
	t.l.add(ChunkChannel, CompleteChannel, ProgressChannel)
}

// Lost sets the receiver of the ids of watched jobs whose record Redis has lost and no host has seeded again
// within TailOptions.Lost; the watch has ended. Called before Run. f must not block.
func (t *Tail) Lost(f func(id string)) { t.lost = f }

// Idle sets the receiver of tickets that watched jobs wait for: Redis may have lost the ticket and kept the job.
// Enqueue it: if it is there already, nothing happens. Called before Run; f is called from one goroutine, which
// checks no positions meanwhile.
func (t *Tail) Idle(f func(next Ticket, priority string)) { t.idle = f }

// Run follows until ctx ends and returns ctx's error when everything it started has ended.
func (t *Tail) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range t.o.Readers {
		wg.Go(func() { t.readers(ctx) })
	}
	wg.Go(func() { t.check(ctx) })
	t.l.listen(ctx, (*tailReceiver)(t))
	wg.Wait()
	return ctx.Err()
}

// Watcher is told the frames of a job that it watches.
type Watcher interface {
	// Frames gets one or more frames. It must not block and must not keep the slice (the bytes it may keep, not
	// change); it may call Watch, and the stop that Watch has returned.
	Frames(turn int, frames []Frame)
}

// WatchFunc is a Watcher that watches once.
type WatchFunc func(frames []Frame)

// Frames calls f.
func (f WatchFunc) Frames(_ int, frames []Frame) { f(frames) }

// Watch tells to the frames of a job after a seq: in order, each once, contiguous (a merged chunk covers
// From..Seq), never two calls at a time for one watch. Only where Redis has lost frames for good there is a hole.
// It ends by itself after the terminal frame. A call under way may end after stop returned: whoever watches again
// knows by its turn, which is handed through, what belongs to which watch.
func (t *Tail) Watch(id string, after int64, to Watcher, turn int) (stop func()) {
	t.mu.Lock()
	j := t.jobs[id]
	var w *watch
	if j == nil {
		j = &tailJob{t: t, id: id, moved: t.now()}
		w = &j.first
		j.watches = append(j.one[:0], w)
		t.jobs[id] = j
		t.l.add(Channel(id))
	} else {
		w = new(watch)
		j.watches = append(j.watches[:len(j.watches):len(j.watches)], w)
	}
	w.job, w.pos, w.to, w.turn = j, after, to, turn
	_, live := t.live[Channel(id)]
	t.mu.Unlock()
	if live {
		w.wantRead()
	} // else the confirmation of the subscription, or the check of quiet jobs, starts it
	return w.stop
}

type userWatch struct{ deliver func(Frame) }

// WatchUser delivers what is published for an owner, Owner(tenant, user): job:started frames, as long as it is connected (nothing is
// kept for later). Same rules for deliver as Watch.
func (t *Tail) WatchUser(owner string, deliver func(Frame)) (stop func()) {
	w := &userWatch{deliver}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.users[owner]) == 0 {
		t.l.add(UserChannel(owner))
	}
	t.users[owner] = append(t.users[owner][:len(t.users[owner]):len(t.users[owner])], w)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if left := without(t.users[owner], w); len(left) > 0 {
			t.users[owner] = left
		} else if _, there := t.users[owner]; there {
			delete(t.users, owner)
			t.l.remove(UserChannel(owner))
		}
	}
}

// without returns a copy of s that lacks x.
func without[T comparable](s []T, x T) []T {
	out := make([]T, 0, len(s))
	for _, v := range s {
		if v != x {
			out = append(out, v)
		}
	}
	return out
}

// tailReceiver is a Tail as its listener sees it.
type tailReceiver Tail

func (r *tailReceiver) disconnected(err error) {
	t := (*Tail)(r)
	t.mu.Lock()
	clear(t.live)
	n := len(t.jobs)
	t.mu.Unlock()
	if !t.down {
		t.down = true
		t.log.Warn("pub/sub connection lost, connecting again", "watched", n, "error", err)
	}
}

func (r *tailReceiver) confirmed(channel string, on bool) {
	t := (*Tail)(r)
	if t.down {
		t.down = false
		t.log.Info("pub/sub connection is back")
	}
	t.mu.Lock()
	if !on {
		delete(t.live, channel)
		t.mu.Unlock()
		return
	}
	t.live[channel] = struct{}{}
	var watches []*watch
	if id, ok := strings.CutPrefix(channel, jobChannelPrefix); ok {
		if j := t.jobs[id]; j != nil {
			watches = j.watches
		}
	}
	t.mu.Unlock()
	for _, w := range watches {
		w.wantRead()
	}
}

func (r *tailReceiver) message(channel, payload []byte) {
	t := (*Tail)(r)
	switch string(channel) {
	case ChunkChannel, CompleteChannel, ProgressChannel:
		if t.legacy != nil && !hasSeq(payload) {
			t.legacy(string(channel), payload)
		}
		return
	}
	if user, ok := bytes.CutPrefix(channel, []byte(userChannelPrefix)); ok {
		t.started(string(user), payload)
		return
	}
	id, _ := bytes.CutPrefix(channel, []byte(jobChannelPrefix))
	now := t.now()
	t.mu.Lock()
	j := t.jobs[string(id)]
	if j == nil {
		t.mu.Unlock()
		return
	}
	j.moved = now
	watches := j.watches
	t.mu.Unlock()
	f, err := parseFrame(payload, j.id)
	switch {
	case (err != nil || f.Seq == 0) && t.legacy != nil:
		t.legacy(string(channel), payload)
	case err != nil:
		t.log.Warn("malformed message dropped", "channel", string(channel), "error", err)
	case f.Seq > 0 && f.Job == j.id:
		t.one[0] = f
		for _, w := range watches {
			w.offer(t.one[:])
		}
	}
}

// now is the time since t was made.
func (t *Tail) now() time.Duration { return time.Since(t.start) }

// started delivers what is published for an owner.
func (t *Tail) started(owner string, payload []byte) {
	t.mu.Lock()
	watches := t.users[owner]
	t.mu.Unlock()
	f, err := ParseFrame(payload)
	if err != nil {
		t.log.Warn("malformed message dropped", "channel", UserChannel(owner), "error", err)
		return
	}
	for _, w := range watches {
		w.deliver(f)
	}
}

// hasSeq tells our own frames on the general channels, of which job:<id> brings the same, from legacy messages.
func hasSeq(payload []byte) bool {
	s := scanner{b: payload}
	if f := s.head(""); !s.failed {
		return f.Seq > 0
	}
	f, err := ParseFrame(payload)
	return err == nil && f.Seq > 0
}
