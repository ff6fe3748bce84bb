package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// A Watch is a master with a replica, and Sentinels that watch them under
// the name MasterName: they put the replica in its place half a second after it
// was last heard of.
type Watch struct {
	Master, Replica *Server
	Sentinels       []string // addresses
}

// MasterName is the master's, to the Sentinels.
const MasterName = "sluice"

// StartWatch starts all of them.
func StartWatch(t testing.TB, sentinels int) *Watch {
	t.Helper()
	ctx := context.Background()
	w := &Watch{Master: StartTCP(t, "--repl-diskless-sync-delay", "0")}
	host, port, _ := net.SplitHostPort(w.Master.Addr)
	w.Replica = StartTCP(t, "--replicaof", host, port)
	replica := redis.NewClient(&redis.Options{Addr: w.Replica.Addr})
	defer replica.Close()
	until(t, "the replica follows", func() error {
		info, err := replica.Info(ctx, "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = errors.New(info)
		}
		return err
	})
	for range sentinels {
		s := &Server{Addr: freeAddr(t), Dir: folder(t), program: Program(t)}
		_, p, _ := net.SplitHostPort(s.Addr)
		conf := filepath.Join(s.Dir, "sentinel.conf") // it writes into it
		text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor %s %s %s %d\n"+
			"sentinel down-after-milliseconds %[3]s 500\nsentinel failover-timeout %[3]s 3000\n",
			p, s.Dir, MasterName, host, port, sentinels/2+1)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.args = []string{conf, "--sentinel"}
		s.run(t)
		w.Sentinels = append(w.Sentinels, s.Addr)
	}
	for _, addr := range w.Sentinels {
		c := redis.NewSentinelClient(&redis.Options{Addr: addr})
		defer c.Close()
		until(t, "the Sentinels know each other and the replica", func() error {
			m, err := c.Master(ctx, MasterName).Result()
			if err == nil && (m["num-slaves"] != "1" || m["num-other-sentinels"] != fmt.Sprint(sentinels-1)) {
				err = fmt.Errorf("%v", m)
			}
			return err
		})
	}
	return w
}
