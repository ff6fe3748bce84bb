package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// p is a percentile, by nearest rank.
func p(values []float64, percent float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	i := int(math.Ceil(percent/100*float64(len(sorted)))) - 1
	return sorted[max(0, i)]
}

// at prints the usual percentiles.
func at(v []float64) string {
	return fmt.Sprintf("p50 %-7.2f p90 %-7.2f p99 %-7.2f max %.2f", p(v, 50), p(v, 90), p(v, 99), p(v, 100))
}

func verdict(ok bool, target string) string {
	if ok {
		return "met, target " + target
	}
	return "MISSED, target " + target
}

func (b *bench) head(title string) { fmt.Fprintf(b.out, "\n%s\n", title) }

func (b *bench) row(name, seen, note string) {
	fmt.Fprintf(b.out, "  %-22s %s", name, seen)
	if note != "" {
		fmt.Fprintf(b.out, "   %s", note)
	}
	fmt.Fprintln(b.out)
}

// against prints two rates side by side. want 0 is no target.
func (b *bench) against(name string, ours, bull []float64, want float64) {
	seen := fmt.Sprintf("sluice %.0f", p(ours, 50))
	if bull == nil {
		b.row(name, seen, "")
		return
	}
	ratio := p(ours, 50) / p(bull, 50)
	note := ""
	if want > 0 {
		note = verdict(ratio >= want, fmt.Sprintf("≥ %.1f ×", want))
	}
	b.row(name, fmt.Sprintf("%s, BullMQ %.0f: %.2f ×", seen, p(bull, 50), ratio), note)
}
