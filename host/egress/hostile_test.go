package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// soon fails a test when do doesn't return.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal(what)
	}
}

// A server of the plugin's own, which is sent no key, could have the plugin learn it letter by letter:
// what may be the beginning of one must come as fast as anything else.
func TestWaitingTellsNothingOfASecret(t *testing.T) {
	release := make(chan struct{})
	colluding := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, key[:len(key)-1])
		http.NewResponseController(w).Flush()
		<-release
	})
	m := testManifest(t, "", "https://acme.test", colluding.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	resp, err := g.Do(t.Context(), &Request{Method: "GET", URL: colluding.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer close(release)
	soon(t, "the beginning of the key is held back", func() {
		if _, err := io.ReadFull(resp.Body, make([]byte, len(key)-1)); err != nil {
			t.Error(err)
		}
	})
}

// upstream answers every request with raw bytes and keeps the connection.
func upstream(t *testing.T, raw string) (url string, closed <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ended := make(chan struct{}, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				io.WriteString(c, raw)
				io.Copy(io.Discard, in)
				ended <- struct{}{}
			}()
		}
	}()
	return "http://" + l.Addr().String(), ended
}

// An upstream that switches protocols unasked would have a connection that no cancellation ends, and
// with it a job's slot.
func TestSwitchingProtocolsIsNoResponse(t *testing.T) {
	url, closed := upstream(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
	m := testManifest(t, "", url)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp, err := g.Do(ctx, &Request{Method: "GET", URL: url})
	if err == nil {
		defer resp.Body.Close()
		cancel()
		soon(t, "the body outlives its request", func() { io.Copy(io.Discard, resp.Body) })
		t.Fatal("it was taken for a response")
	}
	if e := sdk.AsError(err); e.Kind != sdk.Unavailable || e.Fault != sdk.Upstream || e.Status != 101 {
		t.Errorf("error is %+v", e)
	}
	soon(t, "the connection stays", func() { <-closed })
}

// What an error quotes of an upstream has no part of a secret in it either.
func TestSecretsInErrors(t *testing.T) {
	for pad := 200; pad < 300; pad += 5 {
		url, _ := upstream(t, "HTTP/1.1 "+strings.Repeat("x", pad)+key+" OK\r\n\r\n")
		m := testManifest(t, "", url)
		m.AllowPrivate = []string{"127.0.0.1"}
		g, _ := newGate(t, m, Options{})
		if _, _, err := get(t, g, url); err == nil || strings.Contains(err.Error(), key[:5]) {
			t.Fatalf("error is %v", err)
		}
	}
}

// Headers are as long as they are sent.
func TestRepeatedSecretsAreCounted(t *testing.T) {
	srv := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	const place = "${secret:KEY}"
	_, _, err := get(t, g, srv.URL, "Authorization", strings.Repeat(place, maxHeaderBytes/len(place)-10))
	wantRefusal(t, err, "32 KiB of them")
}

// What is encoded once more than it says can't be searched.
func TestEncodingsAreReadWhole(t *testing.T) {
	url, _ := upstream(t, "HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")
	m := testManifest(t, "", url)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	if text, _, err := get(t, g, url); err == nil {
		t.Errorf("it was read: %q", text)
	}
}

// Servers escape more than they must.
func TestEscapedSecrets(t *testing.T) {
	var echo string
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, echo) })
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	for _, echo = range []string{`sk-live-0123456789\/+\"x`, "sk-live-0123456789%2f%2b%22x"} {
		if text, _, err := get(t, g, srv.URL); err != nil || strings.Trim(text, "*") != "" {
			t.Errorf("%q, %v", text, err)
		}
	}
}

// A wildcard stands for as many servers as its owner likes, and each may keep its connections open.
func TestIdleConnectionsAreBounded(t *testing.T) {
	const hosts = idleInAll + 50
	var mu sync.Mutex
	closed := sync.NewCond(&mu)
	open := 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch s {
		case http.StateNew:
			open++
		case http.StateClosed:
			open--
			closed.Broadcast()
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	m := testManifest(t, "", "http://*.acme.test"+port)
	table := map[string][][]string{}
	for i := range hosts {
		name := fmt.Sprintf("h%d.acme.test", i)
		m.AllowPrivate = append(m.AllowPrivate, name)
		table[name] = [][]string{{"127.0.0.1"}}
	}
	g, _ := newGate(t, m, Options{Resolver: &mapResolver{table: table}})
	for name := range table {
		if _, _, err := get(t, g, "http://"+name+port); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, fmt.Sprintf("more than %d connections stay open", idleInAll), func() {
		mu.Lock()
		defer mu.Unlock()
		for open > idleInAll {
			closed.Wait()
		}
	})
}

// However many processes a plugin makes, its connections to the gate are as many as its limits need.
func TestDoorsAreBounded(t *testing.T) {
	m := testManifest(t, "concurrency: 1, open_requests: 1", "https://acme.test")
	g, _ := newGate(t, m, Options{})
	tr := face(t, g).Transport.(*http.Transport)
	ask := func() (net.Conn, error) {
		c, err := tr.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1))
		return c, err
	}
	var first net.Conn
	for i := range g.doors() {
		c, err := ask()
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i == 0 {
			first = c
		}
	}
	late, err := ask()
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("one too many was answered, %v", err)
	}
	first.Close()
	if err := late.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Read(make([]byte, 1)); err != nil {
		t.Errorf("it is not answered when another has gone: %v", err)
	}
}

// An address that swallows packets doesn't use up the time of the next.
func TestSilentAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent, good := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")
		ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
		defer cancel()
		conn, err := race(ctx, []netip.Addr{silent, silent, good}, func(ctx context.Context, a netip.Addr) (net.Conn, error) {
			if a == silent {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			here, _ := net.Pipe()
			return here, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if _, err := race(ctx, []netip.Addr{silent, good}, func(context.Context, netip.Addr) (net.Conn, error) { return nil, io.ErrClosedPipe }); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("error is %v", err)
		}
	})
}
