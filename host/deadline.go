package host

import (
	"context"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// deadlines ends a generation that takes too long:
//
//   - total counts from the start
//   - first counts from the start to the first chunk that is part of the
//     answer: thinking isn't, and nor is a sign of life
//   - idle counts from any chunk to the next, thinking and signs of life
//     included, but not while the host itself holds the plugin back
//
// A zero limit is none. The cause of the context is an *sdk.Error then.
type deadlines struct {
	total, first, idle *time.Timer // nil: no limit
	silence            time.Duration
}

func startDeadlines(total, first, idle time.Duration, cancel context.CancelCauseFunc) *deadlines {
	d := &deadlines{silence: idle}
	after := func(limit time.Duration, e *sdk.Error) *time.Timer {
		if limit <= 0 {
			return nil
		}
		return time.AfterFunc(limit, func() { cancel(e) })
	}
	d.total = after(total, &sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream, Code: codeTotal, Message: "no whole answer within " + total.String()})
	d.first = after(first, &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Code: codeFirstToken, Message: "no answer began within " + first.String()})
	d.idle = after(idle, &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream, Code: codeIdle, Message: "nothing came for " + idle.String()})
	stop(d.idle) // counts from the first chunk on
	return d
}

// arrived is told of each chunk. The silence is not counted until delivered.
func (d *deadlines) arrived(c sdk.Chunk) {
	stop(d.idle)
	switch c := c.(type) {
	case sdk.Reasoning, sdk.Usage, sdk.ProviderData:
		return
	case sdk.Text:
		if c == "" {
			return
		}
	}
	stop(d.first)
}

// delivered says that the host waits for the plugin again.
func (d *deadlines) delivered() {
	if d.idle != nil {
		d.idle.Reset(d.silence)
	}
}

func (d *deadlines) end() {
	stop(d.total)
	stop(d.first)
	stop(d.idle)
}

func stop(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}
