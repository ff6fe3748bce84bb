package sdktest

import (
	"encoding/json"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// Echo is the table for the bundled provider echo, or one with its options.
func Echo(model string) Options {
	ask := func(prompt string, options map[string]any) *sdk.Request {
		req := &sdk.Request{
			JobID: "conformance", Attempt: 1, Model: model,
			Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(prompt)}}},
			Options:  map[string]json.RawMessage{"delay_ms": json.RawMessage("0")},
		}
		for name, v := range options {
			req.Options[name] = sdk.JSON(v)
		}
		return req
	}
	type o = map[string]any
	cases := []Case{
		{
			Name: "reasoning", Request: ask("yes", o{"reasoning": "let me see"}),
			Chunks: []sdk.Chunk{
				sdk.Reasoning{Text: "let"}, sdk.Reasoning{Text: " me"}, sdk.Reasoning{Text: " see"}, sdk.Reasoning{Signature: "echo"},
				sdk.Text("yes"), sdk.Usage{Input: 1, Output: 4, Reasoning: 3}, sdk.Finish{Reason: sdk.FinishStop, Raw: "stop"},
			},
		},
		{
			Name: "tool call", Request: ask("weather", o{"tool_call": o{"name": "look", "arguments": o{"at": "Köln"}}}),
			Chunks: []sdk.Chunk{
				sdk.Text("weather"), sdk.ToolCall{ID: "call_1", Name: "look"},
				sdk.ToolCall{Arguments: `{"at":"K`}, sdk.ToolCall{Arguments: `öln"}`}, sdk.ToolCall{End: true},
				sdk.Usage{Input: 1, Output: 4}, sdk.Finish{Reason: sdk.FinishToolCalls, Raw: "tool_calls"},
			},
		},
		{
			Name: "refusal", Request: ask("something bad", o{"refusal": "rather not", "usage": false}),
			Chunks: []sdk.Chunk{sdk.Refusal("rather"), sdk.Refusal(" not"), sdk.Finish{Reason: sdk.FinishRefusal, Raw: "refusal"}},
		},
		{Name: "nothing to say", Request: ask("", o{"usage": false}), Chunks: []sdk.Chunk{sdk.Finish{Reason: sdk.FinishStop, Raw: "stop"}}},
		{Name: "cut", Request: ask("one two three", o{"cut": o{"after": 2}}), Chunks: []sdk.Chunk{sdk.Text("one"), sdk.Text(" two")}, Err: &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream}},
		{Name: "option of the wrong type", Request: ask("x", o{"tokens": "many"}), Chunks: []sdk.Chunk{}, Err: &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		{Name: "many tokens", Request: ask("a b", o{"tokens": 2000}), Text: many("a b", 1000)},
		{Name: "other scripts", Request: ask("日本 🙂 naïve", o{"usage": false}), Text: "日本 🙂 naïve"},
	}
	for _, kind := range []sdk.Kind{sdk.Invalid, sdk.Denied, sdk.Limited, sdk.Unavailable, sdk.Truncated, sdk.Refused, sdk.Internal} {
		for _, fault := range []sdk.Fault{sdk.Caller, sdk.Upstream, sdk.Plugin, sdk.Host} {
			cases = append(cases, Case{
				Name: "error " + string(kind) + " of " + string(fault),
				Request: ask("one two", o{"error": o{
					"kind": kind, "fault": fault, "after": 1, "message": "as asked: 100 % “so”", "wait_ms": 1500, "status": 429, "code": "because",
				}}),
				Chunks: []sdk.Chunk{sdk.Text("one")},
				Err:    &sdk.Error{Kind: kind, Fault: fault, Message: "as asked: 100 % “so”", Wait: 1500 * time.Millisecond, Status: 429, Code: "because"},
			})
		}
	}
	resumed := ask("one two three", nil)
	resumed.Prefix = "one tw"
	cases = append(cases, Case{
		Name: "resume", Request: resumed, Resume: true,
		Chunks: []sdk.Chunk{sdk.Text("o"), sdk.Text(" three"), sdk.Usage{Input: 3, Output: 2}, sdk.Finish{Reason: sdk.FinishStop, Raw: "stop"}},
	})
	limited := ask("one two three", nil)
	limited.MaxTokens = 2
	cases = append(cases, Case{
		Name: "output limit", Request: limited,
		Chunks: []sdk.Chunk{sdk.Text("one"), sdk.Text(" two"), sdk.Usage{Input: 3, Output: 2}, sdk.Finish{Reason: sdk.FinishLength, Raw: "length"}},
	})
	return Options{
		Plain: Case{
			Request: ask("Hello  there,\nworld!", nil),
			Chunks: []sdk.Chunk{
				sdk.Text("Hello"), sdk.Text("  there,"), sdk.Text("\nworld!"),
				sdk.Usage{Input: 3, Output: 3}, sdk.Finish{Reason: sdk.FinishStop, Raw: "stop"},
			},
		},
		Cases:  cases,
		Long:   ask("on and on", o{"tokens": 1_000_000, "delay_ms": 1}),
		Silent: ask("never", o{"stall": o{"after": 0}}),
	}
}

func many(text string, n int) string {
	b := []byte(text)
	for range n - 1 {
		b = append(append(b, ' '), text...)
	}
	return string(b)
}
