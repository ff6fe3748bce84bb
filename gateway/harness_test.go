package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/proto/job/redistest"
)

// deadline is how long a test waits for an event that must come.
const deadline = 30 * time.Second

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// quiet is a log for tests with crowds.
func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// onEachRedis runs a test on the embedded Redis, on redis-server and on a Cluster.
func onEachRedis(t *testing.T, test func(t *testing.T, rdb redis.UniversalClient)) {
	t.Run("memory", func(t *testing.T) { test(t, memoryRedis(t)) })
	t.Run("server", func(t *testing.T) { test(t, serverRedis(t)) })
	t.Run("cluster", func(t *testing.T) { test(t, clusterRedis(t)) })
}

func memoryRedis(t testing.TB) redis.UniversalClient {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func serverRedis(t testing.TB) redis.UniversalClient {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("this test needs redis-server: apt-get install redis-server")
	}
	dir, err := os.MkdirTemp("", "gw") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock := filepath.Join(dir, "redis.sock")
	cmd := exec.Command(program, "--port", "0", "--unixsocket", sock, "--save", "", "--dir", dir)
	if err := redistest.Launch(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: sock})
	t.Cleanup(func() { _ = rdb.Close() })
	for end := time.Now().Add(deadline); ; {
		if err := rdb.Ping(t.Context()).Err(); err == nil {
			return rdb
		} else if time.Now().After(end) {
			t.Fatal("redis-server does not answer:", err)
		}
	}
}

func testConfig() config.Gateway {
	c := config.Default().Gateway
	c.Addr = "127.0.0.1:0"
	return c
}

// startGateway runs a gateway until the test ends, and returns its address and
// what stops it earlier.
func startGateway(t testing.TB, rdb redis.UniversalClient, c config.Gateway) (addr string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Config: c, Redis: rdb, Log: testLog(t), Ready: func(a string) { ready <- a }})
	}()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(deadline):
			return errors.New("the gateway does not stop")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error("gateway:", err)
		}
	})
	select {
	case addr = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal("gateway:", err)
	}
	return addr, stop
}

// Kinds of Socket.IO packets: https://socket.io/docs/v4/socket-io-protocol/
const (
	packetDisconnect = '1'
	packetEvent      = '2'
	packetAck        = '3'
	packetRefusal    = '4'
)

// message is one Socket.IO packet that a client received.
type message struct {
	Kind byte // packetEvent, packetAck, …
	ID   int64
	Name string
	Data json.RawMessage // the first argument
}

func (m message) field(t testing.TB, name string) any {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(m.Data, &fields); err != nil {
		t.Fatalf("%s: %v", m.Data, err)
	}
	return fields[name]
}

// client is a Socket.IO client as small as can be: a WebSocket, the packets
// written by hand.
type client struct {
	t    testing.TB
	ws   *websocket.Conn
	done chan struct{} // closed when the connection has ended

	mu     sync.Mutex
	news   chan struct{} // closed and replaced with every message
	all    []message
	taken  map[int]bool
	nextID int64
	err    error
}

// dial opens the transport and joins nothing yet.
func dial(t testing.TB, addr string, options *websocket.DialOptions) *client {
	t.Helper()
	c, err := tryDial(t, addr, options)
	if err != nil {
		t.Fatal("dial:", err)
	}
	return c
}

func tryDial(t testing.TB, addr string, options *websocket.DialOptions) (*client, error) {
	ws, _, err := websocket.Dial(context.Background(), "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", options)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(64 << 20)
	c := &client{t: t, ws: ws, done: make(chan struct{}), news: make(chan struct{}), taken: map[int]bool{}}
	t.Cleanup(func() {
		_ = ws.CloseNow()
		<-c.done
	})
	go c.read(context.Background())
	return c, nil
}

// connect joins the main namespace with an auth object and waits for connected.
func connect(t testing.TB, addr, auth string) *client {
	t.Helper()
	c := dial(t, addr, nil)
	c.send("40" + auth)
	c.await("connected")
	return c
}

func (c *client) read(ctx context.Context) {
	defer close(c.done)
	for {
		_, b, err := c.ws.Read(ctx)
		if err != nil {
			c.mu.Lock()
			c.err = err
			close(c.news)
			c.news = make(chan struct{})
			c.mu.Unlock()
			return
		}
		switch b[0] {
		case '2': // ping
			_ = c.ws.Write(ctx, websocket.MessageText, []byte("3"))
		case '4':
			m, err := readMessage(b[1:])
			if err != nil {
				c.t.Errorf("unreadable packet %q: %v", b, err)
				continue
			}
			c.mu.Lock()
			c.all = append(c.all, m)
			close(c.news)
			c.news = make(chan struct{})
			c.mu.Unlock()
		}
	}
}

// readMessage reads a packet of the main namespace. Of others there are only
// refusals.
func readMessage(b []byte) (message, error) {
	m := message{Kind: b[0], ID: -1}
	rest := b[1:]
	if len(rest) > 0 && rest[0] == '/' {
		_, rest, _ = bytes.Cut(rest, []byte{','})
	}
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if digits > 0 {
		m.ID, _ = strconv.ParseInt(string(rest[:digits]), 10, 64)
	}
	m.Data = bytes.Clone(rest[digits:])
	if m.Kind != packetEvent && m.Kind != packetAck {
		return m, nil
	}
	var args []json.RawMessage
	if err := json.Unmarshal(m.Data, &args); err != nil {
		return m, err
	}
	if m.Kind == packetEvent {
		if err := json.Unmarshal(args[0], &m.Name); err != nil {
			return m, err
		}
		args = args[1:]
	}
	if len(args) != 1 {
		return m, fmt.Errorf("%d arguments", len(args))
	}
	m.Data = args[0]
	return m, nil
}

func (c *client) send(packet string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := c.ws.Write(ctx, websocket.MessageText, []byte(packet)); err != nil {
		c.t.Error("send:", err)
	}
}

// find waits for the first message that fits and was not returned before.
func (c *client) find(what string, fits func(message) bool) message {
	c.t.Helper()
	timeout := time.After(deadline)
	for at := 0; ; {
		c.mu.Lock()
		for ; at < len(c.all); at++ {
			if !c.taken[at] && fits(c.all[at]) {
				c.taken[at] = true
				m := c.all[at]
				c.mu.Unlock()
				return m
			}
		}
		news, err := c.news, c.err
		c.mu.Unlock()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v\nhave %s", what, err, c.dump())
		}
		select {
		case <-news:
		case <-timeout:
			c.t.Fatalf("no %s came\nhave %s", what, c.dump())
		}
	}
}

func (c *client) dump() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, m := range c.all {
		fmt.Fprintf(&b, "\n  %c %s %.160s", m.Kind, m.Name, m.Data)
	}
	return b.String()
}

func (c *client) await(event string) message {
	c.t.Helper()
	return c.find(event, func(m message) bool { return m.Kind == packetEvent && m.Name == event })
}

// ask emits an event with an ack and returns the ack's argument.
func (c *client) ask(event, payload string) message {
	c.t.Helper()
	return c.answered(c.emit(event, payload))
}

// emit sends an event with an ack and returns the ack's id.
func (c *client) emit(event, payload string) int64 {
	c.t.Helper()
	c.mu.Lock()
	id := c.nextID
	c.nextID++
	c.mu.Unlock()
	c.send("42" + strconv.FormatInt(id, 10) + `["` + event + `",` + payload + `]`)
	return id
}

func (c *client) answered(id int64) message {
	c.t.Helper()
	return c.find(fmt.Sprintf("ack %d", id), func(m message) bool { return m.Kind == packetAck && m.ID == id })
}

// closed waits until the gateway has ended the connection.
func (c *client) closed() {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(deadline):
		c.t.Fatalf("the connection stays open\nhave %s", c.dump())
	}
}

// seen lists the events of a name that have come so far.
func (c *client) seen(events ...string) []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []message
	for _, m := range c.all {
		for _, e := range events {
			if m.Kind == packetEvent && m.Name == e {
				found = append(found, m)
			}
		}
	}
	return found
}

// barrier returns when everything sent to the client before has arrived: acks
// and frames take the same way.
func (c *client) barrier() {
	c.t.Helper()
	c.ask("job:leave:v1", `{"jobId":"barrier"}`)
}

// frames lists the data of the logged frames of a job, in the order in which
// they came.
func (c *client) frames(id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
	for _, m := range c.all {
		var d struct {
			JobID string
			Seq   int64
		}
		if m.Kind == packetEvent && json.Unmarshal(m.Data, &d) == nil && d.JobID == id && d.Seq > 0 {
			found = append(found, m.Name+" "+string(m.Data))
		}
	}
	return found
}

// fakeHost does what a host does for a job, without plugins and without asynq.
type fakeHost struct {
	t     testing.TB
	store *job.Store
}

func newHost(t testing.TB, rdb redis.UniversalClient) *fakeHost {
	return &fakeHost{t: t, store: job.NewStore(rdb, job.Options{General: true})}
}

// announce makes models known until the test ends.
func (h *fakeHost) announce(names ...string) {
	h.t.Helper()
	hosts := job.NewHosts(h.store, testLog(h.t), job.HostsOptions{})
	info := job.HostInfo{ID: "host-" + job.NewID(), Started: time.Now()}
	for _, n := range names {
		info.Models = append(info.Models, job.ModelInfo{Name: n, Provider: "fake"})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = hosts.Announce(ctx, info, nil)
	}()
	h.t.Cleanup(func() {
		cancel()
		<-ended
	})
	for end := time.Now().Add(deadline); ; {
		if list, err := hosts.Models(context.Background()); err == nil && len(list) > 0 {
			return
		}
		if time.Now().After(end) {
			h.t.Fatal("the host is not seen")
		}
	}
}

func (h *fakeHost) begin(id string, attempt int64) *job.Attempt {
	h.t.Helper()
	a, err := h.store.Begin(context.Background(), job.Ticket{Job: id, Attempt: attempt}, "fake")
	if err != nil {
		h.t.Fatal("begin:", err)
	}
	h.append(a, &job.Start{Provider: "fake", Model: "echo", Reset: attempt > 1})
	return a
}

func (h *fakeHost) append(a *job.Attempt, events ...job.Event) {
	h.t.Helper()
	if err := a.Append(context.Background(), events...); err != nil {
		h.t.Fatal("append:", err)
	}
}

func (h *fakeHost) chunks(a *job.Attempt, texts ...string) {
	h.t.Helper()
	for _, text := range texts {
		h.append(a, &job.Chunk{Chunk: text})
	}
}

func (h *fakeHost) complete(a *job.Attempt) {
	h.t.Helper()
	if err := a.Finish(context.Background(), &job.Complete{Tokens: 3, FinishReason: "stop", Provider: "fake", Model: "echo"}); err != nil {
		h.t.Fatal("finish:", err)
	}
}

// log lists the frames of a job's log as a client should see them.
func (h *fakeHost) log(id string, after int64) []string {
	h.t.Helper()
	var all []string
	for {
		frames, _, err := h.store.Read(context.Background(), id, after, 1000)
		if err != nil {
			h.t.Fatal("read:", err)
		}
		if len(frames) == 0 {
			return all
		}
		for _, f := range frames {
			all = append(all, f.Event+" "+string(f.Data))
			after = f.Seq
		}
	}
}

// eventually waits for something that can only be looked at.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(deadline)
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("never came: ", what)
		}
	}
}
