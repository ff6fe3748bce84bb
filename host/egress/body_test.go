package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

func TestBodyLimits(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Read", fmt.Sprint(n))
		io.WriteString(w, strings.Repeat("x", 2000))
	})
	m := testManifest(t, "request_body: 1KiB, response_body: 1KiB", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	body := strings.Repeat("b", 1025)
	for name, r := range map[string]*Request{
		"known length":   {Method: "POST", URL: srv.URL, Body: strings.NewReader(body), Length: 1025},
		"unknown length": {Method: "POST", URL: srv.URL, Body: strings.NewReader(body), Length: -1},
	} {
		_, err := g.Do(t.Context(), r)
		wantRefusal(t, err, "larger than 1024 bytes")
		_ = name
	}
	resp, err := g.Do(t.Context(), &Request{Method: "POST", URL: srv.URL, Body: strings.NewReader(body[:1024]), Length: 1024})
	if err != nil || resp.Header.Get("X-Read") != "1024" {
		t.Fatalf("%+v, %v", resp, err)
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil || !strings.Contains(err.Error(), "larger than 1024") {
		t.Errorf("a large response: %v", err)
	}
}

func TestUpstreamFaults(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		switch r.URL.Path {
		case "/cut":
			buf.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		case "/zip":
			buf.WriteString("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx")
		case "/head":
			buf.WriteString("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n")
		}
		buf.Flush()
	})
	m := testManifest(t, "", srv.URL, "http://nowhere.test")
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{Resolver: &mapResolver{}})
	for target, want := range map[string]sdk.Kind{
		srv.URL + "/cut": sdk.Truncated, srv.URL + "/reset": sdk.Unavailable, srv.URL + "/zip": sdk.Unavailable,
		srv.URL + "/head": sdk.Unavailable, "http://nowhere.test": sdk.Unavailable,
	} {
		_, _, err := get(t, g, target)
		if e := sdk.AsError(err); e == nil || e.Kind != want || e.Fault != sdk.Upstream {
			t.Errorf("%s: %v, want %s", target, err, want)
		}
	}
}

func TestGzipIsDecodedAndSearched(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		io.WriteString(z, r.Header.Get("Authorization"))
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	text, resp, err := get(t, g, srv.URL, "Authorization", "${secret:KEY}")
	if err != nil || text != strings.Repeat("*", len(key)) || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%q, %v, %v", text, resp, err)
	}
}

func TestCancelClosesTheUpstream(t *testing.T) {
	closed := make(chan struct{}, 2)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/body" {
			io.WriteString(w, "first")
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		closed <- struct{}{}
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})

	ctx, cancel := context.WithCancel(t.Context())
	resp, err := g.Do(ctx, &Request{Method: "POST", URL: srv.URL + "/body", Body: strings.NewReader("x"), Length: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := resp.Body.Read(make([]byte, 5)); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on: %v", err)
	}
	<-closed

	ctx, cancel = context.WithCancel(t.Context())
	sent := make(chan struct{})
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }})
	go func() { <-sent; cancel() }()
	if _, err := g.Do(ctx, &Request{Method: "GET", URL: srv.URL}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the head: %v", err)
	}
	<-closed
}

func TestConnectionsAreReused(t *testing.T) {
	addrs := map[string]bool{}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { addrs[r.RemoteAddr] = true })
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	for range 5 {
		if _, _, err := get(t, g, srv.URL); err != nil {
			t.Fatal(err)
		}
	}
	if len(addrs) != 1 {
		t.Errorf("%d connections for five requests", len(addrs))
	}
}

// face serves the gate on a unix socket and returns a client as a native
// plugin has one.
func face(t *testing.T, g *Gate) *http.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "egress")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l) }()
	tr := &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: "egress"}, nil },
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &http.Client{Transport: tr}
}

func TestUnixSocket(t *testing.T) {
	release, closed := make(chan struct{}), make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", r.Header.Get("Authorization"), b)
		case "/stream":
			io.WriteString(w, "first")
			http.NewResponseController(w).Flush()
			<-release
			io.WriteString(w, " second")
		case "/cut":
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/hang":
			<-r.Context().Done()
			close(closed)
		}
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	client := face(t, g)

	req, _ := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/echo", strings.NewReader("body"))
	req.Header.Set("Authorization", "Bearer ${secret:KEY}")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if want := "Bearer " + strings.Repeat("*", len(key)) + " body"; string(b) != want || err != nil || resp.StatusCode != 200 {
		t.Errorf("%d %q, %v", resp.StatusCode, b, err)
	}

	if resp, err = client.Get(srv.URL + "/stream"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil { // arrives while the upstream waits
		t.Fatal(err)
	}
	close(release)
	if b, err = io.ReadAll(resp.Body); string(b) != " second" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	resp.Body.Close()

	if resp, err = client.Get(srv.URL + "/cut"); err != nil {
		t.Fatal(err)
	}
	if b, err = io.ReadAll(resp.Body); string(b) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut answer looks whole: %q, %v", b, err)
	}
	resp.Body.Close()

	if resp, err = client.Get("http://169.254.169.254/latest"); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	raw, err := base64.StdEncoding.DecodeString(resp.Header.Get(ErrorHeader))
	if err != nil {
		t.Fatal(err)
	}
	var e sdk.Error
	if err := e.UnmarshalBinary(raw); err != nil || e.Kind != sdk.Denied || resp.StatusCode != http.StatusBadGateway {
		t.Errorf("%d %+v, %v", resp.StatusCode, e, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	req, _ = http.NewRequestWithContext(ctx, "GET", srv.URL+"/hang", nil)
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { cancel() }}))
	if _, err := client.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What goes in over the socket byte by byte isn't HTTP to a listed origin
// unless it is so in every respect.
func TestUnixSocketRefusesRawRequests(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != r.Context().Value(http.LocalAddrContextKey).(net.Addr).String() {
			t.Errorf("reached with host %q", r.Host)
		}
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	tr := face(t, g).Transport.(*http.Transport)
	for _, raw := range []string{
		"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + strings.TrimPrefix(srv.URL, "http://") + "\r\n\r\n",
		"GET http://evil.test/ HTTP/1.1\r\nHost: " + strings.TrimPrefix(srv.URL, "http://") + "\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST " + srv.URL + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked, identity\r\n\r\nabcd",
	} {
		conn, err := tr.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 12)
		if _, err := io.ReadFull(conn, head); err != nil || head[9] == '2' {
			t.Errorf("%q: %q, %v", raw, head, err)
		}
		conn.Close()
	}
	// A lying Host header is not what is sent on.
	conn, err := tr.DialContext(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", srv.URL)
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Errorf("%q, %v", head, err)
	}
}

// FuzzRedact: however a stream is cut, the secret doesn't come out, everything
// else does, and lengths stay.
func FuzzRedact(f *testing.F) {
	f.Add([]byte("x"+key+"y"), uint8(1))
	f.Add([]byte(key[:10]+key+key[3:]), uint8(7))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte(key))), uint8(3))
	here := manifest.Origin{Scheme: "https", Host: "acme.test", Port: "443"}
	red := newRedactor(map[string]secret{
		"KEY": {value: key, origins: []manifest.Origin{here}}, "OTHER": {value: "0123456789abc", origins: []manifest.Origin{here}},
	}, nil)
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		src := io.Reader(&stepReader{data: bytes.Clone(data), step: int(size)%40 + 1})
		out, err := io.ReadAll(iotest.OneByteReader(red.reader(src, here)))
		if err != nil || len(out) != len(data) {
			t.Fatalf("%d bytes of %d, %v", len(out), len(data), err)
		}
		for _, w := range red.words {
			if bytes.Contains(out, w.text) {
				t.Errorf("%q comes out of %q", w.text, data)
			}
		}
		for i := range out {
			if out[i] != data[i] && out[i] != '*' {
				t.Errorf("byte %d changed", i)
			}
		}
		whole := bytes.Clone(data)
		red.mask(whole)
		if bytes.Equal(whole, data) && !bytes.Equal(out, data) {
			t.Errorf("%q was changed without a secret in it", data)
		}
	})
}

type stepReader struct {
	data []byte
	step int
}

func (s *stepReader) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.data[:min(s.step, len(s.data))])
	s.data = s.data[n:]
	return n, nil
}
