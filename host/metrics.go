package host

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
)

// metrics counts what a host does, in a registry of its own. They name no user
// and no model, of which there are as many as clients make up. A nil one has no
// attempts to count. Safe for concurrent use.
type metrics struct {
	registry *prometheus.Registry

	begun      prometheus.Counter
	attempts   *prometheus.CounterVec // by provider and outcome
	failures   *prometheus.CounterVec // by kind and fault
	pickup     *prometheus.HistogramVec
	firstChunk *prometheus.HistogramVec
	took       *prometheus.HistogramVec
	tokens     *prometheus.CounterVec
	frames     prometheus.Counter
	appends    prometheus.Counter
	takenOver  prometheus.Counter
	reissued   prometheus.Counter
	redis      *prometheus.CounterVec // errors, by code
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.begun = m.counter("attempts_begun_total", "Attempts that a provider was asked for.")
	m.attempts = m.vec("attempts_total", "Attempts that have ended, by outcome. Those with complete, failed and cancelled ended their job; "+
		"those with retried are followed by another.", "provider", "outcome")
	m.failures = m.vec("failures_total", "Jobs that failed for good, by the kind of error and whose fault it was.", "kind", "fault")
	m.pickup = m.histogram("pickup_seconds", "From the acceptance of a job to the begin of its first attempt, by Redis's clock.",
		[]float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300})
	m.firstChunk = m.histogram("first_chunk_seconds", "From the begin of an attempt to its first chunk.",
		[]float64{.001, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120}, "provider")
	m.took = m.histogram("attempt_seconds", "How long attempts took.",
		[]float64{.01, .1, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 7200}, "provider")
	m.tokens = m.vec("tokens_total", "Tokens that providers say they used: input, output, reasoning (within output), cache_read and cache_write.", "provider", "kind")
	m.frames = m.counter("frames_total", "Frames written to the logs of jobs.")
	m.appends = m.counter("appends_total", "Calls to Redis that wrote them.")
	m.takenOver = m.counter("jobs_taken_over_total", "Jobs of dead hosts that were given back to the queue here.")
	m.reissued = m.counter("tickets_reissued_total", "Jobs that waited without a ticket and were given another.")
	m.redis = m.vec("redis_errors_total", "Calls to Redis that failed: by what Redis said, or unreachable.", "code")
	m.redis.WithLabelValues(unreachable)
	return m
}

func (m *metrics) opts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: "sluice", Subsystem: "host", Name: name, Help: help}
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts(m.opts(name, help)))
	m.registry.MustRegister(c)
	return c
}

func (m *metrics) vec(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts(m.opts(name, help)), labels)
	m.registry.MustRegister(c)
	return c
}

func (m *metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "sluice", Subsystem: "host", Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(h)
	return h
}

// gauge registers a value that is asked for when somebody looks.
func (m *metrics) gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts(m.opts(name, help)), value))
}

// began counts an attempt that has found its place.
func (m *metrics) began() {
	if m != nil {
		m.begun.Inc()
	}
}

// ended counts an attempt.
func (m *metrics) ended(r Report) {
	m.attempts.WithLabelValues(r.Provider, r.Outcome).Inc()
	if r.Kind != "" {
		m.failures.WithLabelValues(string(r.Kind), string(r.Fault)).Inc()
	}
	if r.Attempt == 1 {
		m.pickup.WithLabelValues().Observe(max(0, r.Pickup.Seconds()))
	}
	if r.Provider == "" {
		return
	}
	m.took.WithLabelValues(r.Provider).Observe(r.Took.Seconds())
	if r.FirstChunk > 0 {
		m.firstChunk.WithLabelValues(r.Provider).Observe(r.FirstChunk.Seconds())
	}
	for kind, n := range map[string]int{
		"input": r.Usage.Input, "output": r.Usage.Output, "reasoning": r.Usage.Reasoning,
		"cache_read": r.Usage.CacheRead, "cache_write": r.Usage.CacheWrite,
	} {
		if n > 0 {
			m.tokens.WithLabelValues(r.Provider, kind).Add(float64(n))
		}
	}
	m.frames.Add(float64(r.Frames))
	m.appends.Add(float64(r.Appends))
}

// watch has the metrics tell how a host stands.
func (m *metrics) watch(h *host) {
	m.gauge("running_jobs", "Jobs being worked on.", func() float64 { return float64(len(h.worker.running.ids())) })
	m.gauge("concurrency", "Jobs that may run at the same time.", func() float64 { return float64(h.worker.config.Concurrency) })
	m.gauge("heartbeat_age_seconds", "Since the last heartbeat that Redis acknowledged; 0 before the first.", func() float64 {
		if last := h.hosts.LastBeat(); !last.IsZero() {
			return time.Since(last).Seconds()
		}
		return 0
	})
	m.registry.MustRegister(newPluginMetrics(h.plugins))
}

// pluginMetrics tells how the plugins stand at the moment somebody asks.
type pluginMetrics struct {
	plugins                  *catalogue
	state, restarts, refused *prometheus.Desc
}

func newPluginMetrics(plugins *catalogue) *pluginMetrics {
	return &pluginMetrics{
		plugins:  plugins,
		state:    prometheus.NewDesc("sluice_host_plugin_state", "1 for the state that a plugin is in.", []string{"provider", "state"}, nil),
		restarts: prometheus.NewDesc("sluice_host_plugin_restarts_total", "Processes of a plugin that were lost.", []string{"provider"}, nil),
		refused: prometheus.NewDesc("sluice_host_plugin_folders_refused", "Folders whose plugin, or the new version of whose plugin, could not be used.",
			nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (p *pluginMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- p.state
	out <- p.restarts
	out <- p.refused
}

// Collect implements prometheus.Collector.
func (p *pluginMetrics) Collect(out chan<- prometheus.Metric) {
	told := map[string]bool{} // of two folders with one name, the one in service
	tell := func(provider, state string) {
		told[provider] = true
		for _, s := range []string{PluginUp, PluginDown, PluginOpen, PluginRefused, PluginDisabled} {
			is := 0.0
			if s == state {
				is = 1
			}
			out <- prometheus.MustNewConstMetric(p.state, prometheus.GaugeValue, is, provider, s)
		}
	}
	for _, e := range p.plugins.embedded {
		tell(e.name, PluginUp)
	}
	folders := p.plugins.standing()
	slices.SortStableFunc(folders, func(a, b folder) int {
		switch {
		case a.current != nil && b.current == nil:
			return -1
		case a.current == nil && b.current != nil:
			return 1
		}
		return 0
	})
	refused := 0.0
	for _, f := range folders {
		if f.err != nil {
			refused++
		}
		info := f.info()
		if told[info.Name] {
			continue
		}
		tell(info.Name, info.State)
		if f.current != nil && f.current.state != nil {
			out <- prometheus.MustNewConstMetric(p.restarts, prometheus.CounterValue, float64(f.current.state().Restarts), info.Name)
		}
	}
	out <- prometheus.MustNewConstMetric(p.refused, prometheus.GaugeValue, refused)
}

// Codes under which errors of Redis are counted, beside its own.
const (
	unreachable = "unreachable"
	otherCode   = "other"
)

// redisCodes are the answers of a Redis that is not what it should be. Others
// are counted together.
var redisCodes = []string{
	"OOM", "MISCONF", "READONLY", "LOADING", "NOREPLICAS", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOAUTH", "WRONGPASS", "NOPERM",
}

// failed counts what became of a command, if that was an error, and reports
// whether it was. What the client tells and asks at the begin of a connection may
// be refused, by an old Redis; scripts it doesn't hold are sent.
func (m *metrics) failed(name string, err error) bool {
	if err == nil || name == "client" || name == "hello" || errors.Is(err, redis.Nil) ||
		errors.Is(err, context.Canceled) || redis.HasErrorPrefix(err, "NOSCRIPT") {
		return false
	}
	code := unreachable
	if said, ok := errors.AsType[redis.Error](err); ok {
		if code, _, _ = strings.Cut(said.Error(), " "); !slices.Contains(redisCodes, code) {
			code = otherCode
		}
	}
	m.redis.WithLabelValues(code).Inc()
	return true
}

// redisHook has failed told of every call to Redis.
type redisHook struct {
	failed func(name string, err error) bool
}

// DialHook implements redis.Hook: a connection that can't be had fails the call.
func (h redisHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// ProcessHook implements redis.Hook.
func (h redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h.failed(cmd.Name(), err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if h.failed(cmd.Name(), cmd.Err()) {
				break // it is one call
			}
		}
		return err
	}
}
