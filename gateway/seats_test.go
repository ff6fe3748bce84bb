package gateway

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// seated tries to connect; nil means that there was no room.
func seated(t *testing.T, addr, auth string) *client {
	t.Helper()
	c := dial(t, addr, nil)
	c.send("40" + auth)
	if m := c.find("an answer", func(m message) bool { return m.Kind == packetRefusal || m.Name == "connected" }); m.Kind == packetRefusal {
		return nil
	}
	return c
}

// A user's connections are counted over all gateways: what is closed at one makes
// room at another, and so does a gateway that stops.
func TestConnectionsPerUserOverGateways(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		conf := hsConfig()
		conf.Limits.ConnectionsPerUser = 2
		one, stop := startGateway(t, rdb, conf)
		two, _ := startGateway(t, rdb, conf)
		ada := hsAuth(t, "ada")
		first := connect(t, one, ada)
		connect(t, one, ada)
		if seated(t, two, ada) != nil {
			t.Error("a third connection, at another gateway")
		}
		connect(t, two, hsAuth(t, "bob"))
		_ = first.ws.CloseNow()
		var again *client
		eventually(t, "room at the other gateway", func() bool { again = seated(t, two, ada); return again != nil })
		// One that leaves the namespace and comes again on the same connection has one seat.
		for range 50 {
			again.send("41")
			again.send("40" + ada)
			again.await("connected")
		}
		if seated(t, one, ada) != nil {
			t.Error("a third connection, at the first gateway")
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the stopped gateway's room", func() bool { return seated(t, two, ada) != nil })
	})
}

// A gateway that is killed can't take its connections off: they count until its
// heartbeat is old.
func TestConnectionsOfAKilledGateway(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		conf := hsConfig()
		conf.Limits.ConnectionsPerUser = 2
		addr, _ := startGateway(t, rdb, conf)
		killed := job.NewSeats(job.NewStore(rdb, job.Options{}), "killed")
		if _, err := killed.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		owner := identity{User: "ada"}.owner()
		for n := 1; n <= 2; n++ {
			if room, err := killed.Take(t.Context(), owner, n, 2); err != nil || !room {
				t.Fatal(room, err)
			}
		}
		ada := hsAuth(t, "ada")
		if seated(t, addr, ada) != nil {
			t.Error("a third connection")
		}
		if err := rdb.ZAdd(t.Context(), "{sluice:gateways}:beat", redis.Z{Member: "killed", Score: 1}).Err(); err != nil {
			t.Fatal(err)
		}
		connect(t, addr, ada)
		connect(t, addr, ada)
		if seated(t, addr, ada) != nil {
			t.Error("a third connection, of one gateway")
		}
	})
}

func TestSeats(t *testing.T) {
	rdb := memoryRedis(t)
	conf := hsConfig()
	c := newCore(t.Context(), Options{Config: conf, Redis: rdb, Log: testLog(t)}, openDoor{})
	s := c.seats
	open := make(chan struct{})
	defer close(open)
	count := func() string {
		keys, err := rdb.Keys(t.Context(), "sluice:user:*:seats").Result()
		if err != nil || len(keys) > 1 {
			t.Fatal(keys, err)
		}
		if len(keys) == 0 {
			return ""
		}
		return rdb.HVals(t.Context(), keys[0]).Val()[0]
	}
	if none, err := s.take(t.Context(), "ada", 0, open); err != nil || count() != "" {
		t.Errorf("no limit: %v, %q", err, count())
	} else {
		none.sit()
		none.leave()
	}
	// A handshake that nothing came of gives its seat back, one whose socket came doesn't.
	gone := make(chan struct{})
	lost, err := s.take(t.Context(), "ada", 2, gone)
	if err != nil {
		t.Fatal(err)
	}
	came, err := s.take(t.Context(), "ada", 2, gone)
	if err != nil {
		t.Fatal(err)
	}
	came.sit()
	if over, ok := errors.AsType[*refused](func() error { _, err := s.take(t.Context(), "ada", 2, open); return err }()); !ok || over.Code != codeTooManySockets {
		t.Errorf("the third: %v", over)
	}
	s.sweep()
	close(gone)
	s.sweep()
	lost.leave() // again, for nothing
	if !s.say(t.Context()) || count() != "1" {
		t.Errorf("%q sockets, want 1", count())
	}
	// Redis loses what it was told, and is told again.
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s.beat(t.Context())
	if !s.say(t.Context()) || count() != "1" {
		t.Errorf("%q sockets after a loss, want 1", count())
	}
	came.leave()
	if !s.say(t.Context()) || count() != "" || len(s.owners) != 0 || len(s.pending) != 0 || len(s.dirty) != 0 {
		t.Errorf("%q sockets; %d users, %d pending, %d dirty", count(), len(s.owners), len(s.pending), len(s.dirty))
	}
}

// With Redis away each gateway counts its own connections, and says so when
// Redis is back.
func TestSeatsWithoutRedis(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer rdb.Close()
	c := newCore(t.Context(), Options{Config: hsConfig(), Redis: rdb, Log: testLog(t)}, openDoor{})
	for i := range 3 {
		_, err := c.seats.take(t.Context(), "ada", 2, nil)
		if (err != nil) != (i == 2) {
			t.Errorf("seat %d: %v", i+1, err)
		}
	}
	if c.seats.say(t.Context()) || !c.seats.dirty["ada"] {
		t.Error("what could not be said is forgotten")
	}
	if time.Until(c.seats.away) <= 0 {
		t.Error("everybody waits for Redis")
	}
	back := memoryRedis(t)
	c.seats.shared = job.NewSeats(job.NewStore(back, job.Options{}), "gw")
	c.seats.beat(t.Context())
	other := job.NewSeats(job.NewStore(back, job.Options{}), "other")
	if !c.seats.say(t.Context()) || !c.seats.away.IsZero() {
		t.Error("Redis is back, and was not told")
	}
	if room, err := other.Take(t.Context(), "ada", 1, 2); err != nil || room {
		t.Errorf("room at another gateway: %v, %v", room, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.seats.run(ctx) // takes the gateway away
	if room, err := other.Take(t.Context(), "ada", 2, 2); err != nil || !room {
		t.Errorf("room after the end: %v, %v", room, err)
	}
}

// A gateway that has just begun is none that has gone: what it says of its first
// sockets counts.
func TestSeatsOfANewGateway(t *testing.T) {
	rdb := memoryRedis(t)
	open := make(chan struct{})
	begin := func() *seats {
		return newCore(t.Context(), Options{Config: hsConfig(), Redis: rdb, Log: testLog(t)}, openDoor{}).seats
	}
	one, two := begin(), begin()
	if _, err := one.take(t.Context(), "ada", 1, open); err != nil {
		t.Fatal(err)
	}
	if _, err := two.take(t.Context(), "ada", 1, open); asRefused(err).Code != codeTooManySockets {
		t.Errorf("a second connection: %v", err)
	}
}
