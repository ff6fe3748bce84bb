package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/plugintest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// In process, as a process and as a guest it makes the same of whatever its upstream does.
func TestConformance(t *testing.T) { plugintest.RunHTTP(t, provider, generateContent) }

// generateContent is how a server of the dialect says things.
var generateContent = sdktest.Dialect{
	Model:    "gemini-conformance",
	Settings: func(base string) map[string]any { return map[string]any{"base_url": base} },
	Env:      map[string]string{"GEMINI_API_KEY": "AI-conformance"},
	Header:   map[string]string{"Content-Type": "text/event-stream"},
	Say:      sayGenerateContent,
	Faults: []sdktest.Fault{
		{Name: "bad key", Reply: failure(400, "INVALID_ARGUMENT", "API key not valid", `{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}`), Want: sdk.Error{Kind: sdk.Denied, Fault: sdk.Host, Status: 400, Code: "API_KEY_INVALID"}},
		{Name: "quota, and when there is some again", Reply: failure(429, "RESOURCE_EXHAUSTED", "as asked", `{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}`), Want: sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Wait: 34500 * time.Millisecond}},
		{Name: "no key", Reply: failure(403, "PERMISSION_DENIED", "as asked"), Want: sdk.Error{Kind: sdk.Denied, Fault: sdk.Host, Code: "PERMISSION_DENIED"}},
		{Name: "bad request", Reply: failure(400, "INVALID_ARGUMENT", "as asked"), Want: sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Code: "INVALID_ARGUMENT"}},
		{Name: "no such model", Reply: failure(404, "NOT_FOUND", "as asked"), Want: sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Code: "NOT_FOUND"}},
		{Name: "quota", Reply: failure(429, "RESOURCE_EXHAUSTED", "as asked"), Want: sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Status: 429, Code: "RESOURCE_EXHAUSTED"}},
		{Name: "too late", Reply: failure(504, "DEADLINE_EXCEEDED", "as asked"), Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Code: "DEADLINE_EXCEEDED"}},
		{Name: "prompt that is blocked", Reply: sdktest.Reply{Body: `data: {"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":3}}` + "\n\n"}, After: []sdk.Chunk{sdk.Usage{Input: 3}}, Want: sdk.Error{Kind: sdk.Refused, Fault: sdk.Caller, Code: "SAFETY"}},
		{Name: "filter before the answer", Reply: sdktest.Reply{Body: finishFrame("PROHIBITED_CONTENT")}, Want: sdk.Error{Kind: sdk.Refused, Fault: sdk.Caller, Code: "PROHIBITED_CONTENT"}},
		{Name: "malformed call", After: []sdk.Chunk{sdk.Text("so ")}, Reply: sdktest.Reply{Body: textFrame("so ") + finishFrame("MALFORMED_FUNCTION_CALL")}, Want: sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream, Code: "MALFORMED_FUNCTION_CALL"}},
		{Name: "overload within the answer", After: []sdk.Chunk{sdk.Text("so ")}, Reply: sdktest.Reply{Body: textFrame("so ") + "data: " + failure(503, "UNAVAILABLE", "as asked").Body + "\n\n"}, Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Status: 503}},
		{Name: "limit as the first event", Reply: sdktest.Reply{Body: "data: " + failure(429, "RESOURCE_EXHAUSTED", "as asked").Body + "\n\n"}, Want: sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream}},
		{Name: "array in place of a stream", Reply: sdktest.Reply{Header: map[string]string{"Content-Type": "application/json"}, Body: `[{"candidates":[]}]`}, Want: sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream}},
		{Name: "error in an array", Reply: sdktest.Reply{Header: map[string]string{"Content-Type": "application/json"}, Body: "[" + failure(503, "UNAVAILABLE", "as asked").Body + "]"}, Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
	},
	Cases: []sdktest.Exchange{
		{Name: "comments and stray lines", Reply: sdktest.Reply{Body: ": hello\n\nretry: 7\n" + textFrame("a") + ": ping\n\ndata: [DONE]\n\n" + finishFrame("STOP")}, Answer: []sdk.Chunk{sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}}},
		{Name: "signature", Reply: sdktest.Reply{Body: frame(`{"content":{"parts":[{"text":"a","thoughtSignature":"c2ln"}]}}`) + finishFrame("STOP")}, Answer: []sdk.Chunk{
			sdk.Text("a"), sdk.ProviderData{Type: "gemini.thought_signature", Data: json.RawMessage(`{"signature":"c2ln"}`)}, sdk.Finish{Reason: sdk.FinishStop},
		}},
	},
	Asked: func(r *http.Request, body []byte) error {
		var asked struct{ Contents []struct{ Role string } }
		switch err := json.Unmarshal(body, &asked); {
		case err != nil:
			return err
		case r.Method != http.MethodPost || r.RequestURI != "/v1beta/models/gemini-conformance:streamGenerateContent?alt=sse":
			return errors.New("it asked for " + r.Method + " " + r.RequestURI)
		case r.Header.Get("X-Goog-Api-Key") != "AI-conformance":
			return errors.New("it was sent without the key")
		case len(asked.Contents) != 1 || asked.Contents[0].Role != "user":
			return errors.New("it asked about another conversation")
		}
		return nil
	},
	Other: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1beta/models" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"models":[{"name":"models/gemini-conformance","supportedGenerationMethods":["generateContent"]}]}`))
	}),
}

func failure(status int, code, message string, details ...string) sdktest.Reply {
	e := map[string]any{"code": status, "status": code, "message": message}
	if len(details) > 0 {
		e["details"] = json.RawMessage("[" + strings.Join(details, ",") + "]")
	}
	return sdktest.Reply{
		Status: status, Header: map[string]string{"Content-Type": "application/json"}, Body: string(sdk.JSON(map[string]any{"error": e})),
	}
}

// sayGenerateContent has a frame for each chunk. Calls are whole, so they stand where their last
// fragment does; a finish reason stands in a frame with the usage that comes after it.
func sayGenerateContent(answer []sdk.Chunk) (pieces []string) {
	last := map[int]int{} // fragment of each call
	for i, c := range answer {
		if call, ok := c.(sdk.ToolCall); ok {
			last[call.Index] = i
		}
	}
	calls := map[int]*functionCall{}
	finish := ""
	for i, c := range answer {
		piece := ""
		switch c := c.(type) {
		case sdk.Text:
			piece = textFrame(string(c))
		case sdk.Reasoning:
			if c.Signature != "" {
				return nil
			}
			piece = partFrame(part{Text: &c.Text, Thought: true})
		case sdk.Image:
			piece = partFrame(part{InlineData: &blob{MimeType: c.MediaType, Data: c.Data}})
		case sdk.ToolCall:
			if calls[c.Index] == nil {
				calls[c.Index] = &functionCall{ID: c.ID, Name: c.Name}
			}
			call := calls[c.Index]
			call.Args = append(call.Args, c.Arguments...)
			if last[c.Index] == i {
				piece = partFrame(part{FunctionCall: call})
			}
		case sdk.Finish:
			raw := map[sdk.FinishReason]string{sdk.FinishStop: "STOP", sdk.FinishToolCalls: "STOP", sdk.FinishLength: "MAX_TOKENS", sdk.FinishContentFilter: "SAFETY"}[c.Reason]
			if raw == "" || c.Reason == sdk.FinishToolCalls && len(calls) == 0 {
				return nil
			}
			finish = `{"finishReason":"` + raw + `"}`
			if i+1 == len(answer) {
				piece = frame(finish)
			}
		case sdk.Usage:
			if c.CacheWrite > 0 {
				return nil
			}
			piece = "data: " + string(sdk.JSON(map[string]any{"candidates": []json.RawMessage{json.RawMessage(finish)}, "usageMetadata": usage{
				Prompt: c.Input, Candidates: c.Output - c.Reasoning, Thoughts: c.Reasoning, Cached: c.CacheRead,
			}})) + "\n\n"
		default:
			return nil
		}
		pieces = append(pieces, piece)
	}
	return append(pieces, "")
}
