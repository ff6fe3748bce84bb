package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func receipt(t testing.TB, f Frame) Cancelled {
	t.Helper()
	if f.Event != EventCancelled {
		t.Fatalf("%s", f.Raw)
	}
	var c Cancelled
	must(t, json.Unmarshal(f.Data, &c))
	return c
}

func TestCancel(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		cancel := func(t *testing.T, id string, want State) {
			t.Helper()
			if st, err := s.Cancel(ctx, id, "ann", false); err != nil || st != want {
				t.Fatalf("cancel: %s %v, want %s", st, err, want)
			}
		}
		t.Run("queued", func(t *testing.T) {
			k := create(t, s, Job{})
			cancel(t, k.Job, StateCancelled)
			cancel(t, k.Job, StateCancelled)
			frames, st := logOf(t, s, k.Job)
			if c := receipt(t, frames[0]); c.Text != "" || c.Attempt != 0 || c.Seq != 1 || st.State != StateCancelled || st.Ended.IsZero() {
				t.Fatalf("%+v %+v", c, st)
			}
			if _, err := s.Begin(ctx, k, "h"); !errors.Is(err, ErrCancelled) || Retryable(err) {
				t.Fatal(err)
			}
			logOf(t, s, k.Job)
		})
		t.Run("waiting", func(t *testing.T) {
			k := create(t, s, Job{})
			a := begin(t, s, k, "h")
			must(t, a.Append(ctx, &Start{}, chunk("so "), chunk("far")))
			_, err := a.Release(ctx, StateWaiting)
			must(t, err)
			cancel(t, k.Job, StateCancelled)
			frames, _ := logOf(t, s, k.Job)
			if c := receipt(t, frames[3]); c.Text != "so far" || c.Attempt != 1 {
				t.Fatalf("%+v", c)
			}
		})
		t.Run("running", func(t *testing.T) {
			k := create(t, s, Job{})
			a := begin(t, s, k, "h")
			must(t, a.Append(ctx, &Start{}, chunk("so far")))
			cancel(t, k.Job, StateRunning)
			cancel(t, k.Job, StateRunning)
			if got, err := s.CancelledOf(ctx, "nope", k.Job); err != nil || len(got) != 1 || got[0] != k.Job {
				t.Fatal(got, err)
			}
			if err := a.Append(ctx, chunk("too late")); !errors.Is(err, ErrCancelled) || Retryable(err) {
				t.Fatal(err)
			}
			if err := a.Append(ctx, chunk("again")); !errors.Is(err, ErrCancelled) {
				t.Fatal(err)
			}
			if err := a.Finish(ctx, &Complete{}); !errors.Is(err, ErrCancelled) {
				t.Fatal(err)
			}
			must(t, a.Finish(ctx, &Cancelled{Tokens: 2, Usage: &Usage{Output: 2}}))
			frames, _ := logOf(t, s, k.Job)
			if c := receipt(t, frames[2]); c.Text != "so far" || c.Usage.Output != 2 {
				t.Fatalf("%+v", c)
			}
			cancel(t, k.Job, StateCancelled)
		})
		t.Run("finishing", func(t *testing.T) {
			for _, e := range []Event{&Complete{Text: "whole"}, &Error{}} {
				k := create(t, s, Job{})
				a := begin(t, s, k, "h")
				must(t, a.Append(ctx, &Start{}, chunk("whole")))
				cancel(t, k.Job, StateRunning)
				if err := a.Finish(ctx, e); !errors.Is(err, ErrCancelled) {
					t.Fatal(err)
				}
				must(t, a.Finish(ctx, &Cancelled{}))
				frames, _ := logOf(t, s, k.Job)
				if c := receipt(t, frames[2]); c.Text != "whole" {
					t.Fatalf("%+v", c)
				}
			}
		})
		t.Run("releasing", func(t *testing.T) {
			k := create(t, s, Job{})
			a := begin(t, s, k, "h")
			cancel(t, k.Job, StateRunning)
			if _, err := a.Release(ctx, StateWaiting); !errors.Is(err, ErrCancelled) {
				t.Fatal(err)
			}
			must(t, a.Finish(ctx, &Cancelled{}))
			logOf(t, s, k.Job)
		})
		t.Run("ended", func(t *testing.T) {
			k := create(t, s, Job{})
			must(t, begin(t, s, k, "h").Finish(ctx, &Complete{}))
			cancel(t, k.Job, StateComplete)
			if frames, _ := logOf(t, s, k.Job); events(frames) != "complete" {
				t.Fatal(events(frames))
			}
		})
		t.Run("host dies", func(t *testing.T) {
			k := create(t, s, Job{Policy: PolicyFail})
			a := begin(t, NewStore(rdb, Options{}), k, "dead")
			must(t, a.Append(ctx, &Start{}, chunk("so far")))
			cancel(t, k.Job, StateRunning)
			h := NewHosts(s, logger(t), HostsOptions{})
			for range 2 {
				must(t, h.Reclaim(ctx, "dead", func(context.Context, Ticket, string, time.Time) error { t.Error("ran again"); return nil }))
			}
			frames, _ := logOf(t, s, k.Job)
			if c := receipt(t, frames[2]); c.Text != "so far" || c.Attempt != 1 {
				t.Fatalf("%+v", c)
			}
		})
		// The process that accepted the cancel died before it could write the receipt.
		t.Run("flag only", func(t *testing.T) {
			k := create(t, s, Job{})
			must(t, rdb.HSet(ctx, metaKey(k.Job), "cancel", "1").Err())
			if _, err := s.Begin(ctx, k, "h"); !errors.Is(err, ErrCancelled) {
				t.Fatal(err)
			}
			frames, _ := logOf(t, s, k.Job)
			receipt(t, frames[0])
		})
		t.Run("foreign", func(t *testing.T) {
			k := create(t, s, Job{})
			for _, id := range []string{k.Job, "no-such-job"} {
				if st, err := s.Cancel(ctx, id, "bob", false); !errors.Is(err, ErrNotFound) || st != "" {
					t.Fatal(st, err)
				}
			}
			if st, err := s.Cancel(ctx, k.Job, "root", true); err != nil || st != StateCancelled {
				t.Fatal(st, err)
			}
		})
	})
}

// A second attempt is cancelled before its model:start: what the client has is still the text of the first.
func TestReceiptBeforeStart(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		must(t, a.Append(ctx, &Start{}, chunk("first")))
		k, err := a.Release(ctx, StateQueued)
		must(t, err)
		b := begin(t, s, k, "h")
		_, err = s.Cancel(ctx, k.Job, "ann", false)
		must(t, err)
		must(t, b.Finish(ctx, &Cancelled{}))
		frames, _ := logOf(t, s, k.Job)
		if c := receipt(t, frames[2]); c.Text != "first" {
			t.Fatalf("%q", c.Text)
		}
	})
}

// A lost append and a cancel meet: the receipt says what the log holds, whether the append had taken effect or not.
func TestReceiptAfterLostReply(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		d := &dropReplies{}
		rdb.AddHook(d)
		s := NewStore(rdb, Options{})
		ctx := t.Context()
		for _, first := range []string{"append", "finish"} {
			k := create(t, s, Job{})
			a := begin(t, s, k, "h")
			must(t, a.Append(ctx, &Start{}, chunk("one ")))
			d.set(func(cmd redis.Cmder) bool { return true })
			if err := a.Append(ctx, chunk("two ")); !Retryable(err) {
				t.Fatal(err)
			}
			d.set(nil)
			if _, err := s.Cancel(ctx, k.Job, "ann", false); err != nil {
				t.Fatal(err)
			}
			if first == "append" {
				if err := a.Append(ctx, chunk("three")); !errors.Is(err, ErrCancelled) {
					t.Fatal(err)
				}
			}
			must(t, a.Finish(ctx, &Cancelled{}))
			frames, _ := logOf(t, s, k.Job)
			if c := receipt(t, frames[3]); c.Text != "one two " {
				t.Fatalf("%s first: %q", first, c.Text)
			}
		}
	})
}

func TestCancelsAreHeard(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		heard := make(chan string, 100)
		start(t, func(ctx context.Context) error { return s.Cancels(ctx, func(id string) { heard <- id }) })
		hear := func() string {
			select {
			case id := <-heard:
				return id
			case <-time.After(soon):
				t.Fatal("nothing heard")
				return ""
			}
		}
		if id := hear(); id != "" {
			t.Fatalf("%q before the subscription", id)
		}
		k := create(t, s, Job{})
		a := begin(t, s, k, "h")
		_, err := s.Cancel(t.Context(), k.Job, "ann", false)
		must(t, err)
		if id := hear(); id != k.Job {
			t.Fatal(id)
		}
		must(t, a.Finish(t.Context(), &Cancelled{}))
	})
}

// TestCancelRaces runs a job's whole life against a cancel at a random moment, thousands of times: exactly one
// terminal frame, no chunk after Cancel has returned, and never a complete after an accepted cancel.
func TestCancelRaces(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		total := 3000
		if testing.Short() || t.Name() == "TestCancelRaces/miniredis" {
			total = 300
		}
		s, other := NewStore(rdb, Options{}), NewStore(rdb, Options{})
		var mu sync.Mutex
		ends := map[State]int{}
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(worker)))
				for range total / 8 {
					st, err := race(t.Context(), s, other, r)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					ends[st]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.Logf("ends: %v", ends)
		if ends[StateCancelled] == 0 || ends[StateComplete] == 0 {
			t.Errorf("the race was one-sided: %v", ends)
		}
	})
}

func race(ctx context.Context, s, other *Store, r *rand.Rand) (State, error) {
	j := Job{ID: NewID(), User: "ann"}
	if _, _, err := s.Create(ctx, j); err != nil {
		return "", err
	}
	chunks, retry, steps := r.IntN(4), r.IntN(3) == 0, r.IntN(12)
	step := make(chan struct{}, 64) // the worker's progress: the cancel strikes after a number of steps
	worker := make(chan error, 1)
	go func() { worker <- work(ctx, s, j.ID, chunks, retry, step) }()
	for range steps {
		if _, more := <-step; !more {
			break
		}
	}
	found, err := other.Cancel(ctx, j.ID, "ann", false)
	if err != nil {
		return "", err
	}
	atCancel, err := other.Status(ctx, j.ID)
	if err != nil {
		return "", err
	}
	if err := <-worker; err != nil {
		return "", err
	}
	frames, st, err := other.Read(ctx, j.ID, 0, 0)
	if err != nil {
		return "", err
	}
	terminals := 0
	for i, f := range frames {
		if f.Seq != int64(i)+1 {
			return "", fmt.Errorf("job %s: seq %d at %d", j.ID, f.Seq, i)
		}
		if f.Terminal() {
			terminals++
		} else if f.Seq > atCancel.Seq {
			return "", fmt.Errorf("job %s: %s at %d after the cancel returned at %d", j.ID, f.Event, f.Seq, atCancel.Seq)
		}
	}
	if terminals != 1 || !frames[len(frames)-1].Terminal() || !st.State.Terminal() {
		return "", fmt.Errorf("job %s: %d terminal frames in %s, state %s", j.ID, terminals, events(frames), st.State)
	}
	if !found.Terminal() && st.State != StateCancelled || found == StateCancelled && st.State != StateCancelled {
		return "", fmt.Errorf("job %s: cancel found %s, it ended %s", j.ID, found, st.State)
	}
	if st.State == StateCancelled {
		var c Cancelled
		if err := json.Unmarshal(frames[len(frames)-1].Data, &c); err != nil {
			return "", err
		}
		if want, err := Text(frames); err != nil || c.Text != want {
			return "", fmt.Errorf("job %s: receipt says %q, log %q (%v)", j.ID, c.Text, want, err)
		}
	}
	return st.State, nil
}

// work is what a host does with a job, retrying once if told.
func work(ctx context.Context, s *Store, id string, chunks int, retry bool, step chan<- struct{}) (err error) {
	defer close(step)
	k := Ticket{Job: id, Attempt: 1}
	for {
		a, err := s.Begin(ctx, k, "h")
		if errors.Is(err, ErrCancelled) {
			return nil
		}
		if err != nil {
			return err
		}
		step <- struct{}{}
		err = a.Append(ctx, &Start{Reset: a.Reset})
		for i := 0; i < chunks && err == nil; i++ {
			step <- struct{}{}
			err = a.Append(ctx, chunk(fmt.Sprint(i, " ")))
		}
		step <- struct{}{}
		if err == nil && retry {
			retry = false
			if k, err = a.Release(ctx, StateWaiting); err == nil {
				if err := a.Done(ctx); err != nil {
					return err
				}
				continue
			}
		} else if err == nil {
			err = a.Finish(ctx, &Complete{})
		}
		if errors.Is(err, ErrCancelled) {
			err = a.Finish(ctx, &Cancelled{})
		}
		return err
	}
}
