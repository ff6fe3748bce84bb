package egress

import (
	"bufio"
	"bytes"
	"log/slog"
	"net/http"
	"testing"

	"github.com/sluicehq/sluice/host/manifest"
)

// FuzzRequest: whatever a plugin asks for, what goes out is one HTTP request,
// as another parser reads it, to a listed origin, with the key in its one place.
func FuzzRequest(f *testing.F) {
	m, err := manifest.Parse([]byte(`
name: acme
version: 1.0.0
protocol: 1
runtime: native
artifact: acme
models: [{name: a}]
egress: ["https://api.acme.test", "https://*.eu.acme.test:8443"]
secrets: [{name: KEY, origins: ["https://api.acme.test"], header: Authorization}]
`))
	if err != nil {
		f.Fatal(err)
	}
	g, err := New(m, Options{Log: slog.New(slog.DiscardHandler), LookupEnv: func(string) (string, bool) { return key, true }})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("https://api.acme.test/v1?x=y#z", "authorization", "Bearer ${secret:KEY}")
	f.Add("https://a.b.eu.acme.test:8443", "X-A", "${secret:KEY}")
	f.Add("https://api.acme.test:443@evil.test", "Host", "evil")
	f.Add("https://api.acme.test/%0d%0aHost:x", "X-A\r\n", "\r\n")
	f.Fuzz(func(t *testing.T, url, name, value string) {
		req, err := g.request(t.Context(), &Request{Method: "GET", URL: url, Header: http.Header{name: {value}}}, g.vault.keys())
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := req.Write(&b); err != nil {
			return
		}
		raw := b.String()
		r := bufio.NewReader(&b)
		read, err := http.ReadRequest(r)
		if err != nil || r.Buffered() > 0 {
			t.Fatalf("%q: %v, %d bytes more", raw, err, r.Buffered())
		}
		o, err := manifest.OriginOf(req.URL.Scheme + "://" + read.Host)
		if err != nil || !covered(g.allow, o) {
			t.Errorf("%q goes to %v, %v", raw, o, err)
		}
		for h, values := range read.Header {
			for _, v := range values {
				if bytes.Contains([]byte(v), []byte(key)) && (h != "Authorization" || o.Host != "api.acme.test") {
					t.Errorf("the key goes out in %s to %s", h, o)
				}
			}
		}
	})
}
