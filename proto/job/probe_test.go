package job

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job/redistest"
)

// A Redis that answers but takes no writes says itself why.
func TestWritable(t *testing.T) {
	s := redistest.Start(t)
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: s.Addr, MaxRetries: -1})
	defer rdb.Close()
	store := NewStore(rdb, Options{})
	set := func(name, value string) {
		t.Helper()
		if err := rdb.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, no, yes, want string }{
		{"maxmemory", "1", "0", "OOM "},
		{"min-replicas-to-write", "1", "0", "NOREPLICAS "},
	} {
		if err := store.Writable(t.Context()); err != nil {
			t.Errorf("before %s: %v", tt.name, err)
		}
		set(tt.name, tt.no)
		if err := rdb.Ping(t.Context()).Err(); err != nil {
			t.Errorf("%s: it should answer a PING: %v", tt.name, err)
		}
		if err := store.Writable(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "redis takes no writes: "+tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		set(tt.name, tt.yes)
	}
	if err := rdb.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := store.Writable(t.Context()); err == nil || !strings.Contains(err.Error(), "READONLY ") {
		t.Errorf("a replica: %v", err)
	}
	if n, err := rdb.DBSize(t.Context()).Result(); n != 0 || err != nil {
		t.Errorf("it left %d keys, %v", n, err)
	}
	s.Kill()
	if err := store.Writable(t.Context()); err == nil || err.Error() != "redis can't be reached" {
		t.Errorf("away: %v", err)
	}
}
