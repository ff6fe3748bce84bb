package host

import (
	"context"
	"slices"
	"sync"
)

// slots bound how many generations run at the same time: of a provider, whatever
// version of it they run in, or of the host. Who waits is served in turn. Safe
// for concurrent use.
type slots struct {
	mu      sync.Mutex
	limit   int
	used    int
	waiting []chan struct{} // each closed when its slot is there
	freed   func()          // called when one may be free that nobody waited for; may be nil
}

func newSlots(limit int) *slots { return &slots{limit: max(1, limit)} }

// set changes the limit. What runs goes on: a lower one is kept once enough of it
// has ended.
func (s *slots) set(limit int) {
	s.mu.Lock()
	s.limit = max(1, limit)
	s.serve()
	freed := s.freed
	s.mu.Unlock()
	if freed != nil {
		freed()
	}
}

// try takes a slot if one is free and nobody waits for it.
func (s *slots) try() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.limit || len(s.waiting) > 0 {
		return false
	}
	s.used++
	return true
}

// take takes a slot, or fails with ctx's cause.
func (s *slots) take(ctx context.Context) error {
	if s.try() {
		return nil
	}
	turn := make(chan struct{})
	s.mu.Lock()
	s.waiting = append(s.waiting, turn)
	s.serve()
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	before := len(s.waiting)
	s.waiting = slices.DeleteFunc(s.waiting, func(c chan struct{}) bool { return c == turn })
	mine := len(s.waiting) == before // it came in the same moment
	s.mu.Unlock()
	if mine {
		s.give()
	}
	return context.Cause(ctx)
}

// give gives a slot back.
func (s *slots) give() {
	s.mu.Lock()
	s.used--
	s.serve()
	freed := s.freed
	s.mu.Unlock()
	if freed != nil {
		freed()
	}
}

// back gives back a slot that was taken in vain: nobody is told.
func (s *slots) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.serve()
}

// serve hands free slots to those who wait. The caller holds mu.
func (s *slots) serve() {
	for len(s.waiting) > 0 && s.used < s.limit {
		s.used++
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
}
