package main

import (
	"slices"
	"time"
)

// load is what came of one phase of sending.
type load struct {
	sent, received, reordered int
	cpu                       time.Duration // of the server
	p50, p99                  time.Duration
}

// load calls send so many times at a rate, whatever the server does with it,
// flushes after each millisecond's worth, and waits for want events to come of it.
func (sd *side) load(rate, total, want int, send func(n int, at time.Duration)) (load, error) {
	c := sd.crowd
	c.collect()
	cpu := sd.process.cpu()
	begin := time.Since(c.start)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < total; {
		<-tick.C
		now := time.Since(c.start)
		due := min(int((now-begin).Seconds()*float64(rate)), total)
		for ; sent < due; sent++ {
			send(sent, now)
		}
		if err := sd.flush(); err != nil {
			return load{}, err
		}
	}
	c.settle(want)
	l := load{sent: want, cpu: sd.process.cpu() - cpu}
	var latencies []time.Duration
	latencies, l.received, l.reordered = c.collect()
	l.p50, l.p99 = quantiles(latencies)
	return l, nil
}

func quantiles(latencies []time.Duration) (p50, p99 time.Duration) {
	if len(latencies) == 0 {
		return 0, 0
	}
	slices.Sort(latencies)
	return latencies[len(latencies)/2], latencies[len(latencies)*99/100]
}

func (l load) show(col *column, name string) {
	perSecond := 0.0
	if l.cpu > 0 {
		perSecond = float64(l.received) / l.cpu.Seconds()
	}
	col.spread(perCore(name), "%.0f", perSecond, more)
	col.add(name+": p50, ms", "%.2f", millis(l.p50), less)
	col.add(name+": p99, ms", "%.1f", millis(l.p99), less)
	col.lose(name, l)
}

func perCore(name string) string { return name + ": events per core-second" }

func micros(d time.Duration) float64 { return float64(d) / 1e3 }
func millis(d time.Duration) float64 { return float64(d) / 1e6 }
