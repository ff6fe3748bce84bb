package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// fakeSink keeps what it is given, as job.Attempt does.
type fakeSink struct {
	mu      sync.Mutex
	took    time.Duration // of one append
	fail    error         // what appends fail with
	appends int
	at      []time.Duration // since the start, of the appends that succeeded
	start   time.Time
	pending []job.Event
	events  []job.Event
}

func (f *fakeSink) Append(ctx context.Context, events ...job.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.appends++
	if f.took > 0 && !sleep(ctx, f.took) {
		return context.Cause(ctx)
	}
	f.pending = append(f.pending, events...)
	if f.fail != nil {
		return f.fail
	}
	f.at = append(f.at, time.Since(f.start))
	f.events = append(f.events, f.pending...)
	f.pending = nil
	return nil
}

func (f *fakeSink) set(fail error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *fakeSink) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, e := range f.events {
		if c, ok := e.(*job.Chunk); ok {
			b.WriteString(c.Chunk)
		}
	}
	return b.String()
}

// kinds lists the frames in order: the text of chunks, the kind of deltas.
func (f *fakeSink) kinds() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, e := range f.events {
		switch e := e.(type) {
		case *job.Chunk:
			out = append(out, e.Chunk)
		case *job.Delta:
			out = append(out, fmt.Sprint(e.Kind, e.Body))
		case *job.Progress:
			out = append(out, "progress "+e.Status)
		}
	}
	return out
}

var errAway = errors.New("connection refused")

// startStream runs a stream over f; finish closes it and returns what run did.
func startStream(t *testing.T, f *fakeSink, limit int) (s *stream, finish func() error) {
	t.Helper()
	const most = 1 << 20
	f.start = time.Now()
	s = newStream(f, 25*time.Millisecond, limit, semaphore.NewWeighted(most), most, nil)
	done := make(chan error, 1)
	go func() { done <- s.run(t.Context()) }()
	return s, func() error {
		s.close()
		err := <-done
		if !s.budget.TryAcquire(most) {
			t.Error("the stream did not give the host's budget back")
		}
		if s.size != 0 {
			t.Errorf("the stream still holds %d bytes", s.size)
		}
		return err
	}
}

func TestStreamCoalesces(t *testing.T) {
	for _, tt := range []struct {
		name             string
		every            time.Duration
		took             time.Duration
		atLeast, atMost  int
		longestHeldAtEnd time.Duration
	}{
		{name: "20 tokens a second", every: 50 * time.Millisecond, atLeast: 1000, atMost: 1000},
		{name: "100 tokens a second", every: 10 * time.Millisecond, atLeast: 250, atMost: 400},
		{name: "500 tokens a second", every: 2 * time.Millisecond, atLeast: 50, atMost: 100},
		{name: "500 tokens a second, Redis takes 100 ms", every: 2 * time.Millisecond, took: 100 * time.Millisecond, atLeast: 15, atMost: 25},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeSink{took: tt.took}
				s, finish := startStream(t, f, 1<<20)
				var want strings.Builder
				for i := range 1000 {
					token := fmt.Sprint("t", i, " ")
					want.WriteString(token)
					if err := s.emit(t.Context(), sdk.Text(token)); err != nil {
						t.Fatal(err)
					}
					sleep(t.Context(), tt.every)
				}
				if err := finish(); err != nil {
					t.Fatal(err)
				}
				if got := f.text(); got != want.String() {
					t.Errorf("text differs: %d bytes, want %d", len(got), want.Len())
				}
				if f.appends < tt.atLeast || f.appends > tt.atMost {
					t.Errorf("%d appends, want %d to %d", f.appends, tt.atLeast, tt.atMost)
				}
				if f.at[0] != tt.took {
					t.Errorf("first chunk was written after %s, want at once", f.at[0])
				}
				t.Logf("%d appends", f.appends)
			})
		})
	}
}

func TestStreamHoldsAChunkNoLongerThanTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSink{}
		s, finish := startStream(t, f, 1<<20)
		emit := func(text string) {
			t.Helper()
			if err := s.emit(t.Context(), sdk.Text(text)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		emit("a") // at once
		sleep(t.Context(), 10*time.Millisecond)
		emit("b") // held until 35 ms
		sleep(t.Context(), 20*time.Millisecond)
		emit("c") // goes with b
		sleep(t.Context(), 100*time.Millisecond)
		emit("d") // after a silence: at once
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		if got, want := f.kinds(), []string{"a", "bc", "d"}; !slices.Equal(got, want) {
			t.Errorf("frames %q, want %q", got, want)
		}
		if want := []time.Duration{0, 35 * time.Millisecond, 130 * time.Millisecond}; !slices.Equal(f.at, want) {
			t.Errorf("written at %v, want %v", f.at, want)
		}
	})
}

// Neither the frames that begin an attempt nor thinking hold the first chunk,
// or the first text, back.
func TestStreamNeverHoldsTheFirstChunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSink{took: time.Millisecond}
		s, finish := startStream(t, f, 1<<20)
		s.push(&job.Progress{Status: "started"})
		synctest.Wait()
		for _, c := range []sdk.Chunk{sdk.Reasoning{Text: "a"}, sdk.Reasoning{Text: "b"}, sdk.Text("c"), sdk.Text("d")} {
			if err := s.emit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			sleep(t.Context(), 5*time.Millisecond)
		}
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		if got, want := f.kinds(), []string{"progress started", "reasoning{a }", "reasoning{b }", "c", "d"}; !slices.Equal(got, want) {
			t.Errorf("frames %q, want %q", got, want)
		}
		// b is held and goes out with c; d goes out at the end.
		if want := []time.Duration{1, 2, 11, 21}; !slices.Equal(f.at, scaled(want, time.Millisecond)) {
			t.Errorf("written at %v, want %v ms", f.at, want)
		}
	})
}

func scaled(list []time.Duration, by time.Duration) []time.Duration {
	out := make([]time.Duration, len(list))
	for i, d := range list {
		out[i] = d * by
	}
	return out
}

func TestStreamMergesWithinAKindInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSink{took: time.Second} // all of it arrives during the first write
		s, finish := startStream(t, f, 1<<20)
		if err := s.emit(t.Context(), sdk.Reasoning{Text: "first"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, c := range []sdk.Chunk{
			sdk.Reasoning{Text: "hm"}, sdk.Reasoning{Text: "m", Signature: ""}, sdk.Reasoning{Signature: "sig"}, sdk.Reasoning{Text: "next"},
			sdk.Text("a"), sdk.Text("b"), sdk.Refusal("no"), sdk.Refusal("pe"), sdk.Text("c"),
			sdk.ToolCall{Index: 0, ID: "1", Name: "f", Arguments: "{"}, sdk.ToolCall{Index: 0, Arguments: "}"},
			sdk.ToolCall{Index: 1, ID: "2", Name: "g", Arguments: "["}, sdk.ToolCall{Index: 0, End: true}, sdk.ToolCall{Index: 1, Arguments: "]"},
			sdk.Citation{URL: "u"}, sdk.Citation{URL: "v"}, sdk.Text("d"), sdk.Text("e"),
		} {
			if err := s.emit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		s.push(&job.Progress{Status: "generating"})
		if err := s.emit(t.Context(), sdk.Text("f")); err != nil {
			t.Fatal(err)
		}
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"reasoning{first }", "reasoning{hmm }", "reasoning{ sig}", "reasoning{next }",
			"ab", "refusal{nope}", "c",
			"tool_call{0 1 f {} false}", "tool_call{1 2 g [ false}", "tool_call{0    true}", "tool_call{1   ] false}",
			"citation{u    0 0}", "citation{v    0 0}", "de", "progress generating", "f",
		}
		if got := f.kinds(); !slices.Equal(got, want) {
			t.Errorf("frames\n%q, want\n%q", got, want)
		}
		if f.appends != 2 {
			t.Errorf("%d appends, want 2", f.appends)
		}
	})
}

func TestStreamHoldsThePluginBackWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSink{fail: errAway}
		s, finish := startStream(t, f, 1000)
		emitted := make(chan int)
		go func() {
			n := 0
			for ; n < 500; n++ {
				if err := s.emit(t.Context(), sdk.Text("0123456789")); err != nil {
					t.Error(err)
					break
				}
			}
			emitted <- n
		}()
		sleep(t.Context(), 5*time.Second)
		synctest.Wait()
		s.mu.Lock()
		if s.size > 1000 || s.size < 900 {
			t.Errorf("the stream holds %d bytes while Redis is away, want just under its limit of 1000", s.size)
		}
		s.mu.Unlock()
		select {
		case <-emitted:
			t.Fatal("the plugin was not held back")
		default:
		}
		f.set(nil)
		if n := <-emitted; n != 500 {
			t.Errorf("%d chunks were emitted, want 500", n)
		}
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		if got, want := f.text(), strings.Repeat("0123456789", 500); got != want {
			t.Errorf("%d bytes arrived, want %d: lost or doubled in the outage", len(got), len(want))
		}
	})
}

func TestStreamsShareTheHostsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := semaphore.NewWeighted(500)
		away := &fakeSink{fail: errAway}
		full := newStream(away, time.Millisecond, 1<<20, budget, 500, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- full.run(ctx) }()
		if err := full.emit(t.Context(), sdk.Text(strings.Repeat("x", 5000))); err != nil {
			t.Fatal(err) // larger than the whole budget: passes alone
		}
		other := newStream(&fakeSink{}, time.Millisecond, 1<<20, budget, 500, nil)
		refused := errors.New("held back")
		short, stop := context.WithTimeoutCause(t.Context(), time.Second, refused)
		defer stop()
		if err := other.emit(short, sdk.Text("y")); !errors.Is(err, refused) {
			t.Errorf("emit beyond the host's budget returned %v, want it to wait", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run returned %v", err)
		}
		if !budget.TryAcquire(500) {
			t.Error("a stream that was given up keeps its share of the budget")
		}
		if other.size != 0 {
			t.Errorf("a refused chunk still counts: %d bytes", other.size)
		}
	})
}

func TestStreamEndsWhenTheAttemptIsOver(t *testing.T) {
	for _, over := range []error{job.ErrFenced, job.ErrCancelled, job.ErrGone} {
		t.Run(over.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeSink{}
				told := make(chan error, 1)
				s := newStream(f, 25*time.Millisecond, 100, semaphore.NewWeighted(1000), 1000, func(err error) { told <- err })
				done := make(chan error, 1)
				go func() { done <- s.run(t.Context()) }()
				if err := s.emit(t.Context(), sdk.Text("a")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				f.set(over)
				blocked := make(chan error, 1)
				go func() {
					for {
						if err := s.emit(t.Context(), sdk.Text(strings.Repeat("b", 60))); err != nil {
							blocked <- err
							return
						}
					}
				}()
				if err := <-blocked; !errors.Is(err, over) {
					t.Errorf("emit failed with %v, want %v", err, over)
				}
				if err := <-told; !errors.Is(err, over) {
					t.Errorf("the generation was stopped with %v, want %v", err, over)
				}
				if err := <-done; !errors.Is(err, over) {
					t.Errorf("run returned %v, want %v", err, over)
				}
				if err := s.emit(t.Context(), sdk.Text("c")); !errors.Is(err, over) {
					t.Errorf("a later emit failed with %v, want %v", err, over)
				}
				if s.size != 0 || !s.budget.TryAcquire(1000) {
					t.Errorf("the stream still holds %d bytes", s.size)
				}
			})
		})
	}
}

func TestStreamRefusesChunksAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, finish := startStream(t, &fakeSink{}, 100)
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		if err := s.emit(t.Context(), sdk.Text("late")); !errors.Is(err, errStreamClosed) {
			t.Errorf("emit after the end returned %v", err)
		}
	})
}

func TestStreamGivesBackloggedEventsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given []int
		f := sinkFunc(func(events ...job.Event) error {
			given = append(given, len(events))
			switch len(given) {
			case 1:
				return job.ErrBacklog // not taken
			case 2, 4:
				return errAway
			}
			return nil
		})
		// Refused, then what waits is written at the second try, then it is
		// taken but not written, then written.
		if err := appendAll(t.Context(), f, &job.Progress{}); err != nil {
			t.Fatal(err)
		}
		if want := []int{1, 0, 0, 1, 0}; !slices.Equal(given, want) {
			t.Errorf("numbers of events given: %v, want %v", given, want)
		}
	})
}

type sinkFunc func(...job.Event) error

func (f sinkFunc) Append(_ context.Context, events ...job.Event) error { return f(events...) }

func TestRunesKeepCharactersWhole(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{[]string{"a", "b"}, "ab"},
		{[]string{"\xe2", "\x82", "\xac!"}, "€!"},
		{[]string{"x\xf0\x9f", "\x98\x80"}, "x😀"},
		{[]string{"x\xf0\x9f"}, "x\uFFFD"},
		{[]string{"\xff", "a"}, "\uFFFDa"},
		{[]string{"\x80\x80\x80\x80"}, "\uFFFD"},
	} {
		var r runes
		var b strings.Builder
		for _, p := range tt.in {
			b.WriteString(r.whole(p))
		}
		b.WriteString(r.rest())
		if got := b.String(); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.in, got, tt.want)
		}
	}
}
