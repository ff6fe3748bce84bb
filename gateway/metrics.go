package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sluicehq/sluice/proto/job"
)

// metrics counts what the gateway does, in a registry of its own. A nil one
// counts nothing. Safe for concurrent use.
type metrics struct {
	registry *prometheus.Registry

	out, in   family // events by name
	bytes     prometheus.Counter
	latency   prometheus.Histogram
	starts    prometheus.Counter
	resumes   prometheus.Counter
	gaps      prometheus.Counter
	merged    prometheus.Counter
	behind    prometheus.Counter
	cutOff    prometheus.Counter
	refusals  *prometheus.CounterVec
	legacy    prometheus.Counter
	requeued  prometheus.Counter
	fallbacks prometheus.Counter
}

// family is a counter by event name. Names that aren't known are counted
// together: clients and older workers make up as many as they like.
type family struct {
	known map[string]prometheus.Counter
	other prometheus.Counter
}

func (f family) of(name string) prometheus.Counter {
	if c := f.known[name]; c != nil {
		return c
	}
	return f.other
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	events := m.vec("events_total", "Events, by direction and name.", "direction", "event")
	m.out, m.in = family{known: map[string]prometheus.Counter{}}, family{known: map[string]prometheus.Counter{}}
	for _, name := range []string{
		eventConnected, eventComplaint, eventModels, eventExpiring,
		job.EventStarted, job.EventStart, job.EventChunk, job.EventDelta, job.EventComplete,
		job.EventError, job.EventProgress, job.EventCancelled,
	} {
		m.out.known[name] = events.WithLabelValues("out", name)
	}
	for name := range handlers {
		m.in.known[name] = events.WithLabelValues("in", name)
	}
	m.out.other, m.in.other = events.WithLabelValues("out", "other"), events.WithLabelValues("in", "other")
	m.bytes = m.counter("bytes_total", "Bytes of event data handed to sockets.")
	m.starts = m.counter("jobs_started_total", "Jobs accepted.")
	m.resumes = m.counter("resumes_total", "Jobs resumed by clients.")
	m.gaps = m.counter("gaps_filled_total", "Times that frames which had not come over the channel were taken from a job's log.")
	m.merged = m.counter("merged_chunks_total", "Chunks that went to a socket inside of a larger one.")
	slow := m.vec("slow_clients_total", "Clients that took less than they watched: behind is fed from the log, cut_off was disconnected.", "what")
	m.behind, m.cutOff = slow.WithLabelValues("behind"), slow.WithLabelValues(codeSlow)
	m.refusals = m.vec("refusals_total", "Refused events, connections and requests, by code.", "code")
	m.legacy = m.counter("legacy_messages_total", "Messages of older workers that were forwarded.")
	m.requeued = m.counter("tickets_requeued_total", "Tickets enqueued again because a watched job had waited for long.")
	m.fallbacks = m.counter("limit_fallbacks_total", "Starts and connections judged by this gateway alone, because Redis was away.")
	m.latency = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "sluice", Subsystem: "gateway", Name: "publish_to_write_seconds",
		Help:    "From a frame's timestamp, by its host's clock, to the socket's outbox; live frames only.",
		Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
	})
	m.registry.MustRegister(m.latency)
	return m
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sluice", Subsystem: "gateway", Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *metrics) vec(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sluice", Subsystem: "gateway", Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

// gauge registers a value that is asked for when somebody looks.
func (m *metrics) gauge(name, help string, value func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Namespace: "sluice", Subsystem: "gateway", Name: name, Help: help},
		func() float64 { return float64(value()) }))
}

// sent counts an event on its way to a socket.
func (m *metrics) sent(event string, size int) {
	if m == nil {
		return
	}
	m.out.of(event).Inc()
	m.bytes.Add(float64(size))
}

// refused counts a refusal.
func (m *metrics) refused(code string) {
	if m != nil {
		m.refusals.WithLabelValues(code).Inc()
	}
}

// live observes how long ago a frame was published.
func (m *metrics) live(f *job.Frame, now time.Time) {
	if m != nil && f.Time > 0 {
		m.latency.Observe(max(0, float64(now.UnixMicro()-1000*f.Time)/1e6))
	}
}
