package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// hand is a host whose every step a test decides, from outside of Go: each step is
// a POST of JSON, with its name as the path. It also has a hand on the network in
// front of the gateway.
type hand struct {
	t     *testing.T
	rdb   *redis.Client
	store *job.Store
	net   *network

	mu       sync.Mutex
	hosts    *job.Hosts
	attempts map[string]*job.Attempt
}

// newHand returns the address of a hand on the jobs of a Redis.
func newHand(t *testing.T, rdb *redis.Client, n *network) (url string) {
	h := &hand{t: t, rdb: rdb, store: job.NewStore(rdb, job.Options{}), net: n, attempts: map[string]*job.Attempt{}}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func (h *hand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = h.step(r.Context(), strings.TrimPrefix(r.URL.Path, "/"), body)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("%s %s: %v", r.URL.Path, body, err), http.StatusInternalServerError)
	}
}

// step does one.
func (h *hand) step(ctx context.Context, name string, body []byte) error {
	var in struct {
		Job, Kind, Status, Message, Text, Channel string
		Attempt                                   int64
		Reset                                     bool
		Body                                      json.RawMessage
		Models                                    []string
		Times                                     int
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attempts[in.Job]
	switch name {
	case "models":
		return h.announce(in.Models)
	case "begin":
		a, err := h.store.Begin(ctx, job.Ticket{Job: in.Job, Attempt: in.Attempt}, "hand")
		if err != nil {
			return err
		}
		h.attempts[in.Job] = a
		return a.Append(ctx, &job.Start{Provider: "hand", Model: "alpha", Reset: in.Reset})
	case "text":
		for range max(1, in.Times) {
			if err := a.Append(ctx, &job.Chunk{Chunk: in.Text}); err != nil {
				return err
			}
		}
		return nil
	case "delta":
		return a.Append(ctx, &job.Delta{Kind: in.Kind, Body: in.Body})
	case "progress":
		return a.Append(ctx, &job.Progress{Status: in.Status, Message: in.Message})
	case "release":
		_, err := a.Release(ctx, job.StateWaiting)
		return err
	case "complete":
		return a.Finish(ctx, &job.Complete{
			Tokens: 12, Duration: 4321, FinishReason: "stop", Usage: &job.Usage{Input: 3, Output: 12, CacheRead: 2}, Provider: "hand", Model: "alpha",
			Timings: &job.Timings{Queued: 1200, FirstChunk: 400, Total: 3100},
		})
	case "publish": // as an older worker does, without the log
		for range max(1, in.Times) {
			if err := h.rdb.Publish(ctx, in.Channel, string(in.Body)).Err(); err != nil {
				return err
			}
		}
		return nil
	case "cut":
		h.net.away(true)
	case "mend":
		h.net.away(false)
	case "clog":
		h.net.clog(true)
	case "flow":
		h.net.clog(false)
	default:
		return fmt.Errorf("no step of that name")
	}
	return nil
}

// announce says which models this host serves from now on.
func (h *hand) announce(names []string) error {
	var models []job.ModelInfo
	for _, n := range names {
		models = append(models, job.ModelInfo{Name: n, Provider: "hand", Runtime: "native"})
	}
	if h.hosts != nil {
		h.hosts.Update(models)
		return nil
	}
	h.hosts = job.NewHosts(h.store, slog.New(slog.NewTextHandler(h.t.Output(), nil)), job.HostsOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.hosts.Announce(ctx, job.HostInfo{ID: "hand", Started: time.Now(), Models: models}, nil)
	}()
	h.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return nil
}

// network lies between a client and a gateway: it can be cut, and it can be
// clogged, so that nothing gets through and nothing is lost.
type network struct {
	url string
	to  string

	mu     sync.Mutex
	cut    bool
	open   chan struct{} // closed unless it is clogged
	conns  map[net.Conn]bool
	copies sync.WaitGroup
}

func newNetwork(t *testing.T, gateway string) *network {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{url: "http://" + listener.Addr().String(), to: strings.TrimPrefix(gateway, "http://"), open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(n.open)
	n.copies.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			n.copies.Go(func() { n.carry(near) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		n.clog(false)
		n.away(true)
		n.copies.Wait()
	})
	return n
}

func (n *network) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", n.to)
	if err != nil {
		return
	}
	defer far.Close()
	n.mu.Lock()
	cut := n.cut
	n.conns[near], n.conns[far] = true, true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.conns, near)
		delete(n.conns, far)
	}()
	if cut {
		return
	}
	n.copies.Go(func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	})
	buffer := make([]byte, 16<<10)
	for {
		n.mu.Lock()
		open := n.open
		n.mu.Unlock()
		<-open
		size, err := far.Read(buffer)
		if err != nil {
			return
		}
		if _, err := near.Write(buffer[:size]); err != nil {
			return
		}
	}
}

func (n *network) away(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = yes
	for c := range n.conns {
		if yes {
			_ = c.Close()
		}
	}
}

func (n *network) clog(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.open:
		if yes {
			n.open = make(chan struct{})
		}
	default:
		if !yes {
			close(n.open)
		}
	}
}

// The page in states that no plugin brings about at will: a place in the queue,
// another attempt, sources and images, a lost and a clogged connection, models
// that come and go.
func TestPageInEveryState(t *testing.T) {
	in := install(t)
	rdb := redisServer(t)
	gateway := start(t, in, []string{
		"SLUICE_REDIS__URL=" + rdb.url(), "SLUICE_GATEWAY__DEFAULT_MODEL=alpha", "SLUICE_GATEWAY__LIMITS__PENDING=256KiB",
	}, "gateway")
	n := newNetwork(t, gateway.url)
	browse(t, 4*time.Minute, "states.mjs", n.url, newHand(t, rdb.client(), n))
}
