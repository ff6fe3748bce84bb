//go:build !wasip1

package sdk

import (
	"context"
	"time"
)

// Sleep pauses for d, or until nobody wants the answer any more: then it returns an error, to be
// returned. In a sandboxed plugin it is the only pause that notices.
func Sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	}
}
