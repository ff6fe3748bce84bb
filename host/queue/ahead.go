package queue

import (
	"context"
	"time"
)

// An ahead is a claim made while the tasks of the last one are being handed to
// asynq, which takes about as long as the round trip.
type ahead struct {
	line  *line
	n     int    // asked for
	rings uint64 // of the line, before it was asked
	got   int
	err   error
	back  chan struct{} // closed: got and err are there
}

// reach claims ahead from a line, if that is worth it: handlers are free beyond
// those that the held tasks will take, the line isn't known to be empty, and no
// other has a claim to be asked first. Only the processor goroutine calls it, or
// collect.
func (g *gate) reach(ctx context.Context, l *line, keys []string, args []any) {
	if a := g.ahead; a != nil {
		select {
		case <-a.back:
		default:
			return
		}
		if a.err != nil {
			return // take deals with it
		}
		_ = g.collect() // it has none
	}
	held, free := g.claims.spare()
	if l.empty || held >= g.claims.batch || free < max(1, g.claims.batch/2) || g.isStopped() {
		return
	}
	now := time.Now()
	for _, other := range g.order {
		if other != l && !other.quiet(now) {
			return
		}
	}
	if l.doors.Load() != l.shutDoors {
		return
	}
	a := &ahead{line: l, n: min(free, g.claims.batch), rings: l.rings.Load(), back: make(chan struct{})}
	if g.admit != nil {
		if a.n = min(a.n, g.admit(l.name, g.claims.have(l.name))); a.n <= 0 {
			return
		}
	}
	g.ahead = a
	go func() {
		defer close(a.back)
		a.got, a.err = g.claims.take(ctx, l, keys, args, a.n)
	}()
}

// collect waits for the claim ahead, if there is one.
func (g *gate) collect() error {
	a := g.ahead
	if a == nil {
		return nil
	}
	<-a.back
	g.ahead = nil
	g.learn(a.line, a.rings, a.n, a.got, a.err)
	return a.err
}
