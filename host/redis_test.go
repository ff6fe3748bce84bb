package host

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
)

// onEachRedis runs a test on miniredis and on a redis-server of its own.
func onEachRedis(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, miniredis.RunT(t).Addr())
	})
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		test(t, startServer(t).addr)
	})
}

// server is a redis-server with its data kept over restarts.
type server struct {
	t    testing.TB
	dir  string
	addr string // a unix socket
	args []string
	cmd  *exec.Cmd
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("SLUICE_REQUIRE") != "" {
			t.Fatal("redis-server is required: ", err)
		}
		t.Skip("needs redis-server: ", err)
	}
	// A socket's name is short: t.TempDir's may not be.
	dir, err := os.MkdirTemp("", "sluice")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir, addr: filepath.Join(dir, "s"), args: args}
	s.start()
	t.Cleanup(func() {
		s.kill()
		os.RemoveAll(dir)
	})
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", append([]string{"--port", "0", "--unixsocket", s.addr, "--dir", s.dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", ""}, s.args...)...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "redis-server answers", func() bool {
		conn, err := net.Dial("unix", s.addr)
		if err != nil {
			return false
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return false
		}
		b := make([]byte, 64)
		n, err := conn.Read(b)
		return err == nil && strings.HasPrefix(string(b[:n]), "+PONG")
	})
}

// kill ends the server as a crash does.
func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// connect opens a client whose way to Redis can be cut.
func connect(t testing.TB, addr string) (redis.UniversalClient, *line) {
	t.Helper()
	l := &line{conns: map[net.Conn]bool{}}
	o := config.RedisDefaults()
	o.Addrs = []string{addr}
	o.DialTimeout = time.Second
	o.Dialer = l.dial
	rdb := redis.NewUniversalClient(o)
	t.Cleanup(func() { rdb.Close() })
	return rdb, l
}

// line is the way to Redis of one client.
type line struct {
	mu    sync.Mutex
	dead  bool
	to    string // another address than the client's own, if set
	conns map[net.Conn]bool
}

func (l *line) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return nil, errors.New("the line is cut")
	}
	if l.to != "" {
		addr = l.to
	}
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err == nil {
		l.conns[conn] = true
	}
	return conn, err
}

// cut severs all connections and refuses new ones.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	for conn := range l.conns {
		conn.Close()
	}
	clear(l.conns)
}

// redirect leads to another server from now on.
func (l *line) redirect(addr string) {
	l.cut()
	l.mu.Lock()
	l.to = addr
	l.mu.Unlock()
	l.mend()
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = false
}

// eventually waits until something outside of this process's events holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
