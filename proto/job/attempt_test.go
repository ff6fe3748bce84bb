package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestLifeOfAJob(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{General: true})
		ctx := t.Context()
		j := Job{
			ID: NewID(), User: "ann", Tenant: "acme", Query: "why <b>?", Models: []string{"echo", "spare"},
			Messages: json.RawMessage(`[{"role":"user","content":"why?"}]`), Params: json.RawMessage(`{"temperature":0.5}`),
			Priority: PriorityHigh,
		}
		st, created, err := s.Create(ctx, j)
		must(t, err)
		if !created || st.State != StateQueued || st.Created.IsZero() || st.User != "ann" {
			t.Fatalf("created %v, %+v", created, st)
		}
		if _, created, err = s.Create(ctx, j); err != nil || created {
			t.Fatalf("the same id again: %v %v", created, err)
		}
		bob := j
		bob.User = "bob"
		if _, _, err = s.Create(ctx, bob); !errors.Is(err, ErrExists) {
			t.Fatalf("another user's id: %v", err)
		}

		a := begin(t, s, Ticket{j.ID, 1}, "h1")
		if a.Job.Query != j.Query || a.Job.Tenant != "acme" || string(a.Job.Messages) != string(j.Messages) || a.Reset || a.Job.Created.IsZero() {
			t.Fatalf("attempt: %+v", a.Job)
		}
		must(t, a.Append(ctx, &Start{Provider: "echo", Model: "echo-1"}, &Progress{Progress: 0, Status: "started"}))
		must(t, a.Append(ctx, chunk("Hel"), chunk("lo")))
		must(t, a.Append(ctx, &Delta{Kind: "reasoning", Body: map[string]any{"text": "hm"}}))
		if st, err = s.Status(ctx, j.ID); err != nil || st.State != StateRunning || st.Host != "h1" || st.Model != "echo-1" || st.Seq != 5 {
			t.Fatalf("running: %+v %v", st, err)
		}
		must(t, a.Finish(ctx, &Complete{Tokens: 2, FinishReason: "stop"}))
		if err := a.Append(ctx, chunk("x")); !errors.Is(err, ErrFenced) {
			t.Fatalf("append after finish: %v", err)
		}
		frames, st := logOf(t, s, j.ID)
		if got := events(frames); got != "start progress chunk chunk delta complete" {
			t.Fatalf("log: %s", got)
		}
		if st.State != StateComplete || st.Ended.IsZero() || st.Host != "" || st.Attempt != 1 {
			t.Fatalf("ended: %+v", st)
		}
		var c Complete
		must(t, json.Unmarshal(frames[5].Data, &c))
		if c.Text != "Hello" || c.Digest != Digest("Hello") || c.Seq != 6 || c.Attempt != 1 || c.UserID != "ann" {
			t.Fatalf("complete: %+v", c)
		}
		var second Chunk
		must(t, json.Unmarshal(frames[3].Data, &second))
		if second.Index != 1 || second.Chunk != "lo" {
			t.Fatalf("chunk: %+v", second)
		}
		if _, err := s.Begin(ctx, Ticket{j.ID, 1}, "h2"); !errors.Is(err, ErrStale) {
			t.Fatalf("ticket again: %v", err)
		}
		if _, err := s.Begin(ctx, Ticket{j.ID, 2}, "h2"); !errors.Is(err, ErrStale) {
			t.Fatalf("next ticket of a complete job: %v", err)
		}
		if n := rdb.SCard(ctx, hostJobsKey("h1")).Val() + rdb.SCard(ctx, hostJobsKey("h2")).Val(); n != 0 {
			t.Errorf("%d entries left in host indexes", n)
		}
		for _, key := range []string{metaKey(j.ID), logKey(j.ID)} {
			if ttl := rdb.PTTL(ctx, key).Val(); ttl < 23*time.Hour || ttl > 24*time.Hour {
				t.Errorf("%s expires in %v", key, ttl)
			}
		}
	})
}

func TestUnknownJob(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{MaxRequest: 100})
		ctx := t.Context()
		if _, err := s.Status(ctx, "nope"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, _, err := s.Read(ctx, "nope", 0, 0); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := s.Begin(ctx, Ticket{"nope", 1}, "h"); !errors.Is(err, ErrGone) || Retryable(err) {
			t.Error(err)
		}
		if _, err := s.Request(ctx, "nope"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, _, err := s.Create(ctx, Job{ID: "a", User: "u", Query: strings.Repeat("x", 100)}); !errors.Is(err, ErrTooLarge) || Retryable(err) {
			t.Error(err)
		}
		if _, _, err := s.Create(ctx, Job{ID: "a b", User: "u"}); err == nil || Retryable(err) {
			t.Error(err)
		}
		if _, err := s.Cancel(ctx, "a}b", "u", true); err == nil || Retryable(err) {
			t.Error(err)
		}
		if n := rdb.DBSize(ctx).Val(); n != 0 {
			t.Errorf("%d keys were left behind", n)
		}
	})
}

func TestRetryContinuesTheCount(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{})
		a := begin(t, s, k, "h1")
		must(t, a.Append(ctx, &Start{}, chunk("wrong ")))
		next, err := a.Release(ctx, StateWaiting)
		must(t, err)
		must(t, a.Done(ctx))
		if next != (Ticket{k.Job, 2}) {
			t.Fatal(next)
		}
		if st, _ := s.Status(ctx, k.Job); st.State != StateWaiting || st.Host != "" {
			t.Fatalf("%+v", st)
		}
		if err := a.Append(ctx, chunk("x")); !errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
		b := begin(t, s, next, "h2")
		if !b.Reset || b.Seq != 2 || b.Number != 2 || b.Prefix != "" {
			t.Fatalf("%+v", b)
		}
		must(t, b.Append(ctx, &Start{Reset: b.Reset}, chunk("right")))
		must(t, b.Finish(ctx, &Complete{}))
		frames, _ := logOf(t, s, k.Job)
		if got := events(frames); got != "start chunk start chunk complete" {
			t.Fatal(got)
		}
		if got := textOf(t, frames); got != "right" {
			t.Fatal(got)
		}
		var c Chunk
		must(t, json.Unmarshal(frames[3].Data, &c))
		if c.Index != 0 || c.Attempt != 2 || c.Seq != 4 {
			t.Fatalf("%+v", c)
		}
	})
}

func TestContinueGoesOnFromTheText(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{Policy: PolicyContinue})
		a := begin(t, s, k, "h1")
		must(t, a.Append(ctx, &Start{}, chunk("one "), chunk("two ")))
		next, err := a.Release(ctx, StateQueued)
		must(t, err)
		b := begin(t, s, next, "h2")
		if b.Reset || b.Prefix != "one two " {
			t.Fatalf("%v %q", b.Reset, b.Prefix)
		}
		must(t, b.Append(ctx, &Start{}, chunk("three")))
		must(t, b.Finish(ctx, &Complete{}))
		frames, _ := logOf(t, s, k.Job)
		var c Complete
		must(t, json.Unmarshal(frames[len(frames)-1].Data, &c))
		if c.Text != "one two three" {
			t.Fatal(c.Text)
		}
	})
}

func TestFence(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, other := NewStore(rdb, Options{}), NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{})
		old := begin(t, s, k, "h1")
		must(t, old.Append(ctx, &Start{}))
		// The old host is judged dead, the job runs elsewhere.
		var next Ticket
		must(t, NewHosts(other, logger(t), HostsOptions{}).Reclaim(ctx, "h1", func(_ context.Context, t Ticket, _ string, _ time.Time) error { next = t; return nil }))
		if err := old.Append(ctx, chunk("late")); !errors.Is(err, ErrFenced) || Retryable(err) {
			t.Fatalf("append between reclaim and begin: %v", err)
		}
		if err := old.Finish(ctx, &Complete{}); !errors.Is(err, ErrFenced) {
			t.Fatalf("finish: %v", err)
		}
		fresh := begin(t, other, next, "h2")
		zombie := *old
		zombie.ending = nil // it has not heard yet
		for _, err := range []error{zombie.Append(ctx, chunk("later")), zombie.Finish(ctx, &Cancelled{})} {
			if !errors.Is(err, ErrFenced) {
				t.Fatalf("zombie: %v", err)
			}
		}
		zombie.ending = nil
		if _, err := zombie.Release(ctx, StateQueued); !errors.Is(err, ErrFenced) {
			t.Fatalf("release by a zombie: %v", err)
		}
		must(t, fresh.Finish(ctx, &Complete{}))
		frames, _ := logOf(t, s, k.Job)
		if got := events(frames); got != "start complete" {
			t.Fatal(got)
		}
	})
}

func TestTicketTwice(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		k := create(t, s, Job{})
		a := begin(t, s, k, "h1")
		for _, st := range []*Store{s, NewStore(rdb, Options{})} {
			if _, err := st.Begin(t.Context(), k, "h1"); !errors.Is(err, ErrStale) {
				t.Fatalf("the same ticket again: %v", err)
			}
		}
		if !rdb.SIsMember(t.Context(), hostJobsKey("h1"), k.TaskID()).Val() {
			t.Fatal("the refusal cost the running attempt its entry in the index")
		}
		must(t, a.Append(t.Context(), chunk("x")))
	})
}

// A failed job is begun again only by the ticket after its last attempt: not by a ticket that asynq repeats.
func TestFailedJobRunsAgain(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{})
		a := begin(t, s, k, "h1")
		must(t, a.Finish(ctx, &Error{Code: "denied", Fault: "caller"}))
		if _, err := s.Begin(ctx, k, "h1"); !errors.Is(err, ErrStale) {
			t.Fatal(err)
		}
		b := begin(t, s, Ticket{k.Job, 2}, "h1")
		must(t, b.Append(ctx, &Start{Reset: b.Reset}, chunk("ok")))
		must(t, b.Finish(ctx, &Complete{}))
		frames, st, err := s.Read(ctx, k.Job, 0, 0)
		must(t, err)
		if got := events(frames); got != "error start chunk complete" || st.State != StateComplete {
			t.Fatal(got, st.State)
		}
	})
}

// Every command's reply is lost once, at each step: the log is the same as without.
func TestLostReplies(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		d := &dropReplies{}
		rdb.AddHook(d)
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		lose := func() {
			n := 0
			d.set(func(cmd redis.Cmder) bool {
				if name := cmd.Name(); name == "evalsha" || name == "eval" || name == "hmget" {
					n++
				}
				return n == 1
			})
		}
		// again repeats an operation until it is through, and wants the loss to be noticed as retryable.
		again := func(what string, f func() error) {
			t.Helper()
			lose()
			err := f()
			if !errors.Is(err, errLost) || !Retryable(err) {
				t.Fatalf("%s with a lost reply: %v", what, err)
			}
			if err := f(); err != nil {
				t.Fatalf("%s again: %v", what, err)
			}
			d.set(nil)
		}
		j := Job{ID: NewID(), User: "ann"}
		again("create", func() error { _, _, err := s.Create(ctx, j); return err })
		var a *Attempt
		again("begin", func() (err error) { a, err = s.Begin(ctx, Ticket{j.ID, 1}, "h1"); return err })
		lose()
		if err := a.Append(ctx, &Start{}, chunk("a")); !Retryable(err) {
			t.Fatal(err)
		}
		if a.Pending() != 2 {
			t.Fatal(a.Pending())
		}
		d.set(nil)
		must(t, a.Append(ctx, chunk("b"))) // the same frames again, and one more
		lose()
		if err := a.Append(ctx, chunk("c")); !Retryable(err) {
			t.Fatal(err)
		}
		must(t, a.Append(ctx))
		var k Ticket
		again("release", func() (err error) { k, err = a.Release(ctx, StateQueued); return err })
		again("begin", func() (err error) { a, err = s.Begin(ctx, k, "h1"); return err })
		again("finish", func() error { return a.Finish(ctx, &Complete{Text: "x"}) })
		frames, st := logOf(t, s, j.ID)
		if got := events(frames); got != "start chunk chunk chunk complete" || textOf(t, frames) != "abc" || st.State != StateComplete {
			t.Fatal(got, textOf(t, frames), st.State)
		}
		again("cancel", func() error { _, err := s.Cancel(ctx, j.ID, "ann", false); return err })
	})
}

func TestBacklogIsBounded(t *testing.T) {
	srv := startServer(t)
	rdb := srv.client(t)
	s := NewStore(rdb, Options{MaxBacklog: 2000})
	k := create(t, s, Job{})
	a := begin(t, s, k, "h1")
	srv.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var err error
	n := 0
	for ; n < 100 && !errors.Is(err, ErrBacklog); n++ {
		if err = a.Append(ctx, chunk(strings.Repeat("x", 300))); !Retryable(err) {
			t.Fatal(err)
		}
	}
	if n == 100 || n < 3 {
		t.Fatalf("%d appends were taken", n)
	}
	taken := a.Pending()
	srv.start()
	eventually(t, "append goes through", func() bool { return a.Append(t.Context()) == nil })
	if a.Pending() != 0 || a.Seq != int64(taken) {
		t.Fatalf("%d pending, seq %d, %d taken", a.Pending(), a.Seq, taken)
	}
	must(t, a.Append(t.Context(), chunk("goes on")))
}

// Redis comes back empty: the host that holds the job writes it again, frame for frame.
func TestRecordLost(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{Query: "q", Policy: PolicyContinue})
		a := begin(t, s, k, "h1")
		must(t, a.Append(ctx, &Start{Model: "m"}, chunk("a"), chunk("é\xff\n")))
		k2, err := a.Release(ctx, StateQueued)
		must(t, err)
		b := begin(t, s, k2, "h1")
		must(t, b.Append(ctx, &Start{Model: "m"}, chunk("b"), &Delta{Kind: "reasoning"}))
		before, _ := logOf(t, s, k.Job)
		must(t, rdb.Del(ctx, metaKey(k.Job), logKey(k.Job)).Err())
		must(t, b.Append(ctx, chunk("c")))
		after, st := logOf(t, s, k.Job)
		if len(after) != len(before)+1 {
			t.Fatalf("%d frames, then %d", len(before), len(after))
		}
		for i := range before {
			if string(before[i].Raw) != string(after[i].Raw) {
				t.Errorf("frame %d was\n%s, is\n%s", i+1, before[i].Raw, after[i].Raw)
			}
		}
		if st.State != StateRunning || st.Model != "m" || st.User != "ann" || st.Created.IsZero() || st.Started.IsZero() {
			t.Fatalf("%+v", st)
		}
		// And at each of the other steps.
		must(t, rdb.Del(ctx, metaKey(k.Job), logKey(k.Job)).Err())
		k3, err := b.Release(ctx, StateQueued)
		must(t, err)
		c := begin(t, s, k3, "h1")
		if c.Prefix != "aé\ufffd\nbc" || c.Job.Query != "q" {
			t.Fatalf("%q", c.Prefix)
		}
		must(t, rdb.Del(ctx, metaKey(k.Job), logKey(k.Job)).Err())
		must(t, c.Finish(ctx, &Complete{}))
		if frames, _ := logOf(t, s, k.Job); textOf(t, frames) != c.Prefix {
			t.Fatalf("%q", textOf(t, frames))
		}
	})
}

// Redis comes back with an older state: its last frames are missing, or even the begin of the attempt.
func TestRecordWentBack(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{})
		a := begin(t, s, k, "h1")
		must(t, a.Append(ctx, &Start{}, chunk("a")))
		dump := func() (meta, log string) {
			return rdb.Dump(ctx, metaKey(k.Job)).Val(), rdb.Dump(ctx, logKey(k.Job)).Val()
		}
		restore := func(meta, log string) {
			must(t, rdb.RestoreReplace(ctx, metaKey(k.Job), 0, meta).Err())
			must(t, rdb.RestoreReplace(ctx, logKey(k.Job), 0, log).Err())
		}
		meta, log := dump()
		if log == "" {
			t.Skip("this Redis can't dump a stream")
		}
		must(t, a.Append(ctx, chunk("b"), chunk("c")))
		restore(meta, log)
		must(t, a.Append(ctx, chunk("d")))
		if frames, _ := logOf(t, s, k.Job); textOf(t, frames) != "abcd" {
			t.Fatal(textOf(t, frames))
		}
		meta, log = dump()
		next, err := a.Release(ctx, StateQueued)
		must(t, err)
		b := begin(t, s, next, "h2")
		must(t, b.Append(ctx, &Start{Reset: true}, chunk("again")))
		restore(meta, log)
		must(t, b.Append(ctx, chunk("!")))
		must(t, b.Finish(ctx, &Complete{}))
		if frames, st := logOf(t, s, k.Job); textOf(t, frames) != "again!" || st.Attempt != 2 || st.Seq != 9 {
			t.Fatal(textOf(t, frames), st)
		}
	})
}

// Two attempts outlive the loss of the record: the newer one wins whatever the order.
func TestSeedIsFenced(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, z := NewStore(rdb, Options{}), NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{})
		old := begin(t, z, k, "h1")
		must(t, old.Append(ctx, &Start{}, chunk("old")))
		var next Ticket
		must(t, NewHosts(s, logger(t), HostsOptions{}).Reclaim(ctx, "h1", func(_ context.Context, t Ticket, _ string, _ time.Time) error { next = t; return nil }))
		fresh := begin(t, s, next, "h2")
		must(t, fresh.Append(ctx, &Start{Reset: true}, chunk("new")))
		must(t, rdb.Del(ctx, metaKey(k.Job), logKey(k.Job)).Err())
		must(t, old.Append(ctx, chunk("zombie"))) // it can't know better
		must(t, fresh.Append(ctx, chunk("er")))
		if err := old.Append(ctx, chunk("zombie")); !errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
		must(t, fresh.Finish(ctx, &Complete{}))
		frames, _, err := s.Read(ctx, k.Job, 2, 0)
		must(t, err)
		if textOf(t, frames) != "newer" {
			t.Fatal(textOf(t, frames))
		}
	})
}

func TestLargeAppendIsSplit(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{MaxBacklog: 64 << 20})
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		var all []Event
		var want strings.Builder
		for i := range 1000 {
			text := fmt.Sprintf("%d;", i)
			if i%100 == 0 {
				text += strings.Repeat("x", 300<<10)
			}
			want.WriteString(text)
			all = append(all, chunk(text))
		}
		must(t, a.Append(t.Context(), all...))
		must(t, a.Finish(t.Context(), &Complete{}))
		frames, _ := logOf(t, s, k.Job)
		if len(frames) != 1001 || textOf(t, frames) != want.String() {
			t.Fatal(len(frames))
		}
	})
}

func TestBadEvents(t *testing.T) {
	s := NewStore(mini(t), Options{})
	ctx := t.Context()
	k := create(t, s, Job{})
	a := begin(t, s, k, "h")
	for _, e := range []Event{&Started{}, &Complete{}, &Delta{Kind: "x", Body: []int{1}}, &Delta{Kind: "x", Body: func() {}}} {
		if err := a.Append(ctx, chunk("lost with it"), e); err == nil || Retryable(err) {
			t.Errorf("append %T: %v", e, err)
		}
	}
	if err := a.Finish(ctx, chunk("x")); err == nil || Retryable(err) {
		t.Error(err)
	}
	if _, err := a.Release(ctx, StateRunning); err == nil || Retryable(err) {
		t.Error(err)
	}
	must(t, a.Append(ctx, chunk("fine")))
	must(t, a.Finish(ctx, &Complete{}))
	if frames, _ := logOf(t, s, k.Job); textOf(t, frames) != "fine" {
		t.Error(textOf(t, frames))
	}
}

func TestRetryable(t *testing.T) {
	for err, want := range map[error]bool{
		nil: false, context.Canceled: false, context.DeadlineExceeded: true, errLost: true,
		ErrFenced: false, ErrGone: false, ErrBacklog: true, &IDError{}: false, redis.ErrClosed: false,
		fmt.Errorf("x: %w", ErrCancelled): false,
	} {
		if got := Retryable(err); got != want {
			t.Errorf("Retryable(%v) = %v", err, got)
		}
	}
	for msg, want := range map[string]bool{
		"LOADING Redis is loading the dataset in memory": true, "READONLY You can't write against a read only replica.": true,
		"OOM command not allowed when used memory > 'maxmemory'.": true, "WRONGTYPE Operation": false, "NOPERM no": false,
		"ERR OOM command not allowed when used memory > 'maxmemory'. script: x": true, "ERR syntax": false, "NOAUTH x": false,
	} {
		if got := retryableReply(msg); got != want {
			t.Errorf("%s: %v", msg, got)
		}
	}
}

// A job that waits for longer than records are kept is there when its time has come.
func TestRecordOutlivesTheWait(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{TTL: time.Minute})
		a := begin(t, s, create(t, s, Job{}), "h")
		must(t, a.Append(t.Context(), &Start{}))
		a.Due = time.Now().Add(time.Hour)
		_, err := a.Release(t.Context(), StateWaiting)
		must(t, err)
		for _, key := range []string{metaKey(a.Job.ID), logKey(a.Job.ID)} {
			if left := rdb.PTTL(t.Context(), key).Val(); left < time.Hour {
				t.Errorf("%s is gone in %v", key, left)
			}
		}
	})
}
