package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/sluicehq/sluice/proto/job"
)

// plan is one job, and what its client will do.
type plan struct {
	id, user string
	model    string
	query    string
	params   map[string]any
	policy   string // of a job that is created without a gateway; "" is one that isn't
	priority string
	endless  bool // only a cancel ends it
	// cancel is after how many frames the client cancels: 0 right after the
	// ack, -1 never.
	cancel int
	// restless is the chance, per frame, that the client drops its connection.
	restless float64
	// stall is the chance, per frame, that it stops reading for a while.
	stall float64
	tab   bool // a second tab watches, too
}

var models = []string{"echo", "echo", "echo-sandbox", "gpt-chaos"}

// newPlan makes a job up.
func newPlan(rng *rand.Rand, user string) *plan {
	p := &plan{id: job.NewID(), user: user, cancel: -1}
	p.model = models[rng.IntN(len(models))]
	words := 10 + rng.IntN(120)
	var text strings.Builder
	text.WriteString(p.id)
	for i := range words {
		fmt.Fprintf(&text, " %d", i)
	}
	p.query = text.String()
	delay := []float64{2, 10, 30, 60}[rng.IntN(4)]
	switch n := rng.IntN(10); {
	case n == 0: // a cancel that may come too late
		p.cancel = rng.IntN(20)
	case n <= 2: // a cancel that has to come
		p.endless = true
		p.cancel = rng.IntN(25)
	}
	if p.model == "gpt-chaos" {
		m := manner{Job: p.id, DelayMS: delay, Endless: p.endless}
		switch n := rng.IntN(8); {
		case n == 0:
			m.Limited, m.WaitMS = 1, 200+rng.IntN(1500)
		case n == 1 && p.endless:
			m.Hold, p.cancel = true, 1+rng.IntN(2)
		}
		p.params = map[string]any{"options": map[string]any{"chaos": m}}
	} else {
		o := map[string]any{"delay_ms": delay}
		if p.endless {
			o["tokens"] = 1_000_000
		}
		p.params = map[string]any{"options": o}
	}
	switch rng.IntN(8) {
	case 0:
		p.policy = []string{job.PolicyRestart, job.PolicyContinue, job.PolicyFail}[rng.IntN(3)]
	case 1:
		p.priority = job.PriorityHigh
	case 2:
		p.priority = job.PriorityLow
	}
	p.restless = []float64{0, 0.01, 0.05, 0.2}[rng.IntN(4)]
	if rng.IntN(10) == 0 {
		p.stall = 0.02
	}
	p.tab = rng.IntN(6) == 0
	return p
}

// agrees tells whether text can be what the job answers so far, or whole.
func (p *plan) agrees(text string, whole bool) bool {
	if !p.endless {
		return text == p.query || !whole && strings.HasPrefix(p.query, text)
	}
	if whole {
		return false
	}
	for round := p.query + " "; len(text) > 0; {
		n := min(len(round), len(text))
		if text[:n] != round[:n] {
			return false
		}
		text = text[n:]
	}
	return true
}
