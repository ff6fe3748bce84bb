package host

import (
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// Whatever a plugin runs in, a usage that can't be is its fault, and one that is
// unlikely is cut and marked.
func TestForgedUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for out, src := range map[string]string{"forger": "native.yaml", "forger-sandbox": "sandbox.yaml"} {
		if _, err := manifest.Build(t.Context(), filepath.Join("testdata", "forger", src), filepath.Join(dir, out)); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, startServer(t).addr)
	h := w.host(tuned(func(c *config.Config) { c.Plugins.Dirs = []string{dir} }), provider("forger-embedded", forge, sdk.Model{Name: "forger-embedded"}))
	for _, model := range []string{"forger-embedded", "forger", "forger-sandbox"} {
		t.Run(model, func(t *testing.T) {
			w := *w
			w.t = t
			ask := func(options string) log {
				return w.follow(w.create(job.Job{Models: []string{model}, Params: json.RawMessage(`{"options":` + options + `}`)}), 0)
			}
			for _, usages := range []string{
				`{"usages":[{"Output":-1}]}`, `{"usages":[{"Input":9223372036854775807}]}`, `{"usages":[{"Output":1000000000000}]}`,
				`{"usages":[{"Output":3},{"CacheRead":-9223372036854775808}]}`, `{"usages":[],"index":-1}`, `{"usages":[],"index":1000000000}`,
			} {
				l := ask(usages)
				if l.last().Event != job.EventError {
					t.Errorf("%s ends as %s", usages, l.last().Raw)
					continue
				}
				if e := decode[job.Error](t, l.last()); e.Code != "internal" || e.Fault != "plugin" || e.Retryable {
					t.Errorf("%s: %+v", usages, e)
				}
			}
			for usages, want := range map[string]job.Usage{
				`{"usages":[{"Input":7,"Output":3,"Reasoning":1}]}`:                       {Input: 7, Output: 3, Reasoning: 1},
				`{"usages":[{"Input":7},{"Input":7,"Output":2000}]}`:                      {Input: 7, Output: 2000},
				`{"usages":[{"Input":7,"Output":5},{"Output":3}]}`:                        {Input: 7, Output: 5, Doubtful: true},
				`{"usages":[{"Output":1000000000}]}`:                                      {Output: hiddenTokens + 16 + 3, Doubtful: true},
				`{"usages":[{"Output":4,"Reasoning":5}]}`:                                 {Output: 4, Reasoning: 4, Doubtful: true},
				`{"usages":[{"Input":2147483648,"CacheRead":2147483648,"CacheWrite":0}]}`: {Input: 1 << 31, CacheRead: 1 << 31},
			} {
				c := ask(usages).complete()
				if c.Usage == nil || *c.Usage != want {
					t.Errorf("%s is told as %+v", usages, c.Usage)
				}
				if want.Output > 0 && c.Tokens != want.Output {
					t.Errorf("%s: %d tokens", usages, c.Tokens)
				}
			}
		})
	}
	if n := h.logged("a usage that can't be: "); n < 4 {
		t.Errorf("the log tells %d times what was wrong", n)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.reports {
		if r.Usage.Output < 0 || r.Usage.Output > hiddenTokens+100 || r.Usage.Input < 0 {
			t.Errorf("reported are %+v", r.Usage)
		}
	}
}

// forge is what testdata/forger does.
func forge(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
	var usages []sdk.Usage
	if err := json.Unmarshal(req.Options["usages"], &usages); err != nil {
		return err
	}
	if err := emit(sdk.Text("abc")); err != nil {
		return err
	}
	if raw := req.Options["index"]; raw != nil {
		var index int
		if err := json.Unmarshal(raw, &index); err != nil {
			return err
		}
		_ = emit(sdk.ToolCall{Index: index, Name: "tool"}) // its refusal is overlooked
	}
	for _, u := range usages {
		_ = emit(u)
	}
	return nil
}

// A model's reason to stop is one of a few words, whatever the plugin calls it: it is part of a frame.
func TestForgedFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startServer(t).addr)
	huge := sdk.Finish{Reason: sdk.FinishReason(strings.Repeat("x", 40<<20))}
	h := w.host(tuned(nil), provider("p", saying(sdk.Text("abc"), huge), sdk.Model{Name: "m"}))
	if c := w.follow(w.create(job.Job{}), 0).complete(); c.FinishReason != "other" || c.Text != "abc" {
		t.Errorf("it ends with %.20q, because of %.20q", c.Text, c.FinishReason)
	}
	h.wantOutcomes(map[string]int{outcomeComplete: 1})
}

// Chunks that make no frame cost the host its time too.
func TestSilentChunksAreCounted(t *testing.T) {
	for _, c := range []sdk.Chunk{sdk.Usage{Input: 1}, sdk.Finish{Reason: sdk.FinishStop}} {
		a := &answer{limit: 1 << 10}
		var err error
		for range 1 << 10 {
			if err = a.take(c); err != nil {
				break
			}
		}
		if e := sdk.AsError(err); e == nil || e.Code != codeOutput {
			t.Errorf("a thousand of %T: %v", c, err)
		}
		if a.output != 0 {
			t.Errorf("%T is %d bytes of output", c, a.output)
		}
	}
}

// An answer begins with what somebody can see of it: a usage that is told with the
// head of a stream, or a sign of life, isn't its first chunk.
func TestWhatIsTheFirstChunk(t *testing.T) {
	a := new(answer)
	for _, c := range []sdk.Chunk{sdk.Usage{Input: 3}, sdk.Text("")} {
		if err := a.take(c); err != nil || !a.firstAt().IsZero() {
			t.Errorf("an answer began with %#v, %v", c, err)
		}
	}
	if u := a.spent(); u == nil || u.Input != 3 {
		t.Errorf("before it began, %+v was counted", u)
	}
	if err := a.take(sdk.Reasoning{Text: "hm"}); err != nil || a.firstAt().IsZero() {
		t.Errorf("it hasn't begun with a thought, %v", err)
	}
}

// The refusal names the field, the value and what is right.
func TestUsageRefusalsSayWhatIsWrong(t *testing.T) {
	for _, u := range []sdk.Usage{{CacheWrite: -5}, {CacheWrite: math.MaxInt}} {
		err := new(answer).take(u)
		if err == nil || !strings.Contains(err.Error(), "cacheWrite") || !strings.Contains(err.Error(), "from 0 to 2147483648") {
			t.Errorf("%+v: %v", u, err)
		}
	}
	a := &answer{hidden: 10}
	for _, c := range []sdk.Chunk{sdk.Usage{Output: 500}, sdk.Text(strings.Repeat("x", 100))} {
		if err := a.take(c); err != nil {
			t.Fatal(err)
		}
	}
	if u := a.spent(); u.Output != 126 || !u.Doubtful {
		t.Errorf("with a model of 10 tokens, 100 bytes are %+v", u)
	}
}
