package host

import (
	"errors"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// Outcomes of an attempt.
const (
	outcomeComplete   = "complete"
	outcomeFailed     = "failed"    // for good
	outcomeRetried    = "retried"   // failed; another attempt follows
	outcomeCancelled  = "cancelled" // by its user
	outcomeHandedOver = "handed_over"
	outcomeFenced     = "fenced" // another attempt owns the job
	outcomeGone       = "gone"   // Redis lost the job
	outcomeLeft       = "left"   // Redis was away until the host had to stop
)

// Report is what became of one attempt, for metrics. It names no user and holds
// no text.
type Report struct {
	Provider, Model string // empty when the attempt ended before one was found
	Outcome         string // complete, failed, retried, cancelled, handed_over, fenced, gone or left
	Kind            sdk.Kind
	Fault           sdk.Fault // Kind and Fault are empty unless the attempt failed for good
	Attempt         int64
	Pickup          time.Duration // from the acceptance of the job to the begin of the attempt, in ms of Redis's clock
	FirstChunk      time.Duration
	Took            time.Duration
	Usage           sdk.Usage
	Frames, Appends int64 // frames written, and calls to Redis for them
}

func (a *attempt) account(outcome string, err error) Report {
	r := Report{Attempt: a.Number, Pickup: a.Begun.Sub(a.Created), Model: a.model, Outcome: outcome, Took: a.took}
	if a.route.plugin != nil {
		r.Provider = a.route.plugin.name
	}
	if failed, ok := errors.AsType[*sdk.Error](err); ok {
		r.Kind, r.Fault = failed.Kind, failed.Fault
	}
	if first := a.answer.firstAt(); !first.IsZero() {
		r.FirstChunk = first.Sub(a.began)
	}
	if u, _ := a.answer.counted(); u != nil {
		r.Usage = *u
	}
	if a.stream != nil {
		r.Frames, r.Appends = a.stream.stats.Frames, a.stream.stats.Appends
	}
	return r
}
