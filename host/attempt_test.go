package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

func TestJobIsAnswered(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		seen := make(chan *sdk.Request, 1)
		h := w.host(tuned(func(c *config.Config) {
			c.Plugins.Config = map[string]config.Plugin{"fake": {Settings: map[string]any{"pace": 1}}}
		}), provider("fake", func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			seen <- req
			return saying(
				sdk.Reasoning{Text: "hm"}, sdk.Text("Hello"), sdk.Text(", "), sdk.Text("€ <b>"), sdk.Text(""),
				sdk.ToolCall{ID: "c1", Name: "f", Arguments: "{}"}, sdk.Usage{Input: 3, Output: 7, Reasoning: 2},
				sdk.Finish{Reason: sdk.FinishToolCalls},
			)(ctx, req, emit)
		}))
		id := w.create(job.Job{Query: "hi", Params: json.RawMessage(`{"temperature":0.5,"odd":true}`)})
		l := w.follow(id, 0)
		if got, want := l.names(), "model:start task:progress/started model:delta model:chunk model:delta model:complete"; got != want {
			t.Errorf("frames %q, want %q", got, want)
		}
		c := l.complete()
		if c.Text != "Hello, € <b>" || c.Tokens != 7 || c.FinishReason != "tool_calls" || c.Provider != "fake" || c.Model != "m" {
			t.Errorf("complete is %+v", c)
		}
		if c.Usage == nil || *c.Usage != (job.Usage{Input: 3, Output: 7, Reasoning: 2}) || c.Timings == nil || c.Duration < c.Timings.Total {
			t.Errorf("usage %+v, timings %+v, duration %d", c.Usage, c.Timings, c.Duration)
		}
		start := decode[job.Start](t, l.frames[0])
		if start.Reset || start.Attempt != 1 || start.Provider != "fake" || start.UserID != "ada" {
			t.Errorf("start is %+v", start)
		}
		req := <-seen
		if req.Model != "m" || req.JobID != id || req.Attempt != 1 || *req.Temperature != 0.5 || string(req.Options["odd"]) != "true" ||
			req.Prompt() != "hi" || req.Settings.Int("pace", 0) != 1 {
			t.Errorf("request is %+v", req)
		}
		h.wantOutcomes(map[string]int{"complete": 1})
		if err := h.end(); err != nil {
			t.Errorf("host ended with %v", err)
		}
		if tasks := w.archived(); len(tasks) != 0 {
			t.Errorf("%d tasks in the archive", len(tasks))
		}
	})
}

func TestErrorsEndAJobByTheirKind(t *testing.T) {
	secret := "sk-abcdefgh12345678"
	tests := []struct {
		name      string
		err       error
		attempts  int64
		code      string
		retryable bool
		fault     sdk.Fault
		message   string
	}{
		{"invalid", sdk.Errorf(sdk.Invalid, "max_tokens is too large, Bearer %s", secret), 1, "invalid", false, sdk.Caller, "max_tokens is too large, [removed]"},
		{"denied", sdk.Errorf(sdk.Denied, "Incorrect API key provided: %s", secret), 1, "denied", false, sdk.Host, "the provider does not admit this installation"},
		{"refused", sdk.Errorf(sdk.Refused, "not this"), 1, "refused", false, sdk.Caller, "not this"},
		{"internal", sdk.Errorf(sdk.Internal, "nil pointer at /home/x"), 1, "internal", false, sdk.Plugin, "something went wrong inside the provider"},
		{"plain error", errors.New("oops " + secret), 1, "internal", false, sdk.Plugin, "something went wrong inside the provider"},
		{"unavailable", sdk.Errorf(sdk.Unavailable, "dial tcp 10.0.0.7: refused"), 3, "unavailable", true, sdk.Upstream, "the provider is not available"},
		{"limited", &sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Wait: time.Millisecond}, 3, "limited", true, sdk.Upstream, "the provider is receiving too many requests"},
		{"truncated", sdk.Errorf(sdk.Truncated, "cut"), 3, "truncated", true, sdk.Upstream, "the answer broke off before its end"},
		{"gives up", context.Canceled, 3, "truncated", true, sdk.Plugin, "the answer broke off before its end"},
	}
	w := newWorld(t, startServer(t).addr)
	var providers []sdk.Provider
	for i, tt := range tests {
		providers = append(providers, provider(fmt.Sprint("p", i), func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
			if err := emit(sdk.Text("so far")); err != nil {
				return err
			}
			return tt.err
		}, sdk.Model{Name: tt.name}))
	}
	providers = append(providers, provider("panics", func(context.Context, *sdk.Request, sdk.Emit) error { panic(secret) }, sdk.Model{Name: "panic"}))
	tests = append(tests, tests[3])
	tests[len(tests)-1].name = "panic"
	w.host(tuned(func(c *config.Config) { c.Host.MaxAttempts = 3 }), providers...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := *w
			w.t = t
			id := w.create(job.Job{Models: []string{tt.name}})
			l := w.follow(id, 0)
			if l.last().Event != job.EventError {
				t.Fatalf("ended with %s", l.last().Raw)
			}
			e := decode[job.Error](t, l.last())
			if e.Code != tt.code || e.Retryable != tt.retryable || e.Fault != string(tt.fault) || e.Message != tt.message || e.Attempt != tt.attempts {
				t.Errorf("error is %+v", e)
			}
			for _, f := range l.frames {
				if strings.Contains(string(f.Raw), secret) {
					t.Errorf("a frame carries the secret: %s", f.Raw)
				}
				if f.Event == job.EventStart {
					if s := decode[job.Start](t, f); s.Reset != (s.Attempt > 1) {
						t.Errorf("start is %+v", s)
					}
				}
			}
			ticket := job.Ticket{Job: id, Attempt: tt.attempts}
			if tt.fault == sdk.Caller { // not worth running again
				eventually(t, "the task is done", func() bool {
					_, err := asynq.NewInspectorFromRedisClient(w.rdb).GetTaskInfo(job.QueueDefault, ticket.TaskID())
					return errors.Is(err, asynq.ErrTaskNotFound)
				})
				return
			}
			eventually(t, "the task is archived with its error", func() bool {
				for _, task := range w.archived() {
					if task.ID == ticket.TaskID() {
						return strings.HasPrefix(task.LastErr, failedPrefix) && !strings.Contains(task.LastErr, secret)
					}
				}
				return false
			})
		})
	}
}

func TestRetryMovesOnToTheNextModelUnlessLimited(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	var asked []string
	fail := func(errs ...error) func(context.Context, *sdk.Request, sdk.Emit) error {
		var n atomic.Int64
		return func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			asked = append(asked, req.Model)
			i := int(n.Add(1)) - 1
			if i < len(errs) {
				return errs[i]
			}
			return emit(sdk.Text("by " + req.Model))
		}
	}
	wait := 300 * time.Millisecond
	w.host(tuned(nil),
		provider("one", fail(&sdk.Error{Kind: sdk.Limited, Wait: wait}, sdk.Errorf(sdk.Unavailable, "down")), sdk.Model{Name: "a"}),
		provider("two", fail(sdk.Errorf(sdk.Truncated, "cut")), sdk.Model{Name: "b*"}))
	id := w.create(job.Job{Models: []string{"a", "bee"}})
	l := w.follow(id, 0)
	if got, want := strings.Join(asked, " "), "a a bee a"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	if c := l.complete(); c.Text != "by a" || c.Attempt != 4 {
		t.Errorf("complete is %+v", c)
	}
	var at []int64
	for _, f := range l.frames {
		if f.Event == job.EventProgress && decode[job.Progress](t, f).Status == statusLimited {
			if said := decode[job.Progress](t, f).Message; !strings.HasSuffix(said, "; trying again in 1 second") {
				t.Errorf("it says %q", said)
			}
		}
		if f.Event == job.EventStart || f.Event == job.EventProgress && decode[job.Progress](t, f).Status == statusLimited {
			var stamp struct{ Timestamp int64 }
			if err := json.Unmarshal(f.Raw, &stamp); err != nil {
				t.Fatal(err)
			}
			at = append(at, stamp.Timestamp)
		}
	}
	if waited := at[2] - at[1]; waited < wait.Milliseconds() {
		t.Errorf("tried again after %d ms, told to wait %s", waited, wait)
	}
}

func TestSpoken(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		time.Millisecond: "1 second", time.Second: "1 second", 1001 * time.Millisecond: "2 seconds", 59 * time.Second: "59 seconds",
		time.Minute: "1 minute", 90 * time.Second: "90 seconds", 2*time.Minute - 1: "2 minutes", 2 * time.Minute: "2 minutes",
		2*time.Minute + 1: "3 minutes", time.Hour: "1 hour", time.Hour + time.Second: "61 minutes", 24 * time.Hour: "24 hours",
	} {
		if got := spoken(wait); got != want {
			t.Errorf("%v is spoken %q, want %q", wait, got, want)
		}
	}
}

// Nobody waits an hour for a model when the job names another.
func TestLongLimitFallsBackToTheNextModel(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(nil),
		provider("one", func(context.Context, *sdk.Request, sdk.Emit) error {
			return &sdk.Error{Kind: sdk.Limited, Wait: time.Hour}
		}, sdk.Model{Name: "a"}),
		provider("two", saying(sdk.Text("by b")), sdk.Model{Name: "b"}))
	l := w.follow(w.create(job.Job{Models: []string{"a", "b"}}), 0)
	if c := l.complete(); c.Text != "by b" || c.Model != "b" || c.Attempt != 2 {
		t.Errorf("complete is %+v", c)
	}
}

// A ticket that Redis lost while it kept the job is made anew.
func TestJobThatLostItsTicketRuns(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		w.host(tuned(nil), provider("fake", saying(sdk.Text("after all"))))
		if _, _, err := w.store.Create(t.Context(), job.Job{ID: "lost", User: "ada", Query: "?", Models: []string{"m"}}); err != nil {
			t.Fatal(err)
		}
		if c := w.follow("lost", 0).complete(); c.Text != "after all" || c.Attempt != 1 {
			t.Errorf("complete is %+v", c)
		}
	})
}

func TestFailedJobRunsAgainFromTheArchive(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		var broken atomic.Bool
		broken.Store(true)
		w.host(tuned(func(c *config.Config) { c.Host.MaxAttempts = 2 }), provider("fake", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
			if broken.Load() {
				return sdk.Errorf(sdk.Unavailable, "down")
			}
			return emit(sdk.Text("up again"))
		}))
		id := w.create(job.Job{})
		first := w.follow(id, 0)
		var task *asynq.TaskInfo
		eventually(t, "the task is archived", func() bool {
			tasks := w.archived()
			if len(tasks) == 1 {
				task = tasks[0]
			}
			return len(tasks) == 1
		})
		rerun := func(after int64) log {
			inspector := asynq.NewInspectorFromRedisClient(w.rdb)
			if err := inspector.RunTask(task.Queue, task.ID); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the job runs again", func() bool {
				st, err := w.store.Status(t.Context(), id)
				return err == nil && st.Seq > after
			})
			return w.follow(id, after)
		}
		// Still broken: the whole budget of attempts once more.
		second := rerun(first.last().Seq)
		if e := decode[job.Error](t, second.last()); e.Attempt != 4 {
			t.Errorf("run again, it failed as %+v, want attempt 4", e)
		}
		broken.Store(false)
		eventually(t, "the second task is archived", func() bool {
			for _, info := range w.archived() {
				if info.ID == (job.Ticket{Job: id, Attempt: 4}).TaskID() {
					task = info
					return true
				}
			}
			return false
		})
		if c := rerun(second.last().Seq).complete(); c.Text != "up again" {
			t.Errorf("complete is %+v", c)
		}
	})
}

func TestSecondDeliveryOfATicketIsDropped(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	var runs atomic.Int64
	w.host(tuned(nil), provider("fake", func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
		runs.Add(1)
		return emit(sdk.Text("once"))
	}))
	id := w.create(job.Job{})
	w.follow(id, 0).complete()
	ticket := job.Ticket{Job: id, Attempt: 1}
	eventually(t, "the ticket is settled and can be put in again", func() bool {
		if err := w.tickets.Enqueue(t.Context(), ticket, "", 0); err != nil {
			t.Fatal(err)
		}
		info, err := asynq.NewInspectorFromRedisClient(w.rdb).GetTaskInfo(job.QueueDefault, ticket.TaskID())
		return errors.Is(err, asynq.ErrTaskNotFound) && info == nil
	})
	if n := runs.Load(); n != 1 {
		t.Errorf("the provider ran %d times", n)
	}
}

func TestProviderThatIgnoresARefusedChunkIsNotWhole(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(func(c *config.Config) {
		c.Plugins.Config = map[string]config.Plugin{"fake": {Limits: config.PluginLimits{Output: 1000}}}
	}), provider("fake", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
		for range 1000 {
			_ = emit(sdk.Text("x"))
		}
		return nil
	}))
	l := w.follow(w.create(job.Job{}), 0)
	if e := decode[job.Error](t, l.last()); l.last().Event != job.EventError || e.Code != codeOutput || e.Fault != "plugin" {
		t.Errorf("ended with %s", l.last().Raw)
	}
}

func TestDeadlines(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	short := 100 * time.Millisecond
	hang := func(before ...sdk.Chunk) func(context.Context, *sdk.Request, sdk.Emit) error {
		return func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			if err := saying(before...)(ctx, req, emit); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}
	steady := func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
		for {
			if err := emit(sdk.Text("x")); err != nil {
				return err
			}
			if !sleep(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	thinking := func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
		for {
			if err := emit(sdk.Reasoning{Text: "x"}); err != nil {
				return err
			}
			if !sleep(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	limits := func(first, idle, total time.Duration) config.Plugin {
		return config.Plugin{Limits: config.PluginLimits{FirstToken: first, Idle: idle, Total: total}}
	}
	cases := []struct {
		name, code string
		plugin     config.Plugin
		generate   func(context.Context, *sdk.Request, sdk.Emit) error
	}{
		{"first-token", codeFirstToken, limits(short, 0, 0), hang()},
		{"first-token-while-thinking", codeFirstToken, limits(short, 0, 0), thinking},
		{"idle", codeIdle, limits(0, short, 0), hang(sdk.Text("x"))},
		{"total", codeTotal, limits(0, 0, short), steady},
	}
	var providers []sdk.Provider
	cfg := tuned(func(c *config.Config) {
		c.Host.MaxAttempts = 1
		c.Plugins.Config = map[string]config.Plugin{}
	})
	for _, tt := range cases {
		providers = append(providers, provider(tt.name, tt.generate, sdk.Model{Name: tt.name}))
		cfg.Plugins.Config[tt.name] = tt.plugin
	}
	w.host(cfg, providers...)
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			w := *w
			w.t = t
			l := w.follow(w.create(job.Job{Models: []string{tt.name}}), 0)
			if e := decode[job.Error](t, l.last()); l.last().Event != job.EventError || e.Code != tt.code || e.Fault != "upstream" {
				t.Errorf("ended with %s", l.last().Raw)
			}
		})
	}
}

func TestLongAnswersReportProgress(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	release := make(chan struct{})
	w.host(tuned(func(c *config.Config) { c.Host.Progress = 20 * time.Millisecond }),
		provider("fake", func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
			if err := emit(sdk.Text("x")); err != nil {
				return err
			}
			select {
			case <-release:
				return emit(sdk.Text("y"))
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
	id := w.create(job.Job{})
	w.waitFor(id, "progress", func(f job.Frame) bool {
		return f.Event == job.EventProgress && decode[job.Progress](t, f).Status == statusGenerating
	})
	close(release)
	if c := w.follow(id, 0).complete(); c.Text != "xy" {
		t.Errorf("complete is %+v", c)
	}
}

func TestModelNobodyServes(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(func(c *config.Config) { c.Host.MaxAttempts = 2 }), provider("fake", saying(sdk.Text("x"))))
	l := w.follow(w.create(job.Job{Models: []string{"other"}}), 0)
	if e := decode[job.Error](t, l.last()); e.Code != codeUnknownModel || e.Fault != "host" || e.Attempt != 2 {
		t.Errorf("ended with %s", l.last().Raw)
	}
}

func TestJobFindsTheHostThatServesItsModel(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(nil), provider("one", saying(sdk.Text("1")), sdk.Model{Name: "a"}))
	w.host(tuned(nil), provider("two", saying(sdk.Text("2")), sdk.Model{Name: "b"}))
	for range 10 {
		for model, want := range map[string]string{"a": "1", "b": "2"} {
			id := w.create(job.Job{Models: []string{model}})
			if c := w.follow(id, 0).complete(); c.Text != want {
				t.Errorf("model %s answered %q", model, c.Text)
			}
		}
	}
}

func TestBadRequestIsTheCallersFault(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	w.host(tuned(nil), provider("fake", saying(sdk.Text("x"))))
	l := w.follow(w.create(job.Job{Params: json.RawMessage(`{"temperature":"hot"}`)}), 0)
	e := decode[job.Error](t, l.last())
	if e.Code != "invalid" || e.Fault != "caller" || e.Message != "temperature can't be a JSON string" {
		t.Errorf("error is %+v", e)
	}
}

// A job whose only provider has no process for longer than its attempts would
// last is answered when there is one again.
func TestJobOutlastsAPluginThatIsDown(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	var n atomic.Int64
	w.host(tuned(func(c *config.Config) { c.Host.MaxAttempts = 2 }),
		provider("fake", func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
			switch n.Add(1) {
			case 1:
				return sdk.Errorf(sdk.Truncated, "killed")
			case 2, 3, 4, 5:
				return &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Plugin, Wait: 20 * time.Millisecond, Err: native.ErrDown}
			}
			return emit(sdk.Text("up"))
		}))
	l := w.follow(w.create(job.Job{}), 0)
	if c := l.complete(); c.Text != "up" || c.Attempt != 6 {
		t.Errorf("complete is %+v", c)
	}
}
