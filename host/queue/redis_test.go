package queue

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/proto/job/redistest"
)

// soon bounds every wait of the tests. It is only ever reached by a failure.
const soon = 60 * time.Second

// never is a fallback that no test lives to see: what is picked up was rung for.
const never = time.Hour

// tool finds a program, or skips the test; with SLUICE_REQUIRE=1 it fails it.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SLUICE_REQUIRE") == "1" {
			t.Fatalf("%s is required: %v", name, err)
		}
		t.Skipf("no %s here: %v", name, err)
	}
	return path
}

// A server is a redis-server that a test may kill and start again with its data.
type server struct {
	t    testing.TB
	args []string
	addr string // network address, or path of a unix socket
	cmd  *exec.Cmd
}

// redisServer starts a redis-server with an append-only file on a unix socket.
func redisServer(t testing.TB, extra ...string) *server {
	t.Helper()
	tool(t, "redis-server")
	dir, err := os.MkdirTemp("", "q") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	s := &server{t: t, addr: sock}
	s.args = append([]string{"--port", "0", "--unixsocket", sock, "--dir", dir, "--save", "", "--appendonly", "yes",
		"--enable-debug-command", "local"}, extra...)
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	var out bytes.Buffer
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := redistest.Launch(s.cmd); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(soon); ; {
		if answers(s.addr) {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("redis-server does not answer:\n%s", out.String())
		}
		tick()
	}
}

// answers tells whether a Redis is ready at an address.
func answers(addr string) bool {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	reply := make([]byte, 5)
	_, err = io.ReadFull(conn, reply)
	return err == nil && string(reply) == "+PONG"
}

// kill ends the server as a crash would.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) options() *redis.Options { return &redis.Options{Addr: s.addr, PoolSize: 20} }

func (s *server) client() *redis.Client { return connect(s.t, s.options()) }

func connect(t testing.TB, o *redis.Options) *redis.Client {
	rdb := redis.NewClient(o)
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

func mini(t testing.TB) *redis.Client {
	return connect(t, &redis.Options{Addr: miniredis.RunT(t).Addr(), PoolSize: 20})
}

// onEach runs a test on every kind of Redis there is.
func onEach(t *testing.T, f func(t *testing.T, rdb redis.UniversalClient)) {
	t.Run("redis-server", func(t *testing.T) { t.Parallel(); f(t, redisServer(t).client()) })
	t.Run("miniredis", func(t *testing.T) { t.Parallel(); f(t, mini(t)) })
	t.Run("cluster", func(t *testing.T) { t.Parallel(); f(t, redisCluster(t)) })
}

// shared is a Cluster of 3 masters that the tests of this package have in turn.
var shared redistest.Share

func TestMain(m *testing.M) {
	code := m.Run()
	shared.Close()
	os.Exit(code)
}

func redisCluster(t *testing.T) *redis.ClusterClient {
	t.Helper()
	return shared.Get(t).Client(t)
}

// tick is the pause between two looks at something that tells no event.
func tick() { <-time.After(10 * time.Millisecond) }

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !ok(); tick() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A writer logs to a test until it ends.
type writer struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func logTo(t testing.TB) *slog.Logger {
	w := &writer{t: t}
	t.Cleanup(func() { w.mu.Lock(); w.t = nil; w.mu.Unlock() })
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// serve runs a queue until the test ends, or stop is called, and wants it to end
// without an error.
func serve(t testing.TB, o Options, h asynq.HandlerFunc) (q *Queue, stop func()) {
	t.Helper()
	if o.Owner == "" {
		o.Owner = "host-a"
	}
	if o.Queues == nil {
		o.Queues = map[string]int{"default": 1}
	}
	if o.Fallback == 0 {
		o.Fallback = never
	}
	o.Log = logTo(t)
	q = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Serve(ctx, h) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(soon):
			t.Error("serve does not end")
		}
	})
	t.Cleanup(stop)
	return q, stop
}

// idle waits until the queue has found nothing and sleeps.
func idle(t testing.TB, q *Queue) {
	t.Helper()
	n := q.Stats().Waits
	q.Wake("")
	eventually(t, "the queue to be idle", func() bool { return q.Stats().Waits > n })
}

// put enqueues a task as a gateway would that rings afterwards.
func put(t testing.TB, rdb redis.UniversalClient, queue, id string, opts ...asynq.Option) {
	t.Helper()
	if err := tryPut(rdb, queue, id, opts...); err != nil {
		t.Fatalf("enqueue %s: %v", id, err)
	}
	if err := ring(context.Background(), rdb, queue); err != nil {
		t.Fatalf("ring for %s: %v", id, err)
	}
}

// tryPut enqueues a task and rings nobody.
func tryPut(rdb redis.UniversalClient, queue, id string, opts ...asynq.Option) error {
	opts = append([]asynq.Option{asynq.TaskID(id), asynq.Queue(queue), asynq.MaxRetry(50), asynq.Timeout(2 * time.Hour)}, opts...)
	_, err := asynq.NewClientFromRedisClient(rdb).Enqueue(asynq.NewTask(job.TaskType, []byte(id)), opts...)
	return err
}

func count(t testing.TB, rdb redis.UniversalClient, queue, list string) int {
	t.Helper()
	key := keyOf(queue, list)
	var n int64
	var err error
	switch list {
	case "pending", "active":
		n, err = rdb.LLen(context.Background(), key).Result()
	default:
		n, err = rdb.ZCard(context.Background(), key).Result()
	}
	if err != nil {
		t.Fatalf("count %s: %v", key, err)
	}
	return int(n)
}

// A tally counts how often each task ran.
type tally struct {
	mu   sync.Mutex
	runs map[string]int
	more chan struct{}
}

func newTally() *tally { return &tally{runs: map[string]int{}, more: make(chan struct{}, 1)} }

func (y *tally) add(ctx context.Context) int {
	id, _ := asynq.GetTaskID(ctx)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.runs[id]++
	select {
	case y.more <- struct{}{}:
	default:
	}
	return y.runs[id]
}

func (y *tally) of(id string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.runs[id]
}

func (y *tally) size() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.runs)
}

// wait waits until n different tasks have run.
func (y *tally) wait(t testing.TB, n int) {
	t.Helper()
	end := time.After(soon)
	for y.size() < n {
		select {
		case <-y.more:
		case <-end:
			t.Fatalf("%d of %d tasks ran", y.size(), n)
		}
	}
}

// once fails the test for each task that ran more than once.
func (y *tally) once(t testing.TB) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	for id, n := range y.runs {
		if n != 1 {
			t.Errorf("task %s ran %d times", id, n)
		}
	}
}
