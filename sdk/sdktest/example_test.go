package sdktest_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// lines is a provider whose upstream answers a POST with lines of JSON: {"say": "some words"} for as
// long as there is something to say, then {"done": "stop"}.
var lines = sdk.Provider{
	Name: "lines", Version: "1.0.0", Models: []sdk.Model{{Name: "lines"}},
	Generate: func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
		whole := false
		url := req.Settings.String("url", "")
		err := sdk.PostLines(ctx, sdk.HTTPRequest{URL: url, Body: sdk.JSON(req.Prompt())}, func(line []byte) error {
			var l struct{ Say, Done string }
			if err := json.Unmarshal(line, &l); err != nil {
				return sdk.Errorf(sdk.Truncated, "a line is no JSON")
			}
			if l.Done != "" {
				whole = true
				return emit(sdk.Finish{Reason: sdk.FinishReason(l.Done), Raw: l.Done})
			}
			return emit(sdk.Text(l.Say))
		})
		if err == nil && !whole {
			return sdk.Unfinished()
		}
		return err
	},
}

// upstream is how that upstream says things.
var upstream = sdktest.Dialect{
	Model:    "lines",
	Settings: func(base string) map[string]any { return map[string]any{"url": base + "/ask"} },
	Header:   map[string]string{"Content-Type": "application/x-ndjson"},
	Say: func(answer []sdk.Chunk) (pieces []string) {
		for _, c := range answer {
			switch c := c.(type) {
			case sdk.Text:
				pieces = append(pieces, `{"say":`+string(sdk.JSON(c))+"}\n")
			case sdk.Finish:
				pieces = append(pieces, `{"done":"`+string(c.Reason)+`"}`+"\n")
			default:
				return nil // it knows nothing of tools, reasoning or usage
			}
		}
		return append(pieces, "") // the end of the body is the end of the answer
	},
	Never: []sdk.Kind{sdk.Refused},
}

// The test of a provider that has its answers from an HTTP upstream. With plugintest.RunHTTP, of
// host/plugintest, in place of sdktest.RunHTTP the native and the sandboxed artifact run the table too.
func Example() {
	_ = func(t *testing.T) { sdktest.RunHTTP(t, lines, upstream) } // func TestConformance
}
