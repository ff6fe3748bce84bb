package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/sluicehq/sluice/proto/job"
)

// visit asks a handler, with headers as pairs; RemoteAddr is the peer.
func visit(t *testing.T, h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host, r.RemoteAddr = "localhost", "127.0.0.1:4000"
	for i := 0; i < len(header); i += 2 {
		switch header[i] {
		case "RemoteAddr":
			r.RemoteAddr = header[i+1]
		case "Host":
			r.Host = header[i+1]
		default:
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func bearer(t *testing.T, claims jwt.MapClaims) string { return "Bearer " + hs(t, claims) }

func TestJobByHTTP(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		path, _ := keyFile(t, printOf("key-of-ada")+" user=ada\n")
		conf := hsConfig()
		conf.Auth.KeysFile = path
		conf.Origins = []string{"https://app.example.com"}
		addr, _ := startGateway(t, rdb, conf)
		get := func(id string, header ...string) (int, jobState, string, http.Header) {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/jobs/"+id, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var raw json.RawMessage
			if err := json.NewDecoder(res.Body).Decode(&raw); err != nil {
				t.Fatal(err)
			}
			var s jobState
			_ = json.Unmarshal(raw, &s)
			return res.StatusCode, s, string(raw), res.Header
		}
		c := connect(t, addr, `{"token":"key-of-ada"}`)
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"r"}`))
		ada := []string{"Authorization", bearer(t, jwt.MapClaims{"sub": "ada"})}
		if status, s, raw, h := get("r", ada...); status != 200 || s.State != "queued" || s.Text != "" || s.Created == 0 || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s", status, raw)
		}
		a := host.begin("r", 1)
		host.chunks(a, "gone")
		if _, err := a.Release(context.Background(), job.StateWaiting); err != nil {
			t.Fatal(err)
		}
		a = host.begin("r", 2)
		for range 2500 { // more than two pages
			host.append(a, &job.Chunk{Chunk: "é "}, &job.Delta{Kind: "reasoning"})
		}
		status, s, raw, _ := get("r", "Authorization", "Bearer key-of-ada")
		if want := strings.Repeat("é ", 2500); status != 200 || s.Text != want || s.State != "running" || s.Attempt != 2 || s.Seq != 5003 || s.Model != "echo" || s.Result != nil {
			t.Errorf("%d %.300s", status, raw)
		}
		host.complete(a)
		_, s, raw, _ = get("r", ada...)
		var done struct{ Digest string }
		if json.Unmarshal(s.Result, &done) != nil || done.Digest != job.Digest(s.Text) || s.Event != job.EventComplete || s.State != "complete" || s.Ended < s.Started {
			t.Errorf("%.300s", raw)
		}

		for name, test := range map[string]struct {
			id     string
			header []string
			status int
			code   string
		}{
			"nobody":        {"r", nil, 401, codeUnauthorized},
			"bad token":     {"r", []string{"Authorization", "Bearer x"}, 401, codeUnauthorized},
			"query token":   {"r?token=key-of-ada", nil, 401, codeUnauthorized},
			"stranger":      {"r", []string{"Authorization", bearer(t, jwt.MapClaims{"sub": "bob"})}, 404, codeNotFound},
			"other tenant":  {"r", []string{"Authorization", bearer(t, jwt.MapClaims{"sub": "ada", "tenant": "t"})}, 404, codeNotFound},
			"admin":         {"r", []string{"Authorization", bearer(t, jwt.MapClaims{"sub": "root", "role": "admin"})}, 200, ""},
			"none":          {"none", ada, 404, codeNotFound},
			"bad id":        {"a%20b", ada, 400, codeInvalidJobID},
			"foreign page":  {"r", append([]string{"Origin", "https://evil.example.com"}, ada...), 403, codeUnauthorized},
			"allowed page":  {"r", append([]string{"Origin", "https://app.example.com"}, ada...), 200, ""},
			"reserved name": {"progress", ada, 400, codeInvalidJobID},
		} {
			status, _, raw, h := get(test.id, test.header...)
			if status != test.status || test.code != "" && !strings.Contains(raw, `"ok":false,"error":{"code":"`+test.code+`"`) {
				t.Errorf("%s: %d %.200s", name, status, raw)
			}
			if name == "allowed page" && h.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
				t.Errorf("%s: %v", name, h)
			}
			if status == 401 && h.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s: %v", name, h)
			}
		}
	})
}

func TestJobByHTTPMethods(t *testing.T) {
	conf := testConfig()
	conf.Origins = []string{"https://app.example.com"}
	c := newCore(t.Context(), Options{Config: conf, Redis: memoryRedis(t), Log: testLog(t)}, openDoor{})
	h := newHTTPServer(c, http.NotFoundHandler()).Handler
	if w := visit(t, h, "OPTIONS", "/v1/jobs/x", "Origin", "https://app.example.com"); w.Code != 204 || w.Header().Get("Access-Control-Allow-Headers") != "Authorization" {
		t.Errorf("preflight: %d %v", w.Code, w.Header())
	}
	if w := visit(t, h, "OPTIONS", "/v1/jobs/x", "Origin", "https://evil.example.com"); w.Code != 403 || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("foreign preflight: %d %v", w.Code, w.Header())
	}
	if w := visit(t, h, "DELETE", "/v1/jobs/x"); w.Code != 405 {
		t.Errorf("DELETE: %d", w.Code)
	}
	if w := visit(t, h, "HEAD", "/v1/jobs/x"); w.Code != 404 {
		t.Errorf("HEAD: %d", w.Code)
	}
	// All that read at the same time are at work: who comes more is told to wait.
	for range maxReads {
		c.reads <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/jobs/x", nil)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 503 || w.Header().Get("Retry-After") != "2" {
		t.Errorf("too many readers: %d %v", w.Code, w.Header())
	}
}

// scrape reads the metrics.
func scrape(t *testing.T, addr string) string {
	t.Helper()
	res, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestMetrics(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	conf := hsConfig()
	addr, _ := startGateway(t, rdb, conf)
	c := connect(t, addr, hsAuth(t, "ada"))
	wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"m"}`))
	wantCode(t, c.ask("made:up", `{}`), codeInvalidPayload)
	wantCode(t, c.ask("job:resume:v1", `{"jobId":"none"}`), codeNotFound)
	a := host.begin("m", 1)
	c.await("model:start:v1")
	for range 3 {
		host.chunks(a, "text")
		c.await("model:chunk:v1")
	}
	if err := rdb.Publish(t.Context(), "model:chunk", `{"userId":"ada","jobId":"old","chunk":"c","index":0}`).Err(); err != nil {
		t.Fatal(err)
	}
	c.find("the legacy chunk", func(m message) bool { return m.Name == "model:chunk:v1" && m.field(t, "jobId") == "old" })
	host.complete(a)
	c.await("model:complete:v1")
	late := connect(t, addr, hsAuth(t, "ada"))
	wantOK(t, late.ask("job:resume:v1", `{"jobId":"m"}`))
	refused := dial(t, addr, nil)
	refused.send("40")
	refused.find("refusal", func(m message) bool { return m.Kind == packetRefusal })

	text := scrape(t, addr)
	for _, line := range []string{
		"sluice_gateway_sockets 2", "sluice_gateway_users 1", "sluice_gateway_watches 0", "sluice_gateway_waiting_jobs 0",
		"sluice_gateway_connections 3", "sluice_gateway_jobs_started_total 1", "sluice_gateway_resumes_total 1",
		"sluice_gateway_legacy_messages_total 1",
		`sluice_gateway_events_total{direction="in",event="search:start:v1"} 1`,
		`sluice_gateway_events_total{direction="in",event="other"} 1`,
		`sluice_gateway_events_total{direction="out",event="connected"} 2`,
		`sluice_gateway_refusals_total{code="invalid_payload"} 1`,
		`sluice_gateway_refusals_total{code="not_found"} 1`,
		`sluice_gateway_refusals_total{code="unauthorized"} 1`,
		`sluice_gateway_slow_clients_total{what="behind"} 0`,
		"sluice_gateway_gaps_filled_total", "sluice_gateway_bytes_total", "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("lacks %s", line)
		}
	}
	if strings.Contains(text, "publish_to_write_seconds_count 0\n") || !strings.Contains(text, "publish_to_write_seconds_count ") {
		t.Error("no latency was observed")
	}
	if t.Failed() {
		for line := range strings.SplitSeq(text, "\n") {
			if strings.HasPrefix(line, "sluice_") {
				t.Log(line)
			}
		}
	}
}

// Metrics say how the whole installation is doing: they aren't everybody's.
func TestMetricsAreGuarded(t *testing.T) {
	conf := hsConfig()
	auth, err := newAuthenticator(t.Context(), conf.Auth, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	c := newCore(t.Context(), Options{Config: conf, Redis: memoryRedis(t), Log: testLog(t)}, auth)
	h := newHTTPServer(c, http.NotFoundHandler()).Handler
	far := []string{"RemoteAddr", "192.0.2.1:4000"}
	for name, test := range map[string]struct {
		header []string
		status int
	}{
		"this machine":      {nil, 200},
		"IPv6 of it":        {[]string{"RemoteAddr", "[::1]:4000"}, 200},
		"a proxy on it":     {[]string{"X-Forwarded-For", "192.0.2.1"}, 401},
		"a name of it":      {[]string{"Host", "app.example.com"}, 401},
		"a numbered name":   {[]string{"Host", "127.0.0.1:3210"}, 200},
		"from far":          {far, 401},
		"a user":            {append(far, "Authorization", bearer(t, jwt.MapClaims{"sub": "u"})), 401},
		"admin of a tenant": {append(far, "Authorization", bearer(t, jwt.MapClaims{"sub": "u", "tenant": "t", "role": "admin"})), 401},
		"admin":             {append(far, "Authorization", bearer(t, jwt.MapClaims{"sub": "u", "role": "admin"})), 200},
		"role metrics":      {append(far, "Authorization", bearer(t, jwt.MapClaims{"sub": "u", "roles": "metrics"})), 200},
	} {
		if w := visit(t, h, "GET", "/metrics", test.header...); w.Code != test.status {
			t.Errorf("%s: %d, want %d", name, w.Code, test.status)
		}
	}
}

// A change of what the hosts serve is told to all who are connected.
func TestModelsArePushed(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	if m := c.seen("connected")[0]; len(m.field(t, "models").([]any)) != 0 {
		t.Errorf("connected %s", m.Data)
	}
	host.announce("echo", "other")
	m := c.await("models:v1")
	if models, _ := m.field(t, "models").([]any); len(models) != 2 || m.field(t, "defaultModel") != "echo" {
		t.Errorf("models %s", m.Data)
	}
}

// That no connection can be taken is told to the operator, and not many times a
// second; what strangers do to the server isn't.
func TestServerLog(t *testing.T) {
	var out bytes.Buffer
	l := log.New(&serverLog{log: slog.New(slog.NewTextHandler(&out, nil)), complaints: rate.NewLimiter(rate.Every(time.Hour), 1)}, "", 0)
	l.Print("http: TLS handshake error from 192.0.2.1:1: EOF")
	for range 3 {
		l.Print("http: Accept error: accept tcp 127.0.0.1:1: accept4: too many open files; retrying in 5ms")
	}
	if said := out.String(); strings.Count(said, "level=") != 1 || !strings.Contains(said, "level=WARN") || !strings.Contains(said, "LimitNOFILE=") {
		t.Error(said)
	}
}
