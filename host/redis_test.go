package host

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job/redistest"
)

// onEachRedis runs a test on miniredis, on a redis-server of its own, and on the
// Cluster that the tests of this package share, one at a time.
func onEachRedis(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, miniredis.RunT(t).Addr())
	})
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		test(t, startServer(t).addr)
	})
	t.Run("cluster", func(t *testing.T) {
		if testing.Short() {
			t.Skip("tests on the Cluster take turns")
		}
		test(t, strings.Join(shared.Get(t).Addrs(), ","))
	})
}

var shared redistest.Share

func TestMain(m *testing.M) {
	code := m.Run()
	shared.Close()
	os.Exit(code)
}

// server is a redis-server with its data kept over restarts.
type server struct {
	*redistest.Server
	t    testing.TB
	dir  string
	addr string // a unix socket
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := redistest.Start(t, append([]string{"--appendonly", "yes", "--appendfsync", "everysec"}, args...)...)
	return &server{Server: s, t: t, dir: s.Dir, addr: s.Addr}
}

func (s *server) start() {
	s.t.Helper()
	if err := s.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the server as a crash does.
func (s *server) kill() { s.Kill() }

// connect opens a client whose way to Redis can be cut. Several addresses with
// commas are a Cluster's, or Sentinels' after "sentinel:".
func connect(t testing.TB, addr string) (redis.UniversalClient, *line) {
	t.Helper()
	l := &line{conns: map[net.Conn]bool{}}
	o := config.RedisDefaults()
	addr, sentinels := strings.CutPrefix(addr, "sentinel:")
	o.Addrs = strings.Split(addr, ",")
	if sentinels {
		o.MasterName = redistest.MasterName
	} else {
		o.IsClusterMode = len(o.Addrs) > 1
	}
	o.DialTimeout = time.Second
	o.Dialer = l.dial
	rdb := config.OpenRedis(o)
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
