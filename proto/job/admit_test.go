package job

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

func limitOf(t *testing.T, err error) *LimitError {
	t.Helper()
	var limit *LimitError
	if !errors.As(err, &limit) {
		t.Fatalf("error %v, want a limit", err)
	}
	return limit
}

func TestAdmitStarts(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx, s := t.Context(), NewStore(rdb, Options{})
		other := NewStore(rdb, Options{}) // another gateway's
		owner := Owner("acme", "}ada{ é")
		a := Allowance{StartsPerMinute: 3}
		for i := range 3 {
			must(t, s.Admit(ctx, owner, fmt.Sprint("start-", i), a))
			must(t, other.Admit(ctx, owner, fmt.Sprint("start-", i), a)) // the same start again
		}
		limit := limitOf(t, other.Admit(ctx, owner, "start-3", a))
		if limit.Jobs || limit.Max != 3 || limit.Wait <= 0 || limit.Wait > time.Minute+time.Millisecond {
			t.Errorf("limit %+v", limit)
		}
		must(t, s.Admit(ctx, owner, "start-1", a))
		must(t, s.Admit(ctx, Owner("", "ada"), "start-3", a)) // somebody else
		must(t, s.Admit(ctx, owner, "start-3", Allowance{}))  // no limit
		if ttl := rdb.PTTL(ctx, startsKey(owner)).Val(); ttl <= 0 || ttl > 61*time.Second {
			t.Errorf("the key expires in %v", ttl)
		}

		// The first of the three grows older than a minute.
		first := rdb.ZScore(ctx, startsKey(owner), "start-0").Val()
		must(t, rdb.ZAdd(ctx, startsKey(owner), redis.Z{Member: "start-0", Score: first - 60_001}).Err())
		must(t, s.Admit(ctx, owner, "start-3", a))
		limitOf(t, s.Admit(ctx, owner, "start-4", a))
	})
}

func TestAdmitJobs(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx, s := t.Context(), NewStore(rdb, Options{})
		owner := Owner("", "jo-"+NewID())
		prefix := NewID()
		a := Allowance{Jobs: 2, StartsPerMinute: 3}
		id := func(i int) string { return prefix + strconv.Itoa(i) }
		for i := range 2 {
			must(t, s.Admit(ctx, owner, id(i), a))
			if i == 0 {
				create(t, s, Job{ID: id(i), User: owner})
			}
		}
		for range 2 {
			if limit := limitOf(t, s.Admit(ctx, owner, id(2), a)); !limit.Jobs || limit.Max != 2 {
				t.Errorf("limit %+v", limit)
			}
		}
		if n := rdb.ZCard(ctx, startsKey(owner)).Val(); n != 2 {
			t.Errorf("a refused start was counted: %d", n)
		}

		// The second has no record yet: it counts for a while, then no more.
		score := rdb.ZScore(ctx, openJobsKey(owner), id(1)).Val() - float64(recordless.Milliseconds()) - 1
		must(t, rdb.ZAdd(ctx, openJobsKey(owner), redis.Z{Member: id(1), Score: score}).Err())
		must(t, s.Admit(ctx, owner, id(2), a))
		create(t, s, Job{ID: id(2), User: owner})
		limitOf(t, s.Admit(ctx, owner, id(3), Allowance{Jobs: 2}))

		// The first ends: there is room.
		if _, err := s.Cancel(ctx, id(0), owner, false); err != nil {
			t.Fatal(err)
		}
		must(t, s.Admit(ctx, owner, id(3), Allowance{Jobs: 2}))
		if ttl := rdb.PTTL(ctx, openJobsKey(owner)).Val(); ttl <= 0 || ttl > 24*time.Hour {
			t.Errorf("the key expires in %v", ttl)
		}
	})
}

// Users of the same name in two tenants are two users.
func TestTenants(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx, s := t.Context(), NewStore(rdb, Options{})
		id := NewID()
		create(t, s, Job{ID: id, User: "ada", Tenant: "a"})
		for _, tenant := range []string{"", "b"} {
			if _, _, err := s.Create(ctx, Job{ID: id, User: "ada", Tenant: tenant}); !errors.Is(err, ErrExists) {
				t.Errorf("create by tenant %q: %v", tenant, err)
			}
			if _, err := s.Cancel(ctx, id, Owner(tenant, "ada"), false); !errors.Is(err, ErrNotFound) {
				t.Errorf("cancel by tenant %q: %v", tenant, err)
			}
		}
		if _, created, err := s.Create(ctx, Job{ID: id, User: "ada", Tenant: "a"}); err != nil || created {
			t.Errorf("again by its owner: %v %v", created, err)
		}
		st, err := s.Cancel(ctx, id, Owner("a", "ada"), false)
		if err != nil || st != StateCancelled {
			t.Errorf("cancel by its owner: %v %v", st, err)
		}
		frames, got := logOf(t, s, id)
		if got.Owner() != Owner("a", "ada") || len(frames) != 1 {
			t.Errorf("owner %q, %d frames", got.Owner(), len(frames))
		}
	})
}

func TestPlaces(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx, s := t.Context(), NewStore(rdb, Options{})
		queue := NewQueue(rdb)
		inspector := asynq.NewInspectorFromRedisClient(rdb)
		for q := range Queues() { // what other tests left
			_, _ = inspector.DeleteAllPendingTasks(q)
		}
		prefix := NewID()
		var ids []string
		for i := range 5 {
			id := fmt.Sprint(prefix, "-", i)
			ids = append(ids, id)
			k := create(t, s, Job{ID: id, User: "ada"})
			must(t, queue.Enqueue(ctx, k, "", 0))
		}
		urgent := prefix + "-high"
		must(t, queue.Enqueue(ctx, create(t, s, Job{ID: urgent, User: "ada", Priority: PriorityHigh}), PriorityHigh, 0))
		lost := prefix + "-lost"
		create(t, s, Job{ID: lost, User: "ada"})

		all := append([]string{urgent, lost, "unknown"}, ids...)
		got, err := s.Places(ctx, all, 100)
		must(t, err)
		want := map[string]Place{urgent: {Queue: QueueHigh, Ahead: 0, Total: 1}}
		for i, id := range ids {
			want[id] = Place{Queue: QueueDefault, Ahead: i, Total: 5}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("places %v, want %v", got, want)
		}

		// No further than it is told to look.
		if got, err = s.Places(ctx, ids, 2); err != nil || got[ids[1]].Ahead != 1 || got[ids[4]].Ahead != 2 || got[ids[4]].Total != 5 {
			t.Errorf("places %v, %v", got, err)
		}

		// The first is taken.
		begin(t, s, Ticket{Job: ids[0], Attempt: 1}, "h")
		must(t, inspector.DeleteTask(QueueDefault, Ticket{Job: ids[0], Attempt: 1}.TaskID()))
		got, err = s.Places(ctx, ids, 100)
		must(t, err)
		if _, there := got[ids[0]]; there || got[ids[1]].Ahead != 0 || got[ids[4]] != (Place{Queue: QueueDefault, Ahead: 3, Total: 4}) {
			t.Errorf("places %v", got)
		}
		if got, err := s.Places(ctx, nil, 100); err != nil || got != nil {
			t.Errorf("of nothing: %v %v", got, err)
		}
	})
}
