package sdktest

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// says is a dialect of JSON lines: {"say": …}, then {"done": …} and {"end": true}.
var says = Dialect{
	Model:    "m",
	Settings: func(base string) map[string]any { return map[string]any{"url": base} },
	Say: func(answer []sdk.Chunk) (pieces []string) {
		for _, c := range answer {
			switch c := c.(type) {
			case sdk.Text:
				pieces = append(pieces, `{"say":`+string(sdk.JSON(c))+"}\n")
			case sdk.Finish:
				pieces = append(pieces, `{"done":"`+string(c.Reason)+`"}`+"\n")
			default:
				return nil
			}
		}
		return append(pieces, `{"end":true}`+"\n")
	},
	Never: []sdk.Kind{sdk.Refused},
}

// flawed is a provider of the dialect that may have one flaw.
type flawed struct {
	trusts    bool // takes the end of the body for the end of the answer
	patient   bool // reads on until the connection is closed
	hoards    bool // emits when it has everything
	redirects bool // follows them
	shared    *scroll
	lingers   bool // keeps the connection when it is cancelled
	greedy    bool // reads ahead of the receiver, without a bound
}

// scroll is a text that every job writes on.
type scroll struct {
	mu   sync.Mutex
	text sdk.Text
}

func (s *scroll) add(t sdk.Text) sdk.Text {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += t
	return s.text
}

func (f flawed) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	if f.lingers || f.greedy || f.redirects {
		return f.plain(ctx, req, emit)
	}
	ended := false
	var held []sdk.Chunk
	say := func(c sdk.Chunk) error {
		if f.hoards {
			held = append(held, c)
			return nil
		}
		return emit(c)
	}
	err := sdk.PostLines(ctx, sdk.HTTPRequest{URL: req.Settings.String("url", ""), Body: sdk.JSON(req.Prompt())}, func(line []byte) error {
		c, end := read(line)
		if end {
			ended = true
			if f.patient {
				return nil
			}
			return io.EOF
		}
		if t, ok := c.(sdk.Text); ok && f.shared != nil {
			c = f.shared.add(t)
		}
		return say(c)
	})
	for _, c := range held {
		if err := emit(c); err != nil {
			return err
		}
	}
	switch {
	case ended && (err == io.EOF || err == nil), f.trusts && err == nil:
		return nil
	case err != nil:
		return err
	}
	return sdk.Errorf(sdk.Truncated, "cut")
}

func read(line []byte) (c sdk.Chunk, end bool) {
	var l struct {
		Say, Done string
		End       bool
	}
	_ = json.Unmarshal(line, &l)
	if l.Done != "" {
		return sdk.Finish{Reason: sdk.FinishReason(l.Done)}, false
	}
	return sdk.Text(l.Say), l.End
}

// plain speaks HTTP without the sdk, and wrongly.
func (f flawed) plain(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	upstream := ctx
	if f.lingers {
		upstream = context.WithoutCancel(ctx)
	}
	r, err := http.NewRequestWithContext(upstream, http.MethodPost, req.Settings.String("url", ""), strings.NewReader(req.Prompt()))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	lines := make(chan sdk.Chunk, 1<<22)
	go func() { // until the upstream is closed
		defer resp.Body.Close()
		defer close(lines)
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			if c, end := read(in.Bytes()); !end {
				lines <- c
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c, ok := <-lines:
			if !ok {
				return nil
			}
			if err := emit(c); err != nil {
				return err
			}
		}
	}
}

// TestHTTPTableFindsWhatIsWrong: a provider with a flaw fails in the checks that are about it, and one
// without passes them all.
func TestHTTPTableFindsWhatIsWrong(t *testing.T) {
	defer func(d time.Duration) { patience = d }(patience)
	for _, test := range []struct {
		name   string
		flaw   flawed
		checks []string // that fail; of those looked at
	}{
		{"none", flawed{}, nil},
		{"trusts the end of a body", flawed{trusts: true}, []string{"nothing after the head", "ended after 1 chunks"}},
		{"waits for the connection", flawed{patient: true}, []string{"the end is the dialect's, not the connection's"}},
		{"emits at the end", flawed{hoards: true}, []string{"each chunk at once"}},
		{"mixes jobs up", flawed{shared: new(scroll)}, []string{"plain", "jobs are apart"}},
		{"leaves the upstream open", flawed{lingers: true}, []string{"cancelled after the head", "no request is left open"}},
		{"reads without a bound", flawed{greedy: true}, []string{"backpressure"}},
		{"follows redirects", flawed{redirects: true}, []string{"status 302, Location: " + redirected, "what the upstream was asked"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := says.Listen()
			defer u.Close()
			patience = 30 * time.Second
			if slices.ContainsFunc(test.checks, func(name string) bool { // found by waiting for what never comes
				return strings.Contains(name, "connection's") || strings.Contains(name, "at once") || strings.Contains(name, "open")
			}) {
				patience = time.Second
			}
			p := sdk.Provider{Name: "p", Models: []sdk.Model{{Name: "m"}}, Generate: test.flaw.generate}
			failed := []string{}
			for _, s := range steps(p, u.Options()) {
				if len(test.checks) > 0 && !slices.Contains(test.checks, s.name) {
					continue
				}
				if r := s.check(t.Context()); len(r.Problems) > 0 {
					failed = append(failed, r.Name)
					t.Logf("%s: %.300q", r.Name, r.Problems[0])
				}
			}
			if !slices.Equal(failed, append([]string{}, test.checks...)) {
				t.Errorf("it fails in %q, want %q", failed, test.checks)
			}
		})
	}
}

// TestWithout: what does not apply is listed as skipped, and what isn't there can't be left out.
func TestWithout(t *testing.T) {
	o := Echo("m")
	o.Without = map[string]string{"error *": "it never fails", "cut": "nor is it cut", "nowhere": "to be found"}
	p := sdk.Provider{Generate: func(context.Context, *sdk.Request, sdk.Emit) error { return nil }}
	skipped := 0
	for _, s := range steps(p, o) {
		r := Result{Name: s.name, Skipped: s.skip}
		if s.skip != "" {
			skipped++
			r = s.check(t.Context())
		}
		if matches("error *", s.name) != (r.Skipped == "it never fails") || (s.name == "cut") != (r.Skipped == "nor is it cut") {
			t.Errorf("%s is skipped because %q", s.name, r.Skipped)
		}
		if s.name == "nowhere" && len(s.check(t.Context()).Problems) != 1 {
			t.Error("a check that isn't there was left out")
		}
	}
	if skipped != 29 {
		t.Errorf("%d checks are skipped, want 29", skipped)
	}
}

// TestKindsThatNeverComeUp: a dialect must show every kind of error, or say that it has none.
func TestKindsThatNeverComeUp(t *testing.T) {
	d := says
	d.Never = nil
	u := d.Listen()
	defer u.Close()
	for _, s := range steps(sdk.Provider{}, u.Options()) {
		if s.name != "every kind of error" {
			continue
		}
		if r := s.check(t.Context()); len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "refused") {
			t.Errorf("reported %q, want that nothing is refused", r.Problems)
		}
	}
}

func TestAnswersAreCompared(t *testing.T) {
	call := func(index int, id, args string) sdk.ToolCall {
		c := sdk.ToolCall{Index: index, ID: id, Arguments: args}
		if id != "" {
			c.Name = "f"
		}
		return c
	}
	for _, test := range []struct {
		name      string
		got, want []sdk.Chunk
		same      bool
	}{
		{"other sizes", []sdk.Chunk{sdk.Text("a"), sdk.Text("b")}, []sdk.Chunk{sdk.Text("ab")}, true},
		{"other order", []sdk.Chunk{sdk.Text("b"), sdk.Text("a")}, []sdk.Chunk{sdk.Text("ab")}, false},
		{"another kind between", []sdk.Chunk{sdk.Text("a"), sdk.Refusal("x"), sdk.Text("b")}, []sdk.Chunk{sdk.Text("ab"), sdk.Refusal("x")}, false},
		{"calls in turns", []sdk.Chunk{call(0, "x", "1"), call(1, "y", "2"), call(0, "", "3")}, []sdk.Chunk{call(0, "x", "13"), call(1, "y", "2")}, true},
		{"fragment of another call", []sdk.Chunk{call(0, "x", "1"), call(1, "y", "23")}, []sdk.Chunk{call(0, "x", "13"), call(1, "y", "2")}, false},
		{"usage before the finish", []sdk.Chunk{sdk.Usage{Input: 1}, sdk.Usage{Input: 2}, stop}, []sdk.Chunk{stop, sdk.Usage{Input: 2}}, true},
		{"other usage", []sdk.Chunk{sdk.Usage{Input: 1}, stop}, []sdk.Chunk{stop, sdk.Usage{Input: 2}}, false},
		{"no usage", []sdk.Chunk{stop}, []sdk.Chunk{stop, sdk.Usage{Input: 2}}, false},
		{"usage nobody asked for", []sdk.Chunk{sdk.Usage{Input: 1}, stop}, []sdk.Chunk{stop}, true},
		{"other finish", []sdk.Chunk{sdk.Finish{Reason: sdk.FinishLength}}, []sdk.Chunk{stop}, false},
		{"other citation", []sdk.Chunk{sdk.Citation{URL: "a"}}, []sdk.Chunk{sdk.Citation{URL: "b"}}, false},
	} {
		r := &reports{TB: t}
		checkAnswer(r, test.name, test.got, test.want)
		if (len(r.errs) == 0) != test.same {
			t.Errorf("%s: reported %q", test.name, r.errs)
		}
	}
}
