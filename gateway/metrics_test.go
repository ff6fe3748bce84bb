package gateway

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// Names, units and help texts are as Prometheus wants them.
func TestMetricNames(t *testing.T) {
	m := newMetrics()
	m.gauge("sockets", "Sockets connected.", func() int { return 1 })
	m.refused(codeSlow)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(families) < 20 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
