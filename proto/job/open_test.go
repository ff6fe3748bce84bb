package job

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Jobs that wait and have no ticket are found, each after two looks, with the time they have to wait for; those with a
// ticket, those that run and those that have ended are left alone.
func TestOrphans(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		s, q := NewStore(rdb, Options{}), NewQueue(rdb)
		accept := func(id string) Ticket {
			t.Helper()
			if _, _, err := s.Create(ctx, Job{ID: id, User: "ada", Query: "?", Priority: PriorityHigh}); err != nil {
				t.Fatal(err)
			}
			return Ticket{Job: id, Attempt: 1}
		}
		accept("lost")
		if err := q.Enqueue(ctx, accept("queued"), PriorityHigh, 0); err != nil {
			t.Fatal(err)
		}
		begin(t, s, accept("running"), "h")
		if err := begin(t, s, accept("ended"), "h").Finish(ctx, &Complete{}); err != nil {
			t.Fatal(err)
		}
		due := time.UnixMilli(time.Now().Add(time.Hour).UnixMilli())
		waiting := begin(t, s, accept("waiting"), "h")
		waiting.Due = due
		if _, err := waiting.Release(ctx, StateWaiting); err != nil {
			t.Fatal(err)
		}
		found := map[Ticket]time.Time{}
		look := func() {
			t.Helper()
			for shard := range openShards {
				// The time of every look has come.
				ids, err := rdb.ZRange(ctx, openShardKey(shard), 0, -1).Result()
				if err != nil {
					t.Fatal(err)
				}
				for _, id := range ids {
					rdb.ZAdd(ctx, openShardKey(shard), redis.Z{Member: id})
				}
			}
			for k, since := range s.missing {
				s.missing[k] = since.Add(-secondLook)
			}
			for range openShards {
				_, err := s.Orphans(ctx, func(ctx context.Context, k Ticket, priority string, due time.Time) error {
					if _, twice := found[k]; twice {
						t.Errorf("%s is found twice", k.TaskID())
					}
					found[k] = due
					return q.Enqueue(ctx, k, priority, max(0, time.Until(due)))
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		look()
		if len(found) > 0 {
			t.Fatalf("found after one look: %v", found)
		}
		for range 3 {
			look()
		}
		want := map[Ticket]time.Time{{Job: "lost", Attempt: 1}: {}, {Job: "waiting", Attempt: 2}: due}
		if len(found) != len(want) {
			t.Errorf("found %v, want %v", found, want)
		}
		for k, at := range want {
			if got, ok := found[k]; !ok || !got.Equal(at) {
				t.Errorf("%s is found due %v (%v), want %v", k.TaskID(), got, ok, at)
			}
		}
		open := 0
		for shard := range openShards {
			open += int(rdb.ZCard(ctx, openShardKey(shard)).Val())
		}
		if open != 4 {
			t.Errorf("%d jobs are still looked after, want 4", open)
		}
	})
}
