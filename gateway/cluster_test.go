package gateway

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job/redistest"
)

// cluster is what the tests of this package share, one at a time.
var cluster redistest.Share

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.Close()
	os.Exit(code)
}

// clusterRedis is a Cluster of three masters.
func clusterRedis(t *testing.T) redis.UniversalClient {
	t.Helper()
	if testing.Short() {
		t.Skip("tests on the Cluster take turns")
	}
	o := config.RedisDefaults()
	o.Addrs = cluster.Get(t).Addrs()
	rdb := config.OpenRedis(o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// nodes are the servers that rdb leads to.
func nodes(ctx context.Context, rdb redis.UniversalClient, each func(context.Context, *redis.Client) error) error {
	if c, ok := rdb.(*redis.ClusterClient); ok {
		var mu sync.Mutex
		return c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			return each(ctx, node)
		})
	}
	return each(ctx, rdb.(*redis.Client))
}

// subscribers counts those of channels on all servers.
func subscribers(ctx context.Context, rdb redis.UniversalClient, channels ...string) (map[string]int64, error) {
	sum := map[string]int64{}
	err := nodes(ctx, rdb, func(ctx context.Context, node *redis.Client) error {
		n, err := node.PubSubNumSub(ctx, channels...).Result()
		for channel, count := range n {
			sum[channel] += count
		}
		return err
	})
	return sum, err
}

// forget deletes the keys that match a pattern, and tells how many there were.
func forget(ctx context.Context, rdb redis.UniversalClient, pattern string) (n int, err error) {
	err = nodes(ctx, rdb, func(ctx context.Context, node *redis.Client) error {
		keys, err := node.Keys(ctx, pattern).Result()
		for _, key := range keys {
			if err == nil {
				err = node.Del(ctx, key).Err()
			}
			n++
		}
		return err
	})
	return n, err
}

// worker is the connection of an older worker. On a Cluster it has one to one
// node: what is published at several comes in any order.
func worker(t *testing.T, rdb redis.UniversalClient) redis.UniversalClient {
	t.Helper()
	c, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return rdb
	}
	node, err := c.MasterForKey(t.Context(), "any")
	if err != nil {
		t.Fatal(err)
	}
	return node
}
