package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/sdk"
)

func TestJudge(t *testing.T) {
	backoff := config.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for _, tt := range []struct {
		name          string
		err           *sdk.Error
		failures      int
		retry, next   bool
		least, atMost time.Duration
		models        int // that the job names; 0 is one
	}{
		{"invalid", &sdk.Error{Kind: sdk.Invalid}, 1, false, false, 0, 0, 0},
		{"denied", &sdk.Error{Kind: sdk.Denied}, 1, false, false, 0, 0, 0},
		{"refused", &sdk.Error{Kind: sdk.Refused}, 1, false, false, 0, 0, 0},
		{"internal", &sdk.Error{Kind: sdk.Internal}, 1, false, false, 0, 0, 0},
		{"limited waits as told", &sdk.Error{Kind: sdk.Limited, Wait: time.Hour}, 1, true, false, time.Hour, time.Hour, 0},
		{"limited, not told", &sdk.Error{Kind: sdk.Limited}, 1, true, false, 50 * time.Millisecond, 100 * time.Millisecond, 0},
		{"unavailable", &sdk.Error{Kind: sdk.Unavailable}, 1, true, true, 50 * time.Millisecond, 100 * time.Millisecond, 0},
		{"unavailable, told", &sdk.Error{Kind: sdk.Unavailable, Wait: 2 * time.Second}, 1, true, true, 2 * time.Second, 2 * time.Second, 0},
		{"truncated, third time", &sdk.Error{Kind: sdk.Truncated}, 3, true, true, 200 * time.Millisecond, 400 * time.Millisecond, 0},
		{"fifth time", &sdk.Error{Kind: sdk.Unavailable}, 5, true, true, 500 * time.Millisecond, time.Second, 0},
		{"once too often", &sdk.Error{Kind: sdk.Unavailable}, 6, false, false, 0, 0, 0},
		{"limited for long, another model", &sdk.Error{Kind: sdk.Limited, Wait: time.Hour}, 1, true, true, 0, 0, 2},
		{"limited for long, all asked", &sdk.Error{Kind: sdk.Limited, Wait: time.Hour}, 2, true, false, time.Hour, time.Hour, 2},
		{"limited for ever", &sdk.Error{Kind: sdk.Limited, Wait: 1 << 62}, 1, false, false, 0, 0, 0},
		{"limited for ever, another model", &sdk.Error{Kind: sdk.Limited, Wait: 1 << 62}, 1, true, true, 0, 0, 2},
		{"unavailable for ever", &sdk.Error{Kind: sdk.Unavailable, Wait: 1 << 62}, 1, false, false, 0, 0, 0},
		{"unavailable for long, another model", &sdk.Error{Kind: sdk.Unavailable, Wait: time.Hour}, 1, true, true, 0, 0, 2},
		{"unavailable for long, all asked", &sdk.Error{Kind: sdk.Unavailable, Wait: time.Hour}, 2, true, true, time.Hour, time.Hour, 2},
		{"limited for a moment, another model", &sdk.Error{Kind: sdk.Limited, Wait: time.Second}, 1, true, false, time.Second, time.Second, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 100 { // there is chance in it
				v := judge(tt.err, tt.failures, 6, max(1, tt.models), backoff, time.Minute, time.Hour)
				if v.retry != tt.retry || v.next != tt.next || v.wait < tt.least || v.wait > tt.atMost {
					t.Fatalf("verdict is %+v", v)
				}
			}
		})
	}
}

// While a plugin has no process a job waits and no attempt is used up, until the
// job is too old.
func TestNoProcessIsNoFailure(t *testing.T) {
	backoff := config.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	down := &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Plugin, Wait: 30 * time.Second, Err: native.ErrDown}
	if v := judge(down, 99, 5, 1, backoff, 59*time.Minute, time.Hour); v != (verdict{retry: true, next: true, wait: down.Wait, spare: true}) {
		t.Errorf("verdict is %+v", v)
	}
	if v := judge(down, 4, 5, 1, backoff, time.Hour, time.Hour); !v.retry || v.spare {
		t.Errorf("too old: verdict is %+v", v)
	}
	if v := judge(down, 5, 5, 1, backoff, time.Hour, time.Hour); v.retry {
		t.Errorf("too old and too often: verdict is %+v", v)
	}
	soon := &sdk.Error{Kind: sdk.Unavailable, Err: native.ErrDown}
	if v := judge(soon, 1, 5, 1, backoff, 0, time.Hour); v.wait < 50*time.Millisecond {
		t.Errorf("tries again after %s", v.wait)
	}
}

func TestBackoffWithoutLimits(t *testing.T) {
	if d := backoffFor(100, config.Backoff{}); d != 0 {
		t.Errorf("no back-off configured, got %s", d)
	}
	if d := backoffFor(1000, config.Backoff{Min: time.Second, Max: time.Minute}); d > time.Minute || d < 30*time.Second {
		t.Errorf("after 1000 failures %s", d)
	}
}

func TestFailureNamesOurOwnLimitFirst(t *testing.T) {
	limit := &sdk.Error{Kind: sdk.Truncated, Code: codeIdle}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(limit)
	if e := failure(ctx, sdk.Errorf(sdk.Internal, "pipe broke")); e != limit {
		t.Errorf("failure is %+v", e)
	}
	if e := failure(t.Context(), errors.New("odd")); e.Kind != sdk.Internal || e.Fault != sdk.Plugin {
		t.Errorf("failure is %+v", e)
	}
}

// What a plugin says of its failure goes into logs, frames and the archive.
func TestFailureIsBounded(t *testing.T) {
	e := failure(t.Context(), &sdk.Error{
		Kind: sdk.Denied, Fault: sdk.Host, Message: strings.Repeat("ä", 1<<20), Code: strings.Repeat("\xff", 1<<20), Status: -7, Wait: -1,
	})
	if len(e.Message) > 5000 || len(e.Code) > 400 || !utf8.ValidString(e.Message+e.Code) || e.Status != 0 || e.Wait != 0 || e.Kind != sdk.Denied || e.Fault != sdk.Host {
		t.Errorf("failure has a message of %d bytes, a code of %d, status %d, wait %s: %s, %s", len(e.Message), len(e.Code), e.Status, e.Wait, e.Kind, e.Fault)
	}
}

func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b]0;title\a\x00b \u202ec \u009b31m \xff\xfe":          "a ]0;title b c 31m \uFFFD",
		"Incorrect API key provided: sk-proj-abc123DEF456.":        "Incorrect API key provided: [removed].",
		"Authorization: Bearer eyJhbGciOi.x.y\n\nnext  line":       "Authorization: [removed] next line",
		`{"api_key":"abcdef","model":"gpt"}`:                       `{"[removed]","model":"gpt"}`,
		"max_tokens is too large: 9000 tokens of at most 4096":     "max_tokens is too large: 9000 tokens of at most 4096",
		"https://api.example.com/v1?token=abc&x=1 does not answer": "https://api.example.com/v1?[removed] does not answer",
	} {
		if got := scrub(in, 1000); got != want {
			t.Errorf("scrub(%q) = %q, want %q", in, got, want)
		}
	}
	if got := scrub(strings.Repeat("ä", 500), 501); len(got) > 510 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("a long text became %q", got)
	}
}

func TestDeadlinesDoNotCountWhileThePluginIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		d := startDeadlines(time.Hour, time.Minute, time.Second, cancel)
		defer d.end()
		sleep(t.Context(), 30*time.Second) // idle doesn't count before the first chunk
		d.arrived(sdk.Text("x"))
		sleep(t.Context(), 10*time.Minute) // held back
		d.delivered()
		if ctx.Err() != nil {
			t.Fatalf("ended by %v", context.Cause(ctx))
		}
		sleep(t.Context(), 900*time.Millisecond)
		d.arrived(sdk.Usage{})
		d.delivered()
		sleep(t.Context(), 900*time.Millisecond)
		if ctx.Err() != nil {
			t.Fatalf("ended by %v", context.Cause(ctx))
		}
		sleep(t.Context(), 200*time.Millisecond)
		if e := (*sdk.Error)(nil); !errors.As(context.Cause(ctx), &e) || e.Code != codeIdle {
			t.Errorf("after a silence it ended by %v", context.Cause(ctx))
		}
	})
}

func TestSelfFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{log: discard, worker: &worker{running: &running{}}}
		work, stop := context.WithCancelCause(t.Context())
		defer h.worker.running.add("j", stop)()
		lost := time.Now().Add(time.Minute) // the last heartbeat
		looks := 0
		go h.watch(t.Context(), func() time.Time {
			if now := time.Now(); now.Before(lost) {
				return now
			}
			return lost
		}, func(context.Context) { looks++ })
		sleep(t.Context(), time.Minute+14*time.Second)
		synctest.Wait()
		if work.Err() != nil || looks < 12 {
			t.Fatalf("after 14 s without Redis the work ended with %v, %d looks for cancels", context.Cause(work), looks)
		}
		sleep(t.Context(), 7*time.Second)
		if !errors.Is(context.Cause(work), errSelfFence) {
			t.Errorf("after 21 s without Redis: %v", context.Cause(work))
		}
	})
}
