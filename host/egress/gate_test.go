package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

const key = "sk-live-0123456789/+\"x"

// testManifest lists origins and binds KEY to the first of them.
func testManifest(t *testing.T, limits string, origins ...string) *manifest.Manifest {
	t.Helper()
	quoted := `"` + strings.Join(origins, `", "`) + `"`
	m, err := manifest.Parse(fmt.Appendf(nil, `
name: acme
version: 1.0.0
protocol: 1
runtime: native
artifact: acme
models: [{name: a}]
egress: [%s]
secrets:
  - {name: KEY, origins: ["%s"], header: Authorization}
  - {name: ABSENT, origins: ["%s"], header: X-Org, optional: true}
limits: {%s}
`, quoted, origins[0], origins[0], limits))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

type records struct {
	mu   sync.Mutex
	list []Refusal
	log  bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *records) audit(ref Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, ref)
}

func (r *records) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.list) + r.log.String()
}

func newGate(t *testing.T, m *manifest.Manifest, o Options) (*Gate, *records) {
	t.Helper()
	rec := &records{}
	o.Log = slog.New(slog.NewTextHandler(rec, nil))
	o.Audit = rec.audit
	o.LookupEnv = func(name string) (string, bool) { return key, name == "KEY" }
	g, err := New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g, rec
}

func get(t *testing.T, g *Gate, url string, header ...string) (string, *Response, error) {
	t.Helper()
	r := &Request{Method: "GET", URL: url, Header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	resp, err := g.Do(t.Context(), r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp, err
}

func wantRefusal(t *testing.T, err error, text string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) || e.Code != "egress_refused" || !strings.Contains(e.Message, text) {
		t.Errorf("error %v, want a refusal with %q", err, text)
	}
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func TestAllowList(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host+r.URL.Path) })
	other := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("reached a server that isn't listed") })
	m := testManifest(t, "", srv.URL, "https://*.acme.test")
	m.AllowPrivate = []string{"127.0.0.1"}
	g, rec := newGate(t, m, Options{})
	if text, _, err := get(t, g, srv.URL+"/v1"); err != nil || text != srv.Listener.Addr().String()+"/v1" {
		t.Fatalf("%q, %v", text, err)
	}
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	for _, url := range []string{
		other.URL, "https://127.0.0.1" + port, "http://localhost" + port, "http://127.0.0.1", "https://acme.test",
		"https://evil.test/?x=https://a.acme.test", "https://a.acme.test.evil.test", "https://a.acme.test:8443",
		"http://a.acme.test", "https://a.acme.test@evil.test", "https://user:pw@a.acme.test", "ftp://a.acme.test",
		"file:///etc/passwd", "gopher://127.0.0.1" + port, "//a.acme.test", "/etc/passwd", "", "https:a.acme.test",
		"https://evil.test\\@a.acme.test", "https://a.acme.test%2eevil.test", "https://[::1]", "http://0x7f000001" + port,
		"https://" + strings.Repeat("a", 9000) + ".acme.test",
	} {
		_, _, err := get(t, g, url)
		wantRefusal(t, err, "")
	}
	if n := len(rec.list); n != 23 || g.Refused() != 23 {
		t.Errorf("%d audit records and a count of %d for 23 refusals", n, g.Refused())
	}
	for _, method := range []string{"CONNECT", "TRACE", "get", "", "GET /\r\nX: y"} {
		_, err := g.Do(t.Context(), &Request{Method: method, URL: srv.URL})
		wantRefusal(t, err, "method")
	}
}

// mapResolver answers from a table; a name's answers are used up one by one,
// the last stays.
type mapResolver struct {
	mu    sync.Mutex
	table map[string][][]string
}

func (m *mapResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := m.table[host]
	if len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) > 1 {
		m.table[host] = answers[1:]
	}
	var out []netip.Addr
	for _, a := range answers[0] {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}

func TestPrivateAddresses(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	var origins []string
	names := []string{"loop.test", "ten.test", "meta.test", "mapped.test", "nat64.test", "six4.test", "ula.test", "cgnat.test", "zero.test", "mixed.test", "allowed.test", "link.test"}
	for _, n := range names {
		origins = append(origins, "http://"+n+":"+port)
	}
	origins = append(origins, "http://169.254.169.254", "http://127.0.0.1:"+port, "http://[::1]:"+port)
	m := testManifest(t, "", origins...)
	m.AllowPrivate = []string{"allowed.test", "link.test:" + port}
	g, _ := newGate(t, m, Options{Resolver: &mapResolver{table: map[string][][]string{
		"loop.test": {{"127.0.0.1"}}, "ten.test": {{"10.1.2.3"}}, "meta.test": {{"169.254.169.254"}},
		"mapped.test": {{"::ffff:127.0.0.1"}}, "nat64.test": {{"64:ff9b::7f00:1"}}, "six4.test": {{"2002:7f00:1::"}},
		"ula.test": {{"fd00::1"}}, "cgnat.test": {{"100.64.0.1"}}, "zero.test": {{"0.0.0.0"}},
		"mixed.test": {{"10.0.0.1", "127.0.0.1"}}, "allowed.test": {{"127.0.0.1"}}, "link.test": {{"169.254.169.254"}},
	}}})
	for _, url := range origins {
		_, _, err := get(t, g, url+"/latest/meta-data")
		if strings.Contains(url, "allowed.test") {
			if err != nil {
				t.Errorf("%s: %v", url, err)
			}
			continue
		}
		wantRefusal(t, err, "not a public address")
	}
}

// A name that answers with a public address when it is looked at and with
// loopback when it is dialled gets nowhere: one answer serves both.
func TestRebinding(t *testing.T) {
	srv := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("reached through a rebinding name") })
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	m := testManifest(t, "", "http://rebind.test:"+port)
	g, _ := newGate(t, m, Options{Resolver: &mapResolver{table: map[string][][]string{
		"rebind.test": {{"192.0.2.1"}, {"127.0.0.1"}},
	}}})
	for range 2 {
		_, _, err := get(t, g, "http://rebind.test:"+port)
		wantRefusal(t, err, "not a public address")
	}
}

func TestPublicAddresses(t *testing.T) {
	for a, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "64:ff9b::808:808": true, "2002:808:808::1": true, "172.32.0.1": true,
		"172.16.0.1": false, "192.168.1.1": false, "224.0.0.1": false, "255.255.255.255": false, "ff02::1": false, "fe80::1": false,
		"fec0::1": false, "::": false, "::1": false, "::7f00:1": false, "2001:db8::1": false, "198.18.0.1": false, "192.0.0.192": false,
		"::ffff:10.0.0.1": false, "2001:0:53aa:64c::1": false,
	} {
		if got := public(netip.MustParseAddr(a)); got != want {
			t.Errorf("public(%s) = %v", a, got)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, to := range []string{"http://169.254.169.254/", "/elsewhere"} {
		hits := 0
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			hits++
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		})
		m := testManifest(t, "", srv.URL)
		m.AllowPrivate = []string{"127.0.0.1"}
		g, _ := newGate(t, m, Options{})
		_, resp, err := get(t, g, srv.URL, "Authorization", "Bearer ${secret:KEY}")
		if err != nil || resp.Status != 307 || hits != 1 {
			t.Errorf("to %s: %+v, %v, %d requests", to, resp, err, hits)
		}
	}
}

func TestHeaders(t *testing.T) {
	var got http.Header
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header().Set("X-Keep", "1")
		w.Header().Set("Proxy-Authenticate", "1")
		w.Header().Set(ErrorHeader, "forged")
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	_, resp, err := get(t, g, srv.URL, "x-a", "1", "Accept-Encoding", "br", "X-Org", "${secret:ABSENT}")
	if err != nil {
		t.Fatal(err)
	}
	if got.Get("X-A") != "1" || got.Get("Accept-Encoding") != "" || got.Get("User-Agent") != "sluice" || got["X-Org"] != nil {
		t.Errorf("sent %v", got)
	}
	hop := g.responseHeader(http.Header{"Connection": {"x-drop, close"}, "X-Drop": {"1"}, "Keep-Alive": {"1"}})
	for _, name := range []string{"Connection", "X-Drop", "Keep-Alive", "Proxy-Authenticate", ErrorHeader} {
		if resp.Header[name] != nil || hop[name] != nil {
			t.Errorf("the plugin saw %s", name)
		}
	}
	if resp.Header.Get("X-Keep") != "1" {
		t.Errorf("got %v", resp.Header)
	}
	for _, h := range [][2]string{
		{"Host", "evil.test"}, {"host", "evil.test"}, {"Content-Length", "5"}, {"Transfer-Encoding", "chunked"}, {"Connection", "upgrade"},
		{"Upgrade", "h2c"}, {"TE", "trailers"}, {"Trailer", "X"}, {"Expect", "100-continue"}, {"Proxy-Authorization", "x"},
		{"Proxy-Anything", "x"}, {"Keep-Alive", "1"}, {"Sluice-Error", "x"}, {"X A", "1"}, {"X-A:", "1"}, {"", "1"}, {"X\r\nHost", "1"},
		{"X-A", "1\r\nHost: evil.test"}, {"X-A", "\x00"}, {"X-A", strings.Repeat("x", 40<<10)},
	} {
		_, _, err := get(t, g, srv.URL, h[0], h[1])
		wantRefusal(t, err, "header")
	}
	_, _, err = get(t, g, srv.URL, "x-a", "1", "X-A", "2")
	wantRefusal(t, err, "twice")
	many := []string{}
	for i := range 70 {
		many = append(many, fmt.Sprintf("X-%d", i), "1")
	}
	_, _, err = get(t, g, srv.URL, many...)
	wantRefusal(t, err, "64 headers")
}

func TestSecretsAreBound(t *testing.T) {
	var got string
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") })
	other := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request with a foreign secret went out") })
	m := testManifest(t, "", srv.URL, other.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, rec := newGate(t, m, Options{})
	if _, _, err := get(t, g, srv.URL, "authorization", "Bearer ${secret:KEY}"); err != nil || got != "Bearer "+key {
		t.Errorf("%q, %v", got, err)
	}
	for _, tt := range [][3]string{
		{other.URL, "Authorization", "Bearer ${secret:KEY}"},
		{srv.URL, "X-Debug", "${secret:KEY}"},
		{srv.URL, "Authorization", "${secret:OTHER}"},
		{srv.URL, "Authorization", "${secret:KEY"},
		{srv.URL, "Authorization", "${secret:${secret:KEY}}"},
	} {
		_, _, err := get(t, g, tt[0], tt[1], tt[2])
		wantRefusal(t, err, "secret")
	}
	if strings.Contains(rec.all(), "sk-live") {
		t.Error("the log or an audit record shows the key")
	}
}

// An upstream that echoes what it was sent, in whole or piece by piece and in
// any of the usual encodings, doesn't tell the plugin its key.
func TestEchoedSecrets(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		w.Header().Set("X-Echo", auth)
		if r.URL.Path == "/json" {
			fmt.Fprintf(w, `{"you sent":%s}`, sdk.JSON(auth))
			return
		}
		io.WriteString(w, "start ")
		for _, b := range []byte(auth) {
			w.Write([]byte{b})
			http.NewResponseController(w).Flush()
		}
		io.WriteString(w, " end sk-live")
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	text, resp, err := get(t, g, srv.URL, "Authorization", "Bearer ${secret:KEY}")
	stars := "Bearer " + strings.Repeat("*", len(key))
	if want := "start " + stars + " end sk-live"; err != nil || text != want {
		t.Errorf("%q, %v, want %q", text, err, want)
	}
	if resp.Header.Get("X-Echo") != stars {
		t.Errorf("header %q", resp.Header.Get("X-Echo"))
	}
	text, _, err = get(t, g, srv.URL+"/json", "Authorization", "Bearer ${secret:KEY}")
	if err != nil || strings.Contains(text, "sk-live") || !strings.HasSuffix(text, `"}`) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestSecretReferences(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(path, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { return "from-env", name == "A" }
	for ref, want := range map[string]string{
		"env:A": "from-env", "env:B": "", "file:" + path: "from-file", "file:" + dir + "/none": "",
		"cmd:echo from command": "from command", "value:literal": "literal",
	} {
		if got, err := resolveSecret(ref, lookup); got != want || err != nil {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"cmd:false", "cmd: ", "cmd:/does/not/exist", "vault:x", "file:" + dir} {
		if got, err := resolveSecret(ref, lookup); err == nil {
			t.Errorf("%s: %q", ref, got)
		}
	}
	_, err := New(testManifest(t, "", "https://acme.test"), Options{Log: slog.New(slog.DiscardHandler), LookupEnv: func(string) (string, bool) { return "", false }})
	if err == nil || !strings.Contains(err.Error(), "environment variable KEY") {
		t.Errorf("a secret that isn't set: %v", err)
	}
	_, err = New(testManifest(t, "", "https://acme.test"), Options{Log: slog.New(slog.DiscardHandler), LookupEnv: func(string) (string, bool) { return "a\r\nHost: b", true }})
	if err == nil || strings.Contains(err.Error(), "Host") {
		t.Errorf("a secret with a line break: %v", err)
	}
}

// Whoever forgot a key that isn't required learns of it at the start.
func TestMissingSecretIsSaid(t *testing.T) {
	_, rec := newGate(t, testManifest(t, "", "https://api.example.com"), Options{})
	if log := rec.all(); !strings.Contains(log, `secret=ABSENT from="environment variable ABSENT"`) || strings.Contains(log, "secret=KEY") {
		t.Errorf("the log says %s", log)
	}
}
