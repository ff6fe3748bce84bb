package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// A Cluster has three masters, and as many replicas of each as were asked for.
type Cluster struct {
	Masters  []*Server
	Replicas []*Server // of the masters in turn
}

// Addrs are the masters' addresses.
func (c *Cluster) Addrs() []string {
	var out []string
	for _, s := range c.Masters {
		out = append(out, s.Addr)
	}
	return out
}

// Client connects to the cluster until the test ends.
func (c *Cluster) Client(t testing.TB) *redis.ClusterClient {
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// Flush empties a cluster.
func (c *Cluster) Flush(t testing.TB) {
	t.Helper()
	for _, s := range c.Masters {
		rdb := redis.NewClient(&redis.Options{Addr: s.Addr})
		until(t, "a master is emptied", func() error { return rdb.FlushAll(context.Background()).Err() })
		rdb.Close()
	}
}

const masters = 3

// StartCluster starts a cluster, which takes a second or two.
func StartCluster(t testing.TB, replicas int, args ...string) *Cluster {
	t.Helper()
	ctx := context.Background()
	c := &Cluster{}
	var nodes []*redis.Client
	var meet [][2]string // port and bus port
	for i := range masters * (1 + replicas) {
		_, bus, _ := net.SplitHostPort(freeAddr(t))
		s := StartTCP(t, append([]string{"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
			"--cluster-port", bus, "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"}, args...)...)
		_, port, _ := net.SplitHostPort(s.Addr)
		meet = append(meet, [2]string{port, bus})
		rdb := redis.NewClient(&redis.Options{Addr: s.Addr})
		defer rdb.Close()
		nodes = append(nodes, rdb)
		if i < masters {
			c.Masters = append(c.Masters, s)
		} else {
			c.Replicas = append(c.Replicas, s)
		}
	}
	slots := []int{0, 5461, 10922, 16384}
	for i, rdb := range nodes {
		_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			if i < masters {
				p.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", slots[i], slots[i+1]-1)
			}
			p.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
			for _, m := range meet[:i] {
				p.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", m[0], m[1])
			}
			return nil
		})
		if err != nil {
			t.Fatalf("make a cluster: %v", err)
		}
	}
	agree := func() error {
		for _, rdb := range nodes {
			info, err := rdb.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(nodes))) {
				return errors.New(info)
			}
		}
		return nil
	}
	until(t, "the cluster agrees on its state", agree)
	for i, rdb := range nodes[masters:] {
		master := nodes[i%masters]
		id, err := master.Do(ctx, "CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatalf("make a cluster: %v", err)
		}
		until(t, "a replica knows its master", func() error { return rdb.ClusterReplicate(ctx, id).Err() })
	}
	for _, rdb := range nodes[masters:] {
		until(t, "a replica follows its master", func() error {
			info, err := rdb.Info(ctx, "replication").Result()
			if err == nil && !strings.Contains(info, "master_link_status:up") {
				err = errors.New(info)
			}
			return err
		})
	}
	return c
}

// A Share is a cluster that the tests of a package have in common, one at a
// time: they would take each other's jobs.
type Share struct {
	mu      sync.Mutex
	cluster *Cluster
	holder  *holder
}

// Get waits until no other test has the cluster, and lends it, empty. The first
// to come starts it; it ends with Close.
func (s *Share) Get(t testing.TB) *Cluster {
	t.Helper()
	Program(t)
	s.mu.Lock()
	t.Cleanup(s.mu.Unlock) // what the test has started since ends before
	if s.cluster == nil {
		h := &holder{TB: t}
		s.cluster = StartCluster(h, 0)
		s.holder = h
	}
	s.cluster.Flush(t)
	return s.cluster
}

// Close ends the cluster. TestMain calls it when the tests have run.
func (s *Share) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder != nil {
		s.holder.close()
	}
}

// holder is a test as far as failing goes, with cleanups of its own.
type holder struct {
	testing.TB
	cleanups []func()
}

func (h *holder) Cleanup(f func()) { h.cleanups = append(h.cleanups, f) }

func (h *holder) close() {
	for i := len(h.cleanups) - 1; i >= 0; i-- {
		h.cleanups[i]()
	}
}
