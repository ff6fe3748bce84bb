package main

import (
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
)

func TestPercentiles(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	for percent, want := range map[float64]float64{0: 1, 20: 1, 50: 3, 99: 5, 100: 5} {
		if got := p(v, percent); got != want {
			t.Errorf("p%v is %v, want %v", percent, got, want)
		}
	}
	if !math.IsNaN(p(nil, 50)) {
		t.Error("no values have a median")
	}
}

func TestARateBelowItsTargetIsSaid(t *testing.T) {
	var out strings.Builder
	b := &bench{out: &out, log: slog.New(slog.DiscardHandler)}
	b.against("few", []float64{10}, []float64{10}, 1.5)
	b.against("many", []float64{20}, []float64{10}, 1.5)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "MISSED") || strings.Contains(lines[1], "MISSED") {
		t.Errorf("printed:\n%s", out.String())
	}
}

func TestUnknownFlagsAreRefused(t *testing.T) {
	if err := run(t.Context(), []string{"-nonsense"}, io.Discard, io.Discard); err == nil {
		t.Error("accepted")
	}
}
