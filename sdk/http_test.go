//go:build !wasip1

package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/proto/provider"
)

// upstream is a server whose requests are known.
func upstream(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestPostSSE(t *testing.T) {
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "data: %s %s %s %s\n\ndata: [DONE]\n\n", r.Method, r.Header.Get("Accept"), r.Header.Get("Content-Type"), body)
	})
	var got []string
	err := PostSSE(t.Context(), HTTPRequest{URL: url, Body: JSON(map[string]int{"a": 1})}, func(e Event) error {
		got = append(got, string(e.Data))
		return nil
	})
	if want := `[POST text/event-stream application/json {"a":1} [DONE]]`; err != nil || fmt.Sprint(got) != want {
		t.Errorf("events are %v, %v; want %s", got, err, want)
	}
	err = PostSSE(t.Context(), HTTPRequest{URL: url, Header: Header{"accept": "x/y", "CONTENT-TYPE": "a/b"}, Body: []byte("{}")}, func(e Event) error {
		if string(e.Data) != "[DONE]" && string(e.Data) != "POST x/y a/b {}" {
			t.Errorf("data is %s, want the caller's headers to win", e.Data)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDocumentInsteadOfStream: some upstreams report errors with a good status.
func TestDocumentInsteadOfStream(t *testing.T) {
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		for _, b := range []byte(r.URL.Query().Get("body")) { // in pieces
			_, _ = w.Write([]byte{b})
			w.(http.Flusher).Flush()
		}
	})
	post := func(body string) (n int, err error) {
		err = PostSSE(t.Context(), HTTPRequest{URL: url + "?body=" + neturl.QueryEscape(body), Body: []byte("{}")}, func(Event) error { n++; return nil })
		return n, err
	}
	_, err := post("\n {\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow\"}}")
	wantError(t, "an error", err, Limited, Upstream)
	_, err = post(`{"type":"error","code":"server_error"}`)
	wantError(t, "an error event", err, Unavailable, Upstream)
	_, err = post(`{"choices":[],"error":null}`)
	wantError(t, "an answer that isn't streamed", err, Internal, Upstream)
	if n, err := post("data: {}\n\ndata: {}\n\n"); n != 2 || err != nil {
		t.Errorf("a stream under the wrong name: %d events, %v", n, err)
	}
	if n, err := post(""); n != 0 || err != nil {
		t.Errorf("nothing: %d events, %v", n, err)
	}
	if n, err := post(strings.Repeat("\n", 600) + "data: {}\n\n"); n != 1 || err != nil {
		t.Errorf("blank lines first: %d events, %v", n, err)
	}
}

func TestPostLines(t *testing.T) {
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{\"a\":1}\n{\"b\":2}") })
	n := 0
	if err := PostLines(t.Context(), HTTPRequest{URL: url}, func([]byte) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d lines, %v; want 2", n, err)
	}
}

func TestDo(t *testing.T) {
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("X-Many", "a")
		w.Header().Add("X-Many", "b")
		fmt.Fprint(w, r.Method, " ", r.Host == r.Header.Get("Want-Host"))
	})
	host := strings.TrimPrefix(url, "http://")
	resp, err := Do(t.Context(), HTTPRequest{URL: url, Header: Header{"Host": "spoofed", "Want-Host": host}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != "GET true" || resp.Status != 200 || resp.Header["x-many"] != "a, b" || resp.Header.Get("X-MANY") != "a, b" {
		t.Errorf("%d %v %q %v", resp.Status, resp.Header, b, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); AsError(err).Kind != Internal || AsError(err).Fault != Plugin {
		t.Errorf("read after close: %v, want an Internal of the plugin", err)
	}
}

func TestDoJSON(t *testing.T) {
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/list":
			fmt.Fprintf(w, `{"data":["%s"]}`, r.Method)
		case "/page":
			io.WriteString(w, "<!doctype html>")
		case "/cut":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"data":[`)
		case "/long":
			io.WriteString(w, `{"data":["`+strings.Repeat("x", 8<<20)+`"]}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	var list struct{ Data []string }
	do := func(path string) error { return DoJSON(t.Context(), HTTPRequest{URL: url + path}, &list) }
	if err := do("/list"); err != nil || fmt.Sprint(list.Data) != "[GET]" {
		t.Errorf("the list is %v, %v", list.Data, err)
	}
	wantError(t, "a page", do("/page"), Internal, Upstream)
	wantError(t, "half a document", do("/cut"), Truncated, Upstream)
	wantError(t, "a status", do("/denied"), Denied, Host)
	err := do("/long")
	wantError(t, "more than is read", err, Internal, Upstream)
	if err != nil && !strings.Contains(err.Error(), "8 MiB") {
		t.Errorf("more than is read: %v", err)
	}
}

func wantError(t *testing.T, what string, err error, kind Kind, fault Fault) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || e.Fault != fault {
		t.Errorf("%s: error is %#v, want %s of %s", what, err, kind, fault)
	}
}

func TestTransportErrors(t *testing.T) {
	hijack := func(w http.ResponseWriter, reset bool) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if reset {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/reset":
			hijack(w, true)
		case "/close":
			hijack(w, false)
		case "/cut", "/cut-length":
			if r.URL.Path == "/cut-length" {
				w.Header().Set("Content-Length", "1000")
			}
			io.WriteString(w, "data: a\n\ndata: b\n")
			w.(http.Flusher).Flush()
			hijack(w, true)
		case "/redirect":
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		case "/error":
			w.WriteHeader(500)
			io.WriteString(w, `{"error":{"message":"half of an er`)
			w.(http.Flusher).Flush()
			hijack(w, true)
		}
	})
	fetch := func(path string) error {
		return PostSSE(t.Context(), HTTPRequest{URL: url + path, Body: []byte("{}")}, func(Event) error { return nil })
	}
	wantError(t, "reset before the head", fetch("/reset"), Unavailable, Upstream)
	wantError(t, "closed before the head", fetch("/close"), Unavailable, Upstream)
	wantError(t, "cut in a chunked body", fetch("/cut"), Truncated, Upstream)
	wantError(t, "cut in a body with a length", fetch("/cut-length"), Truncated, Upstream)
	wantError(t, "redirect", fetch("/redirect"), Invalid, Host)
	wantError(t, "error with half a body", fetch("/error"), Unavailable, Upstream)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = Do(t.Context(), HTTPRequest{URL: "http://" + l.Addr().String()})
	wantError(t, "nobody listens", err, Unavailable, Upstream)
	for _, bad := range []string{"", "/relative", "ftp://host/", "http://", "http://a b/", "://"} {
		_, err := Do(t.Context(), HTTPRequest{URL: bad})
		wantError(t, "URL "+bad, err, Internal, Plugin)
	}
}

func TestCancelClosesTheConnection(t *testing.T) {
	arrived, closed := make(chan string), make(chan struct{})
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server watches the connection only after that
		if r.URL.Path == "/body" {
			io.WriteString(w, "data: a\n\n")
			w.(http.Flusher).Flush()
		}
		arrived <- r.URL.Path
		<-r.Context().Done()
		closed <- struct{}{}
	})
	for _, path := range []string{"/head", "/body"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- PostSSE(ctx, HTTPRequest{URL: url + path, Body: []byte("{}")}, func(Event) error { return nil })
		}()
		<-arrived
		cancel()
		err := <-done
		wantError(t, path, err, Cancelled, Caller)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v is not context.Canceled", path, err)
		}
		<-closed
	}
	limit := &Error{Kind: Unavailable, Fault: Upstream, Message: "no first token in time"}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancel(limit)
	}()
	if err := PostSSE(ctx, HTTPRequest{URL: url + "/head"}, nil); err != error(limit) {
		t.Errorf("error is %v, want the cause", err)
	}
	<-closed
}

func TestSecretsOutsideAHost(t *testing.T) {
	t.Setenv("TEST_KEY", "s3cret")
	url := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Authorization")) })
	resp, err := Do(t.Context(), HTTPRequest{URL: url, Header: Header{"Authorization": "Bearer ${secret:TEST_KEY}!${secret:TEST_KEY}"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "Bearer s3cret!s3cret" {
		t.Errorf("the header was %q, %v", b, err)
	}
	for _, value := range []string{"${secret:NO_SUCH_KEY}", "${secret:TEST_KEY"} {
		_, err := Do(t.Context(), HTTPRequest{URL: url, Header: Header{"Authorization": value}})
		wantError(t, value, err, Denied, Host)
	}
}

// TestGate speaks to the gate as its protocol has it: absolute targets on a unix socket, errors in
// a header.
func TestGate(t *testing.T) {
	socket := t.TempDir() + "/egress"
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var target, host string
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, host = r.RequestURI, r.Host
		switch r.URL.Path {
		case "/denied":
			w.Header().Set(provider.HeaderError, "CgZkZW5pZWQSBnBsdWdpbhoCbm8=") // denied, plugin, "no"
			w.WriteHeader(502)
		case "/garbled":
			w.Header().Set(provider.HeaderError, "???")
		default:
			io.WriteString(w, "through the gate "+r.Header.Get("Authorization"))
		}
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	transport := newTransport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
	t.Cleanup(transport.CloseIdleConnections)

	const u = "https://api.example.com:8443/a%2Fb?q=%20x&y#fragment"
	resp, err := sendGate(t.Context(), transport, HTTPRequest{Method: "GET", URL: u, Header: Header{"Authorization": "${secret:KEY}"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "through the gate ${secret:KEY}" {
		t.Errorf("the answer is %q, %v; want the reference untouched", b, err)
	}
	if want := "https://api.example.com:8443/a%2Fb?q=%20x&y"; target != want || host != "api.example.com:8443" {
		t.Errorf("the request was for %s, host %s; want %s", target, host, want)
	}
	if p, err := neturl.Parse(target); err != nil || p.Scheme != "https" {
		t.Errorf("the target is %v, %v", p, err)
	}
	_, err = sendGate(t.Context(), transport, HTTPRequest{Method: "GET", URL: "https://a/denied"})
	wantError(t, "denied by the gate", err, Denied, Plugin)
	_, err = sendGate(t.Context(), transport, HTTPRequest{Method: "GET", URL: "https://a/garbled"})
	wantError(t, "garbled", err, Internal, Host)
	srv.Close()
	_, err = sendGate(t.Context(), transport, HTTPRequest{Method: "GET", URL: "https://a/"})
	wantError(t, "no gate", err, Unavailable, Host)
}

func TestSleep(t *testing.T) {
	if err := Sleep(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- Sleep(ctx, time.Hour) }()
	cancel(&Error{Kind: Unavailable, Fault: Upstream, Message: "limit"})
	wantError(t, "sleep", <-done, Unavailable, Upstream)
	wantError(t, "sleep again", Sleep(ctx, 0), Unavailable, Upstream)
}
