package sdktest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/sdk"
)

// reports keeps what a check reports.
type reports struct {
	testing.TB
	errs []string
}

func (r *reports) Helper()                      {}
func (r *reports) Errorf(f string, args ...any) { r.errs = append(r.errs, fmt.Sprintf(f, args...)) }

func TestCheckFindsWhatIsWrong(t *testing.T) {
	stop := sdk.Finish{Reason: sdk.FinishStop}
	for _, c := range []struct {
		want string // in the one report; "" for none
		c    Case
		tr   Transcript
	}{
		{"", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.Text("a"), stop, sdk.Usage{Output: 1}}}},
		{"", Case{Text: "ab"}, Transcript{Chunks: []sdk.Chunk{sdk.Text("a"), sdk.Text("b"), stop}}},
		{"", Case{Err: &sdk.Error{Kind: sdk.Limited}}, Transcript{Err: sdk.Errorf(sdk.Limited, "x")}},
		{"text is", Case{Text: "ab"}, Transcript{Chunks: []sdk.Chunk{sdk.Text("a"), stop}}},
		{"chunk 1 is nothing, want", Case{Chunks: []sdk.Chunk{stop, sdk.Usage{}}}, Transcript{Chunks: []sdk.Chunk{stop}}},
		{"want nothing", Case{Chunks: []sdk.Chunk{}}, Transcript{Chunks: []sdk.Chunk{stop}}},
		{"chunk 0 is", Case{Chunks: []sdk.Chunk{sdk.Refusal("a"), stop}}, Transcript{Chunks: []sdk.Chunk{sdk.Text("a"), stop}}},
		{"no error, want", Case{Err: &sdk.Error{Kind: sdk.Limited}}, Transcript{Chunks: []sdk.Chunk{stop}}},
		{"want none", Case{}, Transcript{Err: sdk.Errorf(sdk.Limited, "x")}},
		{"error is", Case{Err: &sdk.Error{Kind: sdk.Limited}}, Transcript{Err: sdk.Errorf(sdk.Invalid, "x")}},
		{"error is", Case{Err: &sdk.Error{Kind: sdk.Limited, Wait: 1}}, Transcript{Err: sdk.Errorf(sdk.Limited, "x")}},
		{"has no Finish", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.Text("a")}}},
		{"after the Finish", Case{}, Transcript{Chunks: []sdk.Chunk{stop, sdk.Text("a")}}},
		{"without a reason", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.Finish{}}}},
		{"empty text", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.Text(""), stop}}},
		{"is nil", Case{}, Transcript{Chunks: []sdk.Chunk{nil, stop}}},
		{"without id and name", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.ToolCall{Arguments: "{}"}, stop}}},
		{"which had ended", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.ToolCall{ID: "1", Name: "n", End: true}, sdk.ToolCall{Arguments: "x"}, stop}}},
		{"counts what can't be", Case{}, Transcript{Chunks: []sdk.Chunk{sdk.Usage{Output: 1, Reasoning: 2}, stop}}},
	} {
		r := &reports{TB: t}
		c.c.Check(r, c.tr)
		if got := strings.Join(r.errs, "; "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v of %+v: reported %q, want %q", c.c, c.tr, got, c.want)
		}
	}
}
