package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/host/plugintest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// In process, as a process and as a guest it makes the same of whatever its upstream does.
func TestConformance(t *testing.T) { plugintest.RunHTTP(t, provider, chatCompletions) }

// chatCompletions is how a server of the dialect says things.
var chatCompletions = sdktest.Dialect{
	Model:    "gpt-conformance",
	Settings: func(base string) map[string]any { return map[string]any{"base_url": base} },
	Env:      map[string]string{"OPENAI_API_KEY": "sk-conformance"},
	Header:   map[string]string{"Content-Type": "text/event-stream"},
	Say:      sayChatCompletion,
	Faults: []sdktest.Fault{
		{Name: "quota", Reply: refusal(429, "insufficient_quota"), Want: sdk.Error{Kind: sdk.Denied, Status: 429, Code: "insufficient_quota"}},
		{Name: "context length", Reply: refusal(400, "context_length_exceeded"), Want: sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Code: "context_length_exceeded"}},
		{Name: "content policy", Reply: refusal(400, "content_policy_violation"), Want: sdk.Error{Kind: sdk.Refused, Code: "content_policy_violation"}},
		{Name: "content policy within the answer", After: []sdk.Chunk{sdk.Text("so ")}, Reply: sdktest.Reply{Body: textFrame("so ") + "data: " + refusal(0, "content_filter").Body + "\n\n"}, Want: sdk.Error{Kind: sdk.Refused}},
		{Name: "overload within the answer", After: []sdk.Chunk{sdk.Text("so ")}, Reply: sdktest.Reply{Body: textFrame("so ") + "data: " + refusal(0, "server_error").Body + "\n\n"}, Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
		{Name: "limit as the first event", Reply: sdktest.Reply{Body: "data: " + refusal(0, "rate_limit_exceeded").Body + "\n\n"}, Want: sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream}},
		{Name: "a document in place of a stream", Reply: sdktest.Reply{Header: map[string]string{"Content-Type": "application/json"}, Body: `{"object":"list"}`}, Want: sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream}},
		{Name: "answer that ended in an error", After: []sdk.Chunk{sdk.Text("so ")}, Reply: sdktest.Reply{Body: textFrame("so ") + finishFrame("error")}, Want: sdk.Error{Kind: sdk.Truncated}},
	},
	Cases: []sdktest.Exchange{
		{Name: "comments and unknown fields", Reply: sdktest.Reply{Body: ": hello\n\nretry: 7\n" + textFrame("a") + ": ping\n\n" + finishFrame("stop") + doneFrame}, Answer: []sdk.Chunk{sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}}},
		{Name: "lines that end otherwise", Reply: sdktest.Reply{Body: strings.ReplaceAll(textFrame("a")+finishFrame("stop")+doneFrame, "\n", "\r\n")}, Answer: []sdk.Chunk{sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}}},
		{Name: "no terminal marker", Reply: sdktest.Reply{Body: textFrame("a") + finishFrame("stop")}, Answer: []sdk.Chunk{sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}}},
	},
	Asked: func(r *http.Request, body []byte) error {
		var asked struct {
			Model  string
			Stream bool
		}
		switch err := json.Unmarshal(body, &asked); {
		case err != nil:
			return err
		case r.Method != http.MethodPost || r.URL.Path != "/v1/chat/completions":
			return errors.New("it asked for " + r.Method + " " + r.URL.Path)
		case r.Header.Get("Authorization") != "Bearer sk-conformance":
			return errors.New("it was sent without the key")
		case asked.Model != "gpt-conformance" || !asked.Stream:
			return errors.New("it asked for a stream of another model, or for none")
		}
		return nil
	},
	Other: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"object":"list","data":[{"id":"gpt-conformance"}]}`))
	}),
}

func refusal(status int, code string) sdktest.Reply {
	return sdktest.Reply{
		Status: status, Header: map[string]string{"Content-Type": "application/json"},
		Body: `{"error":{"message":"as asked","type":"` + code + `","code":"` + code + `"}}`,
	}
}

// sayChatCompletion has a frame for each chunk, and [DONE].
func sayChatCompletion(answer []sdk.Chunk) (pieces []string) {
	delta := func(name string, value any) string {
		return frame(`{"index":0,"delta":{"` + name + `":` + string(sdk.JSON(value)) + `},"finish_reason":null}`)
	}
	for _, c := range answer {
		switch c := c.(type) {
		case sdk.Text:
			pieces = append(pieces, textFrame(string(c)))
		case sdk.Reasoning:
			if c.Signature != "" {
				return nil
			}
			pieces = append(pieces, delta("reasoning_content", c.Text))
		case sdk.Refusal:
			pieces = append(pieces, delta("refusal", string(c)))
		case sdk.ToolCall:
			call := map[string]any{"index": c.Index, "function": map[string]string{"arguments": c.Arguments}}
			if c.ID != "" {
				call["id"], call["type"] = c.ID, "function"
				call["function"] = map[string]string{"name": c.Name, "arguments": c.Arguments}
			}
			pieces = append(pieces, delta("tool_calls", []any{call}))
		case sdk.Finish:
			if c.Reason == sdk.FinishStopSequence || c.Reason == sdk.FinishRefusal {
				return nil
			}
			pieces = append(pieces, finishFrame(string(c.Reason)))
		case sdk.Usage:
			if c.CacheWrite > 0 {
				return nil
			}
			pieces = append(pieces, "data: "+string(sdk.JSON(map[string]any{"choices": []any{}, "usage": map[string]any{
				"prompt_tokens": c.Input, "completion_tokens": c.Output,
				"prompt_tokens_details":     map[string]int{"cached_tokens": c.CacheRead},
				"completion_tokens_details": map[string]int{"reasoning_tokens": c.Reasoning},
			}}))+"\n\n")
		default:
			return nil
		}
	}
	return append(pieces, doneFrame)
}
