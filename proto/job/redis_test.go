package job

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job/redistest"
)

// soon is how long a test waits for what should happen at once: much longer than needed on a loaded machine.
const soon = 30 * time.Second

// onEach runs a test on every kind of Redis.
func onEach(t *testing.T, f func(t *testing.T, rdb redis.UniversalClient)) {
	t.Run("miniredis", func(t *testing.T) { f(t, mini(t)) })
	t.Run("redis-server", func(t *testing.T) { f(t, startServer(t).client(t)) })
	t.Run("cluster", func(t *testing.T) { f(t, cluster(t)) })
}

// onServer runs a test on the kinds that take little time to start.
func onServer(t *testing.T, f func(t *testing.T, rdb redis.UniversalClient)) {
	t.Run("miniredis", func(t *testing.T) { f(t, mini(t)) })
	t.Run("redis-server", func(t *testing.T) { f(t, startServer(t).client(t)) })
}

func mini(t testing.TB) redis.UniversalClient {
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { c.Close() })
	return c
}

// server is a redis-server of one test, on a unix socket.
type server struct {
	*redistest.Server
	t      testing.TB
	socket string
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := redistest.Start(t, args...)
	return &server{Server: s, t: t, socket: s.Addr}
}

// start returns when the server answers.
func (s *server) start() {
	s.t.Helper()
	must(s.t, s.Start())
}

// kill is kill -9.
func (s *server) kill() { s.Kill() }

func (s *server) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	return c
}

// shared is the Redis Cluster of this package's tests, three masters, started once.
var shared redistest.Share

func TestMain(m *testing.M) {
	if socket := os.Getenv("JOB_TEST_CHILD"); socket != "" {
		childHost(socket, os.Getenv("JOB_TEST_JOB"))
		return
	}
	redis.SetLogger(silent{})
	code := m.Run()
	shared.Close()
	os.Exit(code)
}

func cluster(t *testing.T) redis.UniversalClient {
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	return shared.Get(t).Client(t)
}

// eventually polls what has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(soon)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", soon, what)
		}
	}
}

// silent keeps go-redis from writing each failed dial of an outage to stderr.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

type testLog struct{ t testing.TB }

func (w testLog) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(testLog{t}, nil)) }

// start runs a blocking function until the test ends and waits for it.
func start(t testing.TB, run func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// dropReplies makes a client lose replies: the command takes effect, its caller gets an error.
type dropReplies struct {
	mu   sync.Mutex
	drop func(cmd redis.Cmder) bool
}

var errLost = fmt.Errorf("read reply: %w", io.ErrUnexpectedEOF)

func (d *dropReplies) set(f func(cmd redis.Cmder) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop = f
}

func (d *dropReplies) lost(cmd redis.Cmder) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.drop != nil && d.drop(cmd)
}

func (d *dropReplies) DialHook(next redis.DialHook) redis.DialHook { return next }
func (d *dropReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && d.lost(cmd) {
			cmd.SetErr(errLost)
			return errLost
		}
		return err
	}
}

func (d *dropReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if err == nil && d.lost(cmds[len(cmds)-1]) {
			for _, cmd := range cmds {
				cmd.SetErr(errLost)
			}
			return errLost
		}
		return err
	}
}

// Shorthands of the tests.

func create(t testing.TB, s *Store, j Job) Ticket {
	t.Helper()
	if j.ID == "" {
		j.ID = NewID()
	}
	if j.User == "" {
		j.User = "ann"
	}
	if _, created, err := s.Create(t.Context(), j); err != nil || !created {
		t.Fatalf("create: %v %v", created, err)
	}
	return Ticket{Job: j.ID, Attempt: 1}
}

func begin(t testing.TB, s *Store, k Ticket, host string) *Attempt {
	t.Helper()
	a, err := s.Begin(t.Context(), k, host)
	if err != nil {
		t.Fatalf("begin %s: %v", k.TaskID(), err)
	}
	return a
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func chunk(text string) Event { return &Chunk{Chunk: text} }

// logOf reads a whole log and checks that it counts from 1 without gaps and has at most one terminal frame, the last.
func logOf(t testing.TB, s *Store, id string) ([]Frame, Status) {
	t.Helper()
	frames, st, err := s.Read(context.Background(), id, 0, 1<<20)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	for i, f := range frames {
		if f.Seq != int64(i)+1 || f.Job != id {
			t.Errorf("frame %d has seq %d of job %s", i, f.Seq, f.Job)
		}
		if f.Terminal() != (i == len(frames)-1 && st.State.Terminal()) {
			t.Errorf("frame %d of %d is %s in state %s", f.Seq, len(frames), f.Event, st.State)
		}
	}
	if st.Seq != int64(len(frames)) {
		t.Errorf("record says seq %d, log has %d", st.Seq, len(frames))
	}
	return frames, st
}

func events(frames []Frame) string {
	var b strings.Builder
	for _, f := range frames {
		name, _, _ := strings.Cut(f.Event, ":v1")
		fmt.Fprintf(&b, "%s ", strings.TrimPrefix(strings.TrimPrefix(name, "model:"), "task:"))
	}
	return strings.TrimSpace(b.String())
}

func textOf(t testing.TB, frames []Frame) string {
	t.Helper()
	s, err := Text(frames)
	must(t, err)
	return s
}
