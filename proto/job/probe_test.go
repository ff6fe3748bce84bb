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

// A user without channels can't publish. A job that it was refused isn't there, and frames reach their log.
func TestPublicationsRefused(t *testing.T) {
	srv := startServer(t)
	admin := srv.client(t)
	must(t, admin.Do(t.Context(), "ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels").Err())
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: srv.socket, Username: "mute", Password: "pw"})
	defer rdb.Close()
	s := NewStore(rdb, Options{General: true})
	if err := s.Writable(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "redis takes no publications: NOPERM ") {
		t.Error(err)
	}
	a := begin(t, s, create(t, s, Job{}), "h")
	must(t, a.Append(t.Context(), chunk("a"), chunk("b")))
	must(t, a.Finish(t.Context(), &Complete{}))
	frames, st, err := s.Read(t.Context(), a.Job.ID, 0, 0)
	must(t, err)
	if len(frames) != 3 || st.State != StateComplete {
		t.Errorf("%d frames, %s", len(frames), st.State)
	}
}
