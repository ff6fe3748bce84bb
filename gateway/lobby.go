package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// How waiting jobs are looked at: every lobbyEvery all that are watched here, in
// batches, each costing two round trips whatever the length of the queue.
const (
	lobbyEvery = 2 * time.Second
	lobbyBatch = 500
	lobbyDepth = 1000
)

// lobby holds the watches whose jobs have no frame yet, and tells them where
// they stand in the queue. Safe for concurrent use.
type lobby struct {
	mu     sync.Mutex
	jobs   map[string]map[*watch]bool
	queued map[string]bool // that had a place at the last look

	// Used by one goroutine.
	seen  map[string]sight
	paces map[string]pace // of queues
}

// sight is where a job stood when it was last looked at.
type sight struct {
	place job.Place
	at    time.Time
	told  queuedProgress
}

// pace is how fast a queue moves, in jobs per second; 0 is unknown.
type pace float64

// next mixes in that the queue moved by so many jobs.
func (p pace) next(moved int, in time.Duration) pace {
	if in <= 0 {
		return p
	}
	now := pace(float64(moved) / in.Seconds())
	if p == 0 {
		return now
	}
	return 0.6*p + 0.4*now
}

// estimate is how long the place ahead takes; 0 is unknown.
func (p pace) estimate(places int) time.Duration {
	if p <= 0.001 {
		return 0
	}
	return time.Duration(float64(places) / float64(p) * float64(time.Second))
}

func newLobby() *lobby {
	return &lobby{jobs: map[string]map[*watch]bool{}, seen: map[string]sight{}, paces: map[string]pace{}}
}

// enter adds a watch that has seen nothing of its job yet, and forgets any other.
func (l *lobby) enter(w *watch, nothing bool) {
	if !nothing {
		l.leave(w)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs[w.job] == nil {
		l.jobs[w.job] = map[*watch]bool{}
	}
	l.jobs[w.job][w] = true
}

func (l *lobby) leave(w *watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.jobs[w.job], w)
	if len(l.jobs[w.job]) == 0 {
		delete(l.jobs, w.job)
	}
}

// stands reports whether a job's ticket was in the queue at the last look.
func (l *lobby) stands(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued[id]
}

func (l *lobby) waiting() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.jobs))
}

func (l *lobby) of(id string) []*watch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.jobs[id]))
}

// runLobby looks at the waiting jobs until ctx ends.
func (c *core) runLobby(ctx context.Context) {
	for sleep(ctx, lobbyEvery) {
		c.lookAtQueue(ctx, time.Now())
	}
}

// lookAtQueue tells those who wait where their jobs stand, if that has changed.
func (c *core) lookAtQueue(ctx context.Context, now time.Time) {
	l := c.lobby
	ids := l.waiting()
	places := map[string]job.Place{}
	for batch := range slices.Chunk(ids, lobbyBatch) {
		some, err := c.store.Places(ctx, batch, lobbyDepth)
		if err != nil {
			return // Redis is away: the clients know what they know
		}
		maps.Copy(places, some)
	}
	l.found(places)
	l.measure(places, now)
	list, sure := c.models.recent()
	hostless := sure && len(list) == 0
	for id := range l.seen {
		if _, still := places[id]; !still {
			delete(l.seen, id)
		}
	}
	for id, p := range places {
		told := l.describe(p, hostless)
		news := told != l.seen[id].told
		l.seen[id] = sight{place: p, at: now, told: told}
		if !news {
			continue
		}
		for _, w := range l.of(id) {
			w.waiting(told)
		}
	}
}

// found notes which jobs have a place.
func (l *lobby) found(places map[string]job.Place) {
	queued := make(map[string]bool, len(places))
	for id := range places {
		queued[id] = true
	}
	l.mu.Lock()
	l.queued = queued
	l.mu.Unlock()
}

// measure finds out how far each queue has moved since the last look. Jobs beyond
// the depth of a look say nothing.
func (l *lobby) measure(places map[string]job.Place, now time.Time) {
	type step struct {
		moved int
		in    time.Duration
	}
	steps := map[string]step{}
	for id, p := range places {
		before, known := l.seen[id]
		if !known || before.place.Ahead >= lobbyDepth {
			continue
		}
		moved := max(0, before.place.Ahead-p.Ahead)
		if s, ok := steps[p.Queue]; !ok || moved > s.moved {
			steps[p.Queue] = step{moved, now.Sub(before.at)}
		}
	}
	for q, s := range steps {
		l.paces[q] = l.paces[q].next(s.moved, s.in)
	}
}

// describe puts a place into words.
func (l *lobby) describe(p job.Place, hostless bool) queuedProgress {
	told := queuedProgress{Position: p.Ahead + 1}
	switch {
	case p.Ahead >= lobbyDepth:
		told.Message = fmt.Sprintf("more than %d jobs are ahead", lobbyDepth-1)
	case p.Ahead == 0:
		told.Message = "next in the queue"
	case p.Ahead == 1:
		told.Message = "1 job is ahead"
	default:
		told.Message = fmt.Sprintf("%d jobs are ahead", p.Ahead)
	}
	if hostless {
		told.Message += "; no host is running yet"
		return told
	}
	if about := roughly(l.paces[p.Queue].estimate(p.Ahead + 1)); about > 0 {
		told.EstimateMs = about.Milliseconds()
		told.Message += ", about " + spoken(about)
	}
	return told
}

// roughly rounds an estimate to what is worth saying, so that it doesn't change
// with every look.
func roughly(d time.Duration) time.Duration {
	switch {
	case d <= 0:
		return 0
	case d < 10*time.Second:
		return max(time.Second, d.Round(time.Second))
	case d < time.Minute:
		return d.Round(5 * time.Second)
	case d < 10*time.Minute:
		return d.Round(30 * time.Second)
	}
	return d.Round(5 * time.Minute)
}

// spoken writes a duration as people say it, and never a shorter one.
func spoken(d time.Duration) string {
	in := func(unit time.Duration, name string) string {
		n := int64((d + unit - 1) / unit)
		if n == 1 {
			return "1 " + name
		}
		return fmt.Sprintf("%d %ss", n, name)
	}
	switch {
	case d <= 59*time.Second:
		return in(time.Second, "second")
	case d <= 119*time.Minute:
		return in(time.Minute, "minute")
	}
	return in(time.Hour, "hour")
}
