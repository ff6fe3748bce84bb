package job

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestSeats(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		one, two := NewSeats(NewStore(rdb, Options{}), "one-"+NewID()), NewSeats(NewStore(rdb, Options{}), "two-"+NewID())
		ada, bob := Owner("acme", "}ada{ é"+NewID()), Owner("", "bob"+NewID())
		take := func(s *Seats, owner string, here, most int, want bool) {
			t.Helper()
			got, err := s.Take(ctx, owner, here, most)
			must(t, err)
			if got != want {
				t.Errorf("%s takes seat %d of %d for %q: %v", s.gateway, here, most, owner, got)
			}
		}
		for _, s := range []*Seats{one, two} {
			known, err := s.Beat(ctx)
			must(t, err)
			if known {
				t.Error("a gateway was known before its first beat")
			}
		}
		take(one, ada, 1, 3, true)
		take(two, ada, 1, 3, true)
		take(two, ada, 2, 3, true)
		take(one, ada, 2, 3, false)
		take(two, ada, 3, 3, false)
		take(one, bob, 1, 1, true)
		take(two, bob, 1, 1, false)
		take(two, bob, 1, 0, true) // no limit for this one
		must(t, two.Say(ctx, map[string]int{ada: 1, bob: 0}))
		take(one, ada, 2, 3, true)
		take(one, ada, 3, 3, false)
		if ttl := rdb.PTTL(ctx, seatsKey(ada)).Val(); ttl <= SeatsRenew || ttl > seatsTTL {
			t.Errorf("what was said is kept for %v", ttl)
		}

		// The first is killed: its heartbeat grows old, and its sockets count no more, for nobody.
		last := rdb.ZScore(ctx, gatewaysKey, one.gateway).Val()
		must(t, rdb.ZAdd(ctx, gatewaysKey, redis.Z{Member: one.gateway, Score: last - float64((seatsGone + time.Second).Milliseconds())}).Err())
		take(two, ada, 3, 3, true)
		take(two, ada, 4, 3, false)
		// It was only cut off: it learns that it has to say everything again.
		known, err := one.Beat(ctx)
		must(t, err)
		if known {
			t.Error("a gateway that was taken for gone is not told so")
		}
		must(t, one.Say(ctx, map[string]int{ada: 2}))
		take(two, ada, 1, 3, true)
		take(two, ada, 2, 3, false)
		if known, err = one.Beat(ctx); err != nil || !known {
			t.Errorf("known %v, %v", known, err)
		}
		// It stops in order.
		must(t, one.Leave(ctx))
		take(two, ada, 3, 3, true)
		must(t, two.Say(ctx, map[string]int{ada: 0}))
		if n := rdb.Exists(ctx, seatsKey(ada)).Val(); n != 0 {
			t.Error("a user without sockets is remembered")
		}
	})
}
