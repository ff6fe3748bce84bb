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
func TestConformance(t *testing.T) { plugintest.RunHTTP(t, provider, messages) }

// messages is how a server of the dialect says things.
var messages = sdktest.Dialect{
	Model:    "claude-conformance",
	Settings: func(base string) map[string]any { return map[string]any{"base_url": base, "beta": "one,two"} },
	Env:      map[string]string{"ANTHROPIC_API_KEY": "sk-ant-conformance"},
	Header:   map[string]string{"Content-Type": "text/event-stream; charset=utf-8"},
	Say:      sayMessage,
	Faults: []sdktest.Fault{
		{Name: "invalid request", Reply: failure(400, "invalid_request_error"), Want: sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Code: "invalid_request_error"}},
		{Name: "authentication", Reply: failure(401, "authentication_error"), Want: sdk.Error{Kind: sdk.Denied, Fault: sdk.Host, Code: "authentication_error"}},
		{Name: "billing", Reply: failure(402, "billing_error"), Want: sdk.Error{Kind: sdk.Denied, Fault: sdk.Host}},
		{Name: "request too large", Reply: failure(413, "request_too_large"), Want: sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		{Name: "timeout", Reply: failure(504, "timeout_error"), Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
		{Name: "overloaded", Reply: failure(529, "overloaded_error"), Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Code: "overloaded_error"}},
		{Name: "limit that is none of time", Reply: told(failure(429, "rate_limit_error"), "X-Should-Retry", "false"), Want: sdk.Error{Kind: sdk.Denied, Fault: sdk.Upstream}},
		{Name: "content filter", Reply: sdktest.Reply{Status: 400, Header: document, Body: filtered}, Want: sdk.Error{Kind: sdk.Refused, Fault: sdk.Caller, Status: 400}},
		{Name: "content filter within the answer", After: so, Reply: inBand(filtered), Want: sdk.Error{Kind: sdk.Refused, Fault: sdk.Caller}},
		{Name: "overload within the answer", After: so, Reply: inBand(failure(0, "overloaded_error").Body), Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Code: "overloaded_error"}},
		{Name: "overload as the first event", Reply: sdktest.Reply{Body: frame("error", failure(0, "overloaded_error").Body)}, Want: sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
		{Name: "limit as the first event", Reply: sdktest.Reply{Body: frame("error", failure(0, "rate_limit_error").Body)}, Want: sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream}},
		{Name: "wrong request, as the first event", Reply: sdktest.Reply{Body: frame("error", failure(0, "invalid_request_error").Body)}, Want: sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		{Name: "permission, as the first event", Reply: sdktest.Reply{Body: frame("error", failure(0, "permission_error").Body)}, Want: sdk.Error{Kind: sdk.Denied, Fault: sdk.Host}},
		{Name: "a document in place of a stream", Reply: sdktest.Reply{Header: document, Body: `{"type":"message","role":"assistant"}`}, Want: sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream}},
		{Name: "reason to stop, and no stop", After: []sdk.Chunk{sdk.Text("so "), sdk.Finish{Reason: sdk.FinishStop}}, Reply: sdktest.Reply{Body: start + textBlock(0, "so ") + finishFrame("end_turn")}, Want: sdk.Error{Kind: sdk.Truncated}},
	},
	Cases: []sdktest.Exchange{
		{
			Name:   "lines that end otherwise",
			Reply:  sdktest.Reply{Body: strings.ReplaceAll(start+textBlock(0, "a")+finishFrame("end_turn")+stopFrame, "\n", "\r\n")},
			Answer: []sdk.Chunk{sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}},
		}, {
			Name:   "a cache in the usage",
			Reply:  sdktest.Reply{Body: strings.Replace(start, `"input_tokens":1`, `"input_tokens":10,"cache_read_input_tokens":200,"cache_creation_input_tokens":3000`, 1) + textBlock(0, "a") + finishFrame("end_turn") + stopFrame},
			Answer: []sdk.Chunk{sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}, sdk.Usage{Input: 3210, Output: 7, CacheRead: 200, CacheWrite: 3000}},
		}, {
			Name: "a block that goes back",
			Reply: sdktest.Reply{Body: start + frame("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"b3Bh"}}`) +
				endFrame(0) + textBlock(1, "a") + finishFrame("end_turn") + stopFrame},
			Answer: []sdk.Chunk{sdk.ProviderData{Type: blockData, Data: json.RawMessage(`{"type":"redacted_thinking","data":"b3Bh"}`)}, sdk.Text("a"), sdk.Finish{Reason: sdk.FinishStop}},
		},
	},
	Asked: func(r *http.Request, body []byte) error {
		var asked struct {
			Model     string
			Stream    bool
			MaxTokens int `json:"max_tokens"`
		}
		switch err := json.Unmarshal(body, &asked); {
		case err != nil:
			return err
		case r.Method != http.MethodPost || r.URL.Path != "/v1/messages":
			return errors.New("it asked for " + r.Method + " " + r.URL.Path)
		case r.Header.Get("X-Api-Key") != "sk-ant-conformance":
			return errors.New("it was sent without the key")
		case r.Header.Get("Anthropic-Version") != "2023-06-01" || r.Header.Get("Anthropic-Beta") != "one,two":
			return errors.New("it was sent for another version of the API, or without its beta features")
		case asked.Model != "claude-conformance" || !asked.Stream || asked.MaxTokens == 0:
			return errors.New("it asked for a stream of another model, for none, or for one without a limit")
		}
		return nil
	},
	Other: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" || r.Header.Get("X-Api-Key") != "sk-ant-conformance" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"data":[{"type":"model","id":"claude-conformance","display_name":"Claude"}],"has_more":false}`))
	}),
}

var (
	so       = []sdk.Chunk{sdk.Text("so ")}
	document = map[string]string{"Content-Type": "application/json"}
)

const filtered = `{"type":"error","error":{"details":null,"type":"invalid_request_error","message":"Output blocked by content filtering policy"},"request_id":"req_1"}`

func failure(status int, kind string) sdktest.Reply {
	return sdktest.Reply{Status: status, Header: document, Body: `{"type":"error","error":{"type":"` + kind + `","message":"as asked"},"request_id":"req_1"}`}
}

func told(r sdktest.Reply, header, value string) sdktest.Reply {
	r.Header = map[string]string{"Content-Type": "application/json", header: value}
	return r
}

// inBand is an answer that breaks off with an error.
func inBand(err string) sdktest.Reply {
	return sdktest.Reply{Body: start + textBlock(0, "so ") + frame("error", err)}
}

// sayMessage has an event for each chunk, besides those that begin and end the blocks.
func sayMessage(answer []sdk.Chunk) (pieces []string) {
	s := speaker{next: start, calls: map[int]int{}}
	for _, c := range answer {
		switch c := c.(type) {
		case sdk.Text:
			s.block("text", `{"type":"text","text":""}`)
			s.delta(s.open, "text_delta", "text", string(c))
		case sdk.Reasoning:
			s.block("thinking", `{"type":"thinking","thinking":"","signature":""}`)
			if c.Text != "" {
				s.delta(s.open, "thinking_delta", "thinking", c.Text)
			}
			if c.Signature != "" {
				s.delta(s.open, "signature_delta", "signature", c.Signature)
			}
		case sdk.ToolCall:
			if c.ID != "" {
				s.close()
				s.calls[c.Index] = s.begin(string(sdk.JSON(map[string]any{"type": "tool_use", "id": c.ID, "name": c.Name, "input": struct{}{}})))
			}
			s.delta(s.calls[c.Index], "input_json_delta", "partial_json", c.Arguments)
		case sdk.Citation:
			s.close()
			s.block("text", `{"type":"text","text":"","citations":[]}`)
			s.delta(s.open, "citations_delta", "citation", map[string]string{"type": "web_search_result_location", "url": c.URL, "title": c.Title})
			s.close()
		case sdk.Finish:
			reason := map[sdk.FinishReason]string{
				sdk.FinishStop: "end_turn", sdk.FinishLength: "max_tokens", sdk.FinishToolCalls: "tool_use",
				sdk.FinishStopSequence: "stop_sequence", sdk.FinishRefusal: "refusal",
			}[c.Reason]
			if reason == "" {
				return nil
			}
			s.end()
			s.next += finishFrame(reason)
		case sdk.Usage:
			s.next += frame("message_delta", string(sdk.JSON(map[string]any{"type": "message_delta", "delta": struct{}{}, "usage": map[string]any{
				"input_tokens": c.Input - c.CacheRead - c.CacheWrite, "output_tokens": c.Output,
				"cache_read_input_tokens": c.CacheRead, "cache_creation_input_tokens": c.CacheWrite,
				"output_tokens_details": map[string]int{"thinking_tokens": c.Reasoning},
			}})))
		default:
			return nil
		}
		pieces = append(pieces, s.next)
		s.next = ""
	}
	return append(pieces, stopFrame)
}

// speaker keeps count of the blocks of a message that is being said.
type speaker struct {
	next   string      // what the next piece has so far
	blocks int         // begun
	kind   string      // of the block that is open, besides those of calls
	open   int         // its index
	calls  map[int]int // the blocks of calls, by the index of the call
}

func (s *speaker) begin(block string) (index int) {
	s.next += beginFrame(s.blocks, block)
	s.blocks++
	return s.blocks - 1
}

// block makes one of a kind the one that is open.
func (s *speaker) block(kind, block string) {
	if s.kind != kind {
		s.close()
		s.kind, s.open = kind, s.begin(block)
	}
}

func (s *speaker) delta(index int, kind, member string, value any) {
	s.next += deltaFrame(index, kind, member, value)
}

func (s *speaker) close() {
	if s.kind != "" {
		s.next += endFrame(s.open)
		s.kind = ""
	}
}

func (s *speaker) end() {
	s.close()
	for call := range len(s.calls) {
		s.next += endFrame(s.calls[call])
	}
}
