package gateway

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// seatPatience is how long a handshake waits for Redis to count its user's
// sockets on other gateways.
const seatPatience = time.Second

// maxSay is how many users' counts are written in one go.
const maxSay = 500

// seats count the sockets of each user who has a limit, here and over all
// gateways. A handshake takes a seat before its socket is let in: one round trip;
// what is given back is written by run, beside the sockets. While Redis is away
// only the sockets here are counted. Safe for concurrent use.
type seats struct {
	shared  *job.Seats
	log     *slog.Logger
	metrics *metrics
	beaten  atomic.Bool // there was a heartbeat: before it the others take this gateway for gone

	mu     sync.Mutex
	away   time.Time // until then Redis isn't asked: it has just not answered
	owners map[string]*tally
	dirty  map[string]bool // whose count has become smaller, not written yet
	news   chan struct{}   // holds one when dirty isn't empty
	// Seats of handshakes whose sockets have not come yet, and may never.
	pending map[*seat]<-chan struct{}
}

// tally counts the seats of one user.
type tally struct {
	taken int
	users int           // of this tally: seats, and whoever waits for its turn
	turn  chan struct{} // held by whoever writes the count, so that counts don't overtake each other
}

// seat is one socket's. The zero value is that of a user without a limit.
type seat struct {
	of    *seats
	owner string
	once  sync.Once
}

func newSeats(store *job.Store, log *slog.Logger, m *metrics) *seats {
	return &seats{
		shared: job.NewSeats(store, "gw-"+job.NewID()), log: log, metrics: m,
		owners: map[string]*tally{}, dirty: map[string]bool{}, news: make(chan struct{}, 1), pending: map[*seat]<-chan struct{}{},
	}
}

// take takes a seat for one more socket of an owner, who may have most (0 is no
// limit), or refuses. gone is closed when the connection has ended; it gives the
// seat back if the socket never came: see seat.sit.
func (s *seats) take(ctx context.Context, owner string, most int, gone <-chan struct{}) (*seat, error) {
	if most <= 0 {
		return &seat{}, nil
	}
	b := s.enter(owner)
	defer s.exit(owner, b)
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil, refuse(codeUnavailable, "too many connections at once: try again").after(socketWait)
	}
	s.mu.Lock()
	here, away := b.taken+1, time.Now().Before(s.away)
	s.mu.Unlock()
	if here > most {
		return nil, tooManySockets(most)
	}
	if !away && !s.beaten.Load() {
		s.beat(ctx)
		s.mu.Lock()
		away = time.Now().Before(s.away)
		s.mu.Unlock()
	}
	if !away {
		limited, cancel := context.WithTimeout(ctx, seatPatience)
		room, err := s.shared.Take(limited, owner, here, most)
		cancel()
		if err == nil && !room {
			return nil, tooManySockets(most)
		}
		s.answered(ctx, err)
		away = err != nil
	}
	taken := &seat{of: s, owner: owner}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.taken++
	b.users++
	s.pending[taken] = gone
	if away {
		s.metrics.fallbacks.Inc()
		s.mark(owner) // said when Redis is back
	}
	return taken, nil
}

// answered notes whether Redis did: while it is away nobody waits for it.
func (s *seats) answered(ctx context.Context, err error) {
	if ctx.Err() != nil { // it was not waited for
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.away
	s.away = time.Time{}
	if err == nil {
		return
	}
	s.away = time.Now().Add(job.SeatsBeat)
	if before.IsZero() {
		s.log.Warn("connections of users are counted here alone while Redis is away", "error", err)
	}
}

// sit says that the seat's socket has come: it gives the seat back itself.
func (t *seat) sit() {
	if t.of == nil {
		return
	}
	t.of.mu.Lock()
	delete(t.of.pending, t)
	t.of.mu.Unlock()
}

// leave gives the seat back; more than once is once.
func (t *seat) leave() {
	if t.of == nil {
		return
	}
	t.once.Do(func() {
		s := t.of
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.pending, t)
		b := s.owners[t.owner]
		b.taken--
		s.mark(t.owner)
		s.drop(t.owner, b)
	})
}

func (s *seats) enter(owner string) *tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.owners[owner]
	if b == nil {
		b = &tally{turn: make(chan struct{}, 1)}
		s.owners[owner] = b
	}
	b.users++
	return b
}

func (s *seats) exit(owner string, b *tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(owner, b)
}

// drop forgets a tally that nobody uses. mu is held.
func (s *seats) drop(owner string, b *tally) {
	if b.users--; b.users == 0 {
		delete(s.owners, owner)
	}
}

// mark has a count written. mu is held.
func (s *seats) mark(owner string) {
	s.dirty[owner] = true
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// markAll has every count written.
func (s *seats) markAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for owner := range s.owners {
		s.mark(owner)
	}
}

// run tells the other gateways that this one lives and what was given back, until
// ctx ends; then it takes this gateway away.
func (s *seats) run(ctx context.Context) {
	beat := time.NewTicker(job.SeatsBeat)
	defer beat.Stop()
	said := time.Now()
	s.beat(ctx)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), seatPatience)
			defer cancel()
			if err := s.shared.Leave(last); err != nil {
				s.log.Debug("the gateway's connections count until its heartbeat is old", "error", err)
			}
			return
		case <-s.news:
			if !s.say(ctx) && !sleep(ctx, seatPatience) {
				continue // to the end
			}
		case <-beat.C:
			s.sweep()
			s.beat(ctx)
			if time.Since(said) >= job.SeatsRenew {
				said = time.Now()
				s.markAll()
			}
		}
	}
}

func (s *seats) beat(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, seatPatience)
	defer cancel()
	known, err := s.shared.Beat(limited)
	s.answered(ctx, err)
	if err == nil {
		s.beaten.Store(true)
	}
	if err == nil && !known {
		s.markAll() // Redis has forgotten, or the others have
	}
}

// sweep gives back the seats of handshakes whose connections have ended before
// there was a socket.
func (s *seats) sweep() {
	s.mu.Lock()
	var left []*seat
	for t, gone := range s.pending {
		select {
		case <-gone:
			left = append(left, t)
		default:
		}
	}
	s.mu.Unlock()
	for _, t := range left {
		t.leave()
	}
}

// say writes the counts that have changed. False: Redis is away, and they are to
// be written later.
func (s *seats) say(ctx context.Context) bool {
	s.mu.Lock()
	var owners []string
	for owner := range s.dirty {
		if len(owners) == maxSay {
			break
		}
		owners = append(owners, owner)
		delete(s.dirty, owner)
	}
	s.mu.Unlock()
	here := map[string]int{}
	for _, owner := range owners {
		b := s.enter(owner)
		defer s.exit(owner, b)
		select { // whoever has the turn waits for Redis, not for us
		case b.turn <- struct{}{}:
			defer func() { <-b.turn }()
		case <-ctx.Done():
			return false
		}
		s.mu.Lock()
		here[owner] = b.taken
		s.mu.Unlock()
	}
	limited, cancel := context.WithTimeout(ctx, seatPatience)
	defer cancel()
	err := s.shared.Say(limited, here)
	s.answered(ctx, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		for owner := range here {
			s.mark(owner)
		}
	}
	if len(s.dirty) > 0 {
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
	return err == nil
}
