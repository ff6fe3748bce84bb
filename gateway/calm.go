package gateway

import (
	"context"
	"runtime/debug"
	"time"
)

// A handshake leaves more garbage than its connection keeps, and when everybody
// has come nothing more is allocated that would have it collected. So a gateway
// collects once after a rush, when it is calm again: calmEvery with less than a
// hundredth of a rush in it.
const (
	calmEvery = 500 * time.Millisecond
	rush      = 500 // sockets that came or went
)

// calm finds the end of a rush.
type calm struct {
	collected, last int // sockets that had come or gone by then
}

// due is told how many sockets have come or gone so far.
func (c *calm) due(moves int) bool {
	quiet := moves-c.last <= rush/100
	c.last = moves
	if !quiet || moves-c.collected < rush {
		return false
	}
	c.collected = moves
	return true
}

// collectWhenCalm gives the garbage of each rush back to the system, until ctx
// ends.
func (h *hub) collectWhenCalm(ctx context.Context) {
	var c calm
	for sleep(ctx, calmEvery) {
		if c.due(h.moved()) {
			debug.FreeOSMemory()
		}
	}
}
