package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/sdk"
)

// delays are how much later than it was due each chunk of the neighbours
// reached the host.
type delays []time.Duration

func (d delays) quantile(percent int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// stream runs o.neighbours streams for as long as length, out of step with each
// other. A stream that fails, or loses a chunk, is an error.
func stream(ctx context.Context, f *field, o options, length time.Duration) (delays, error) {
	var mu sync.Mutex
	var all delays
	n := int(length / o.period)
	var group errgroup.Group
	for i := range o.neighbours {
		start := time.Now().Add(o.period + o.period*time.Duration(i)/time.Duration(o.neighbours))
		group.Go(func() error {
			own := make(delays, 0, n)
			req := ask("neighbour", fmt.Sprint(start.UnixNano(), o.period.Nanoseconds(), n))
			err := f.guest.Provider().Generate(ctx, req, func(c sdk.Chunk) error {
				due, err := strconv.ParseInt(fmt.Sprint(c), 10, 64)
				own = append(own, time.Duration(time.Now().UnixNano()-due))
				return err
			})
			if err == nil && len(own) != n {
				err = fmt.Errorf("%d chunks of %d", len(own), n)
			}
			if err != nil {
				return fmt.Errorf("neighbour: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			return nil
		})
	}
	err := group.Wait()
	return all, err
}
