package engine

import (
	"context"
	"sync/atomic"
	"time"
)

// pace chooses the batching window: from the time that writes take, and from how
// many messages a window joins.
type pace struct {
	window atomic.Int64 // nanoseconds, 0 for none
	writes atomic.Int64 // since the sample began; every timedWrite'th is timed
	joined atomic.Int64 // messages that were spared a write of their own
	spent  atomic.Int64 // time in writes
	since  atomic.Int64 // when the sample began
}

const (
	quietWindow = 2 * time.Millisecond
	paceSample  = 20 * time.Millisecond
	timedWrite  = 8
	// busyShare of one processor's time in writes makes a server busy. Writing is
	// about two thirds of what an event costs, so it is near its limit then.
	busyShare = 0.5
	// worthJoining is how many messages for each write a window beyond the quiet
	// one has to spare, or it only delays: streams that are slower than the window
	// have nothing to join.
	worthJoining = 0.2
)

// wrote counts a write of so many messages and says whether it is one of those
// whose time is to be taken.
func (p *pace) wrote(messages int) (timed bool) {
	if messages > 1 {
		p.joined.Add(int64(messages - 1))
	}
	return p.writes.Add(1)%timedWrite == 0
}

// took accounts for a timed write that began and ended at these times.
func (p *pace) took(began, ended int64, longest time.Duration) {
	p.spent.Add((ended - began) * timedWrite)
	since := p.since.Load()
	if ended-since < int64(paceSample) || !p.since.CompareAndSwap(since, ended) {
		return
	}
	writes, joined := p.writes.Swap(0), p.joined.Swap(0)
	share := float64(p.spent.Swap(0)) / float64(ended-since)
	p.window.Store(int64(nextWindow(time.Duration(p.window.Load()), share, float64(joined)/float64(max(writes, 1)), longest)))
}

// nextWindow opens a window step by step while the server is busy and the window
// joins so many messages for each write, and else closes it.
func nextWindow(window time.Duration, share, joined float64, longest time.Duration) time.Duration {
	switch {
	case share < busyShare/2, window > quietWindow && joined < worthJoining:
		window /= 2
	case share > busyShare:
		window *= 2
	}
	return max(min(max(window, quietWindow), longest), 0)
}

// inWindow says that a connection that wrote last at t is to wait.
func (s *Server) inWindow(t, now int64) bool {
	return t != 0 && now-t < s.pace.window.Load()
}

// delay has the flusher write for c within MaxDelay.
func (s *Server) delay(c *Conn) {
	s.late.Lock()
	s.late.conns = append(s.late.conns, c)
	first := len(s.late.conns) == 1
	s.late.Unlock()
	if first {
		select {
		case s.late.wake <- struct{}{}:
		default:
		}
	}
}

// flusher ends the batching windows: all that opened since the last time, at once.
func (s *Server) flusher(ctx context.Context) {
	var conns []*Conn
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.late.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(s.pace.window.Load())):
		}
		s.late.Lock()
		conns, s.late.conns = s.late.conns, conns[:0]
		s.late.Unlock()
		for _, c := range conns {
			c.flushDelayed()
		}
		clear(conns)
	}
}
