package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/proto/job/redistest"
	"github.com/sluicehq/sluice/sdk"
)

// ask asks a running host a question of an operator.
func (h *hosting) ask(path string) (code int, text string) {
	h.t.Helper()
	h.mu.Lock()
	found := regexp.MustCompile(`status is served".* addr=(\S+)`).FindStringSubmatch(h.logs.String())
	h.mu.Unlock()
	if found == nil {
		h.t.Fatal("no status is served")
	}
	res, err := http.Get("http://" + found[1] + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// wantMetrics waits until a host's metrics hold these lines.
func (h *hosting) wantMetrics(lines ...string) {
	h.t.Helper()
	var text string
	eventually(h.t, "metrics "+strings.Join(lines, ", "), func() bool {
		_, text = h.ask("/metrics")
		for _, line := range lines {
			if !strings.Contains(text, "\n"+line+"\n") {
				return false
			}
		}
		return true
	})
}

func withStatus(c *config.Config) { c.Host.Addr = "127.0.0.1:0" }

// What a host does can be read from its metrics, and they are named as
// Prometheus wants them.
func TestMetrics(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	place(t, filepath.Join(root, "broken"), "name: broken\negres: []\n", nil)
	w := newWorld(t, startServer(t).addr)
	hold := make(chan bool)
	fail := &sdk.Error{Kind: sdk.Denied, Fault: sdk.Upstream, Message: "no"}
	h := w.host(tuned(func(c *config.Config) {
		withStatus(c)
		c.Plugins.Dirs = []string{root}
	}), provider("fake", func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
		switch req.Prompt() {
		case "fail":
			return fail
		case "again":
			if req.Attempt == 1 {
				return &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: "later"}
			}
		case "hold":
			select {
			case <-hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return errors.Join(emit(sdk.Text("text")), emit(sdk.Usage{Input: 3, Output: 1}))
	}))
	for _, q := range []string{"", "fail", "again"} {
		w.follow(w.create(job.Job{Query: q}), 0)
	}
	held := w.create(job.Job{Query: "hold"})
	w.waitFor(held, "its begin", isEvent(job.EventStart))
	h.wantMetrics(
		`sluice_host_attempts_total{outcome="complete",provider="fake"} 2`,
		`sluice_host_attempts_total{outcome="failed",provider="fake"} 1`,
		`sluice_host_attempts_total{outcome="retried",provider="fake"} 1`,
		`sluice_host_failures_total{fault="upstream",kind="denied"} 1`,
		`sluice_host_attempts_begun_total 5`,
		`sluice_host_running_jobs 1`,
		`sluice_host_pickup_seconds_count 3`, // one of the four jobs runs
		`sluice_host_first_chunk_seconds_count{provider="fake"} 2`,
		`sluice_host_tokens_total{kind="input",provider="fake"} 6`,
		`sluice_host_plugin_state{provider="fake",state="up"} 1`,
		`sluice_host_plugin_state{provider="broken",state="up"} 0`,
		`sluice_host_plugin_state{provider="broken",state="refused"} 1`,
		`sluice_host_plugin_folders_refused 1`,
		`sluice_host_jobs_taken_over_total 0`,
		`sluice_host_redis_errors_total{code="unreachable"} 0`,
	)
	if n := h.logged("provider=broken"); n == 0 {
		t.Error("the log does not name the folder of a broken manifest")
	}
	_, text := h.ask("/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	close(hold)
	w.follow(held, 0).complete()
	h.wantMetrics(`sluice_host_running_jobs 0`, `sluice_host_pickup_seconds_count 4`)
}

// A host takes over the jobs of a dead one, and tells how many.
func TestMetricsOfAFailover(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startServer(t).addr)
	s := newStuck(sdk.Text("half"))
	dying := w.host(tuned(nil), provider("fake", s.generate))
	id := w.create(job.Job{})
	<-s.waiting
	h := w.host(tuned(withStatus), provider("fake", saying(sdk.Text("whole"))))
	dying.line.cut()
	w.follow(id, 0).complete()
	h.wantMetrics(`sluice_host_jobs_taken_over_total 1`)
}

// A host is ready once it takes jobs, and not while it has nothing to answer
// them with, Redis takes no writes, or it stops; alive it is all the time.
func TestReady(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, server.Addr)
	want := func(h *hosting, code int, text string) {
		t.Helper()
		var got int
		var said string
		eventually(t, fmt.Sprint(code, " ", text), func() bool {
			got, said = h.ask("/readyz")
			return got == code && strings.HasPrefix(said, text)
		})
		if code, text := h.ask("/healthz"); code != http.StatusOK || text != "ok\n" {
			t.Errorf("alive: %d %s", code, text)
		}
	}
	want(w.host(tuned(withStatus)), http.StatusServiceUnavailable, "no plugin is in service")

	s := newStuck(sdk.Text("half"))
	h := w.host(tuned(withStatus), provider("fake", s.generate))
	want(h, http.StatusOK, "ready")
	limit := func(bytes string) {
		t.Helper()
		if err := w.rdb.(*redis.Client).ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	want(h, http.StatusServiceUnavailable, "redis takes no writes: OOM ")
	eventually(t, "errors are counted", func() bool {
		_, text := h.ask("/metrics")
		return strings.Contains(text, `sluice_host_redis_errors_total{code="OOM"}`)
	})
	limit("0")
	want(h, http.StatusOK, "ready")
	id := w.create(job.Job{})
	<-s.waiting
	h.stop()
	want(h, http.StatusServiceUnavailable, "stopping")
	if _, err := w.store.Cancel(t.Context(), id, "ada", false); err != nil {
		t.Fatal(err)
	}
}

// An address that can't be had is said before anything starts.
func TestStatusAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg := tuned(func(c *config.Config) { c.Host.Addr = l.Addr().String() })
	if err := Run(ctx, Options{Config: cfg, Log: discard}); err == nil || !strings.HasPrefix(err.Error(), "host.addr: ") {
		t.Errorf("error %v", err)
	}
}

// What a host counts as an error of Redis, and under which name.
func TestRedisErrors(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	for _, err := range []error{nil, redis.Nil, context.Canceled, fmt.Errorf("read: %w", context.Canceled), io.EOF} {
		m.failed("get", err)
	}
	server := startServer(t)
	rdb, _ := connect(t, server.addr)
	rdb.AddHook(redisHook{m.failed})
	rdb.EvalSha(t.Context(), strings.Repeat("0", 40), nil)            // NOSCRIPT is no fault
	rdb.Do(t.Context(), "NO-SUCH-COMMAND")                            // other
	_, _ = rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error { // one call
		p.Get(t.Context(), "none")
		p.Eval(t.Context(), `return redis.error_reply("READONLY no")`, nil)
		return nil
	})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "sluice_host_redis_errors_total" {
			for _, c := range f.GetMetric() {
				got[c.GetLabel()[0].GetValue()] = c.GetCounter().GetValue()
			}
		}
	}
	if want := "map[READONLY:1 other:1 unreachable:1]"; fmt.Sprint(got) != want {
		t.Errorf("counted %v, want %s", got, want)
	}
}
