package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// pipe is a listener for one connection, whose writes wait for a reader.
type pipe struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipe) Addr() net.Addr { return &net.UnixAddr{} }

// closing is a connection that tells when the server closes it.
type closing struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Who sends half a request, or doesn't take the answer, holds nothing for ever; a
// poll may take as long as it likes.
func TestRequestsThatStandStill(t *testing.T) {
	const host = "Host: localhost\r\n"
	for name, test := range map[string]struct {
		request string
		reads   bool
		answer  string // that must come
	}{
		"no body":               {"POST /healthz HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\n", true, ""},
		"half a body":           {"POST /v1/jobs/x HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\nx", true, ""},
		"half a chunk":          {"POST /readme HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nx", true, ""},
		"no body for a session": {"POST /socket.io/?EIO=4 HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\n", true, ""},
		"answer not taken":      {"GET /socket.io/socket.io.js HTTP/1.1\r\n" + host + "\r\n", false, ""},
		"a poll":                {"GET /socket.io/?EIO=4 HTTP/1.1\r\n" + host + "\r\n", true, "polled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
				defer rdb.Close()
				c := newCore(t.Context(), Options{Config: testConfig(), Redis: rdb, Log: testLog(t)}, openDoor{})
				server := newHTTPServer(c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet {
						sleep(r.Context(), 5*time.Minute)
					}
					fmt.Fprint(w, "polled")
				}))
				listener := &pipe{conns: make(chan net.Conn, 1), done: make(chan struct{})}
				var running sync.WaitGroup
				running.Go(func() { _ = server.Serve(listener) })
				client, nc := net.Pipe()
				there := &closing{Conn: nc, closed: make(chan struct{})}
				listener.conns <- there
				running.Go(func() { _, _ = io.WriteString(client, test.request) })
				var got string
				if test.reads {
					_ = client.SetReadDeadline(time.Now().Add(time.Hour))
					all, err := io.ReadAll(client)
					if got = string(all); err != nil {
						t.Error("the connection stays open:", err)
					}
				} else {
					select {
					case <-there.closed:
					case <-time.After(time.Hour):
						t.Error("the connection stays open")
					}
				}
				if !strings.Contains(got, test.answer) {
					t.Errorf("answer %q", got)
				}
				_ = client.Close()
				_ = server.Close()
				running.Wait()
			})
		})
	}
}

// Those who don't take the answer keep nobody from reading a job.
func TestSlowReadersHoldUpNobody(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"large"}`))
	wantOK(t, c.ask("job:leave:v1", `{"jobId":"large"}`))
	a := host.begin("large", 1)
	for range 16 { // more than the kernel holds for one connection
		host.append(a, &job.Chunk{Chunk: strings.Repeat("x", 1<<20)})
	}
	for range maxReads {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		fmt.Fprintf(nc, "GET /v1/jobs/large HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
		if line, err := bufio.NewReader(nc).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q %v", line, err)
		}
	}
	res, err := http.Get("http://" + addr + "/v1/jobs/large")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
}

// logReads counts the pages that are read from logs.
type logReads struct{ n atomic.Int64 }

func (*logReads) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *logReads) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, c redis.Cmder) error {
		l.see(c)
		return next(ctx, c)
	}
}

func (l *logReads) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, all []redis.Cmder) error {
		for _, c := range all {
			l.see(c)
		}
		return next(ctx, all)
	}
}

func (l *logReads) see(c redis.Cmder) {
	if c.Name() == "xrange" {
		l.n.Add(1)
	}
}

// A client that takes nothing and resumes, again and again and many jobs, has the
// gateway hold a few pages, and no reader for each time; then it gets everything.
func TestResumingWithoutReading(t *testing.T) {
	rdb := memoryRedis(t)
	reads := &logReads{}
	rdb.AddHook(reads)
	host := newHost(t, rdb)
	c := newCore(t.Context(), Options{Config: testConfig(), Redis: rdb, Log: quiet(t)}, openDoor{})
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	var ids []string
	for i := range 20 {
		id := fmt.Sprint("job-", i)
		j := job.Job{ID: id, User: anonymous, Query: "x", Models: []string{"echo"}}
		if _, _, err := host.store.Create(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		a := host.begin(id, 1)
		host.chunks(a, "text")
		host.complete(a)
		ids = append(ids, id)
	}
	w.mu.Lock()
	w.stalled = true
	w.mu.Unlock()
	w.waiting.Store(int64(s.box.limit)) // the client is far behind
	before := runtime.NumGoroutine()
	reads.n.Store(0)
	for range 20 {
		for _, id := range ids {
			_, after, err := s.resumeJob(t.Context(), request{JobID: id, Payload: []byte(`{}`)})
			if err != nil {
				t.Fatal(err)
			}
			after()
		}
	}
	if n := runtime.NumGoroutine() - before; n > len(ids)+20 {
		t.Errorf("%d goroutines for %d jobs", n, len(ids))
	}
	if n := reads.n.Load(); n > maxHeld {
		t.Errorf("%d pages were read for a client that takes nothing", n)
	}
	w.drain()
	for _, id := range ids {
		want := `"jobId":"` + id + `"`
		eventually(t, "the end of "+id, func() bool {
			return slices.ContainsFunc(w.of(job.EventComplete), func(data string) bool { return strings.Contains(data, want) })
		})
	}
	s.end("test")
}
