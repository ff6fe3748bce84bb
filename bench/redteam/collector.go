package main

import (
	"context"
	"runtime"
	"runtime/metrics"
	"time"
)

// collector keeps the garbage collector busy and measures it from outside: how
// long a whole cycle takes, which can't end while a goroutine can't be stopped,
// and how long the runtime took to stop the world.
type collector struct{ cycle, stop time.Duration }

// collect runs one cycle after the other until ctx is done.
func collect(ctx context.Context) (c collector) {
	before := stopping()
	for {
		began := time.Now()
		runtime.GC()
		c.cycle = max(c.cycle, time.Since(began))
		select {
		case <-ctx.Done():
			c.stop = longest(before, stopping())
			return c
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func stopping() *metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/pauses/stopping/gc:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64Histogram()
}

// longest is the upper bound of the highest bucket that was added to.
func longest(before, after *metrics.Float64Histogram) time.Duration {
	for i := len(after.Counts) - 1; i >= 0; i-- {
		if after.Counts[i] > before.Counts[i] {
			return time.Duration(after.Buckets[min(i+1, len(after.Buckets)-2)] * float64(time.Second))
		}
	}
	return 0
}
