package host

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// The pauses between two tries while Redis is away.
const (
	persistMin = 10 * time.Millisecond
	persistMax = 500 * time.Millisecond
)

// persist calls do until it succeeds, is refused, or ctx ends (its cause).
func persist(ctx context.Context, do func(context.Context) error) error {
	for pause := persistMin; ; pause = min(2*pause, persistMax) {
		err := do(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !job.Retryable(err):
			return err
		}
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return context.Cause(ctx)
		}
	}
}

// sleep waits for d and reports whether it could.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lingering returns a context that outlives ctx by d, with ctx's values and cause.
func lingering(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var timer *time.Timer
	armed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(armed)
		timer = time.AfterFunc(d, func() { cancel(context.Cause(ctx)) })
	})
	return out, func() {
		if !stop() {
			<-armed
			timer.Stop()
		}
		cancel(context.Canceled)
	}
}
