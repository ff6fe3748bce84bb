package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/sdk"
)

var (
	hi     = sdk.Message{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("hi")}}
	schema = json.RawMessage(`{"type":"object"}`)
)

func raw(options map[string]string) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for name, v := range options {
		out[name] = json.RawMessage(v)
	}
	return out
}

func TestRequestBody(t *testing.T) {
	temperature, top, seed := 0.5, 0.9, int64(7)
	const said = `"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]`
	for _, c := range []struct {
		name string
		req  sdk.Request
		want string // besides model and stream
	}{
		{"a limit is always set", sdk.Request{Messages: []sdk.Message{hi}}, `{"max_tokens": 77, ` + said + `}`},
		{"what is asked for", sdk.Request{
			Messages: []sdk.Message{hi}, Temperature: &temperature, TopP: &top, Seed: &seed, MaxTokens: 9, Stop: []string{"END"}, User: "u",
		}, `{"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"], ` + said + `}`},
		{"options as they are", sdk.Request{
			Messages: []sdk.Message{hi},
			Options:  raw(map[string]string{"top_k": `3`, "model": `"other"`, "stream": `false`, "messages": `[]`, "context": `{}`, "thinking": `{"type":"adaptive"}`, "system": `[{"type":"text","text":"s"}]`}),
		}, `{"max_tokens": 77, "top_k": 3, "thinking": {"type": "adaptive"}, "system": [{"type": "text", "text": "s"}], ` + said + `}`},
		{"room for the budget of thinking", sdk.Request{
			Messages: []sdk.Message{hi}, Options: raw(map[string]string{"thinking": `{"type":"enabled","budget_tokens":1024}`}),
		}, `{"max_tokens": 1101, "thinking": {"type": "enabled", "budget_tokens": 1024}, ` + said + `}`},
		{"a limit among the options", sdk.Request{
			Messages: []sdk.Message{hi}, Options: raw(map[string]string{"max_tokens": `5`}),
		}, `{"max_tokens": 5, ` + said + `}`},
		{"tools", sdk.Request{
			Messages: []sdk.Message{hi}, ToolChoice: sdk.ToolChoice{Mode: "tool", Name: "f"},
			Tools:   []sdk.Tool{{Name: "f", Description: "d", Parameters: schema, Strict: true}, {Name: "g"}},
			Options: raw(map[string]string{"tools": `[{"type":"web_search_20250305","name":"web_search"}]`}),
		}, `{"max_tokens": 77, "tool_choice": {"type": "tool", "name": "f"}, "tools": [
			{"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": true}, {"name": "g", "input_schema": {"type": "object"}},
			{"type": "web_search_20250305", "name": "web_search"}], ` + said + `}`},
		{"any tool", sdk.Request{Messages: []sdk.Message{hi}, ToolChoice: sdk.ToolChoice{Mode: "required"}}, `{"max_tokens": 77, "tool_choice": {"type": "any"}, ` + said + `}`},
		{"no tool", sdk.Request{Messages: []sdk.Message{hi}, ToolChoice: sdk.ToolChoice{Mode: "none"}}, `{"max_tokens": 77, "tool_choice": {"type": "none"}, ` + said + `}`},
		{"a schema", sdk.Request{
			Messages: []sdk.Message{hi}, ResponseFormat: &sdk.ResponseFormat{Type: "json_schema", Name: "n", Schema: schema},
			Options: raw(map[string]string{"output_config": `{"effort":"low","format":null}`}),
		}, `{"max_tokens": 77, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}, ` + said + `}`},
		{"text", sdk.Request{Messages: []sdk.Message{hi}, ResponseFormat: &sdk.ResponseFormat{Type: "text"}}, `{"max_tokens": 77, ` + said + `}`},
		{"an answer that has begun", sdk.Request{
			Messages: []sdk.Message{hi}, Prefix: "It is \n", Options: raw(map[string]string{"thinking": `{"type":"enabled","budget_tokens":1024}`}),
		}, `{"max_tokens": 1101, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]}`},
		{"an answer that has begun with nothing", sdk.Request{Messages: []sdk.Message{hi}, Prefix: "\n"}, `{"max_tokens": 77, ` + said + `}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Model = "claude-x"
			got, err := requestBody(&c.req, settings{base: "http://127.0.0.1:1", MaxTokens: 77})
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(c.want, "{", `{"model": "claude-x", "stream": true, `, 1)
			if diff := cmp.Diff(decoded(t, want), decoded(t, string(got))); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestConversation(t *testing.T) {
	const opaque = `{"type":"redacted_thinking","data":"b3Bh"}`
	system, turns, err := conversation(&sdk.Request{Messages: []sdk.Message{
		{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("be brief")}},
		{Role: sdk.RoleUser, Parts: []sdk.Part{
			sdk.TextPart("what is it?"), sdk.TextPart(" \n"),
			sdk.ImagePart{MediaType: "image/gif", Data: []byte("GIF"), Detail: "low"}, sdk.ImagePart{Data: []byte("PNG")}, sdk.ImagePart{URL: "https://x.example/i"},
		}},
		{Role: sdk.RoleAssistant, Parts: []sdk.Part{
			sdk.ReasoningPart{Text: "never signed"},
			sdk.ProviderDataPart{Type: blockData, Data: json.RawMessage(opaque)}, sdk.ProviderDataPart{Type: "another's", Data: json.RawMessage(`1`)},
			sdk.ReasoningPart{Text: "let me "}, sdk.ReasoningPart{Text: "see"}, sdk.ReasoningPart{Signature: "c2ln"},
			sdk.ReasoningPart{Signature: "aGlkZGVu"},
			sdk.TextPart("a moment"),
			sdk.ToolCallPart{ID: "a", Name: "f", Arguments: `{"n":1}`}, sdk.ToolCallPart{ID: "b", Name: "g"},
		}},
		{Role: sdk.RoleTool, Parts: []sdk.Part{sdk.ToolResultPart{ID: "a", Name: "f", Content: "42"}}},
		{Role: sdk.RoleTool, Parts: []sdk.Part{sdk.ToolResultPart{ID: "b", Content: "broken", IsError: true}}},
		{Role: sdk.RoleDeveloper, Parts: []sdk.Part{sdk.TextPart("be kind")}},
		{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("and?"), sdk.ToolResultPart{ID: "c", Content: "late"}}},
		{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ReasoningPart{Text: "nothing of it is left"}}},
		{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("now")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if system != "be brief\n\nbe kind" {
		t.Errorf("system is %q", system)
	}
	const want = `[
		{"role": "user", "content": [
			{"type": "text", "text": "what is it?"},
			{"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0lG"}},
			{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "UE5H"}},
			{"type": "image", "source": {"type": "url", "url": "https://x.example/i"}}]},
		{"role": "assistant", "content": [
			` + opaque + `,
			{"type": "thinking", "thinking": "let me see", "signature": "c2ln"},
			{"type": "thinking", "thinking": "", "signature": "aGlkZGVu"},
			{"type": "text", "text": "a moment"},
			{"type": "tool_use", "id": "a", "name": "f", "input": {"n": 1}},
			{"type": "tool_use", "id": "b", "name": "g", "input": {}}]},
		{"role": "user", "content": [
			{"type": "tool_result", "tool_use_id": "a", "content": "42"},
			{"type": "tool_result", "tool_use_id": "b", "content": "broken", "is_error": true},
			{"type": "tool_result", "tool_use_id": "c", "content": "late"},
			{"type": "text", "text": "and?"},
			{"type": "text", "text": "now"}]}
	]`
	if diff := cmp.Diff(decoded(t, want), decoded(t, string(sdk.JSON(turns)))); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// What an answer said goes back as it was, when the caller gives its chunks back as parts.
func TestBlocksGoBackVerbatim(t *testing.T) {
	body := start
	blocks := []string{
		`{"type":"thinking","thinking":"hm, \"so\"","signature":"c2ln"}`,
		`{"type":"redacted_thinking","data":"b3Bh"}`,
		`{"type":"server_tool_use","id":"s","name":"web_search","input":{"query":"q","n":1.50}}`,
		`{"type":"web_search_tool_result","tool_use_id":"s","content":[{"type":"web_search_result","url":"https://x.example/","encrypted_content":"ZW5j"}]}`,
		`{"type":"text","text":"so"}`,
		`{"type":"tool_use","id":"a","name":"f","input":{"b":[1,2],"a":null}}`,
	}
	body += beginFrame(0, `{"type":"thinking","thinking":"","signature":""}`) + deltaFrame(0, "thinking_delta", "thinking", "hm, ") + deltaFrame(0, "thinking_delta", "thinking", `"so"`) + deltaFrame(0, "signature_delta", "signature", "c2ln") + endFrame(0)
	body += beginFrame(1, blocks[1]) + endFrame(1)
	body += beginFrame(2, `{"type":"server_tool_use","id":"s","name":"web_search","input":{}}`) + deltaFrame(2, "input_json_delta", "partial_json", `{"query":"q",`) + deltaFrame(2, "input_json_delta", "partial_json", `"n":1.50}`) + endFrame(2)
	body += beginFrame(3, blocks[3]) + endFrame(3) + textBlock(4, "so")
	body += beginFrame(5, `{"type":"tool_use","id":"a","name":"f","input":{}}`) + deltaFrame(5, "input_json_delta", "partial_json", "") + deltaFrame(5, "input_json_delta", "partial_json", `{"b":[1,2],"a":null}`) + endFrame(5)
	tr := dialects.Transcript(strings.NewReader(body + finishFrame("tool_use") + stopFrame))
	if tr.Err != nil {
		t.Fatal(tr.Err)
	}
	answer := sdk.Message{Role: sdk.RoleAssistant}
	var call sdk.ToolCallPart
	for _, c := range tr.Chunks {
		switch c := c.(type) {
		case sdk.Text:
			answer.Parts = append(answer.Parts, sdk.TextPart(c))
		case sdk.Reasoning:
			answer.Parts = append(answer.Parts, sdk.ReasoningPart(c))
		case sdk.ProviderData:
			answer.Parts = append(answer.Parts, sdk.ProviderDataPart(c))
		case sdk.ToolCall:
			call.ID, call.Name, call.Arguments = call.ID+c.ID, call.Name+c.Name, call.Arguments+c.Arguments
		}
	}
	answer.Parts = append(answer.Parts, call)
	_, turns, err := conversation(&sdk.Request{Messages: []sdk.Message{hi, answer}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decoded(t, "["+strings.Join(blocks, ",")+"]"), decoded(t, string(sdk.JSON(turns[1].Content)))); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		req  sdk.Request
		want string
	}{
		{"nothing is said", sdk.Request{Messages: []sdk.Message{{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("be brief")}}}}, "no messages"},
		{"JSON of no shape", sdk.Request{Messages: []sdk.Message{hi}, ResponseFormat: &sdk.ResponseFormat{Type: "json_object"}}, "json_object"},
		{"a schema that isn't there", sdk.Request{Messages: []sdk.Message{hi}, ResponseFormat: &sdk.ResponseFormat{Type: "json_schema"}}, "with a schema"},
		{"a call that was cut", sdk.Request{Messages: []sdk.Message{hi, {Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ToolCallPart{ID: "a", Name: "f", Arguments: `{"n":`}}}}}, "tool call a"},
		{"a call of a number", sdk.Request{Messages: []sdk.Message{hi, {Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ToolCallPart{ID: "a", Name: "f", Arguments: `1`}}}}}, "tool call a"},
		{"a block that is none", sdk.Request{Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.ProviderDataPart{Type: blockData, Data: json.RawMessage(`"x"`)}}}}}, blockData},
		{"tools of the server's that are no list", sdk.Request{Messages: []sdk.Message{hi}, Tools: []sdk.Tool{{Name: "f"}}, Options: raw(map[string]string{"tools": `{}`})}, "option tools"},
		{"thinking of no shape", sdk.Request{Messages: []sdk.Message{hi}, Options: raw(map[string]string{"thinking": `true`})}, "option thinking"},
		{"output of no shape", sdk.Request{Messages: []sdk.Message{hi}, ResponseFormat: &sdk.ResponseFormat{Type: "json_schema", Schema: schema}, Options: raw(map[string]string{"output_config": `[]`})}, "option output_config"},
	} {
		_, err := requestBody(&c.req, settings{base: defaultBase, MaxTokens: 1})
		if e := sdk.AsError(err); e == nil || e.Kind != sdk.Invalid || e.Fault != sdk.Caller || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: error is %v, want one with %q", c.name, err, c.want)
		}
	}
}

// Only Anthropic itself is told who asks.
func TestUser(t *testing.T) {
	for base, want := range map[string]bool{defaultBase: true, defaultBase + "/": true, defaultBase + ".evil.example": false, "http://127.0.0.1:1": false} {
		body, err := requestBody(&sdk.Request{Messages: []sdk.Message{hi}, User: "u"}, settings{base: sdk.BaseURL(base), MaxTokens: 1})
		if got := strings.Contains(string(body), `"metadata":{"user_id":"u"}`); err != nil || got != want {
			t.Errorf("%s: %s, %v", base, body, err)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		settings, url string
		max           int
		beta, err     string
	}{
		{``, "https://api.anthropic.com/v1/messages", 8192, "", ""},
		{`{"base_url":"http://localhost:8000/v1"}`, "http://localhost:8000/v1/messages", 8192, "", ""},
		{`{"base_url":"http://localhost:8000/v1/","max_tokens":100}`, "http://localhost:8000/v1/messages", 100, "", ""},
		{`{"base_url":"https://x.example/anthropic","beta":"a,b"}`, "https://x.example/anthropic/v1/messages", 8192, "a,b", ""},
		{`{"base_url":"localhost:8000"}`, "", 0, "", `setting base_url "localhost:8000" is not an http or https URL`},
		{`{"base_url":7}`, "", 0, "", "base_url"},
		{`{"max_tokens":0}`, "", 0, "", "setting max_tokens 0 is no limit"},
	} {
		set, err := readSettings(sdk.Settings(c.settings))
		if c.err != "" {
			if e := sdk.AsError(err); e == nil || e.Fault != sdk.Host || !strings.Contains(e.Message, c.err) {
				t.Errorf("%s: error %v, want one with %q", c.settings, err, c.err)
			}
			continue
		}
		if err != nil || set.base.Join("/v1/messages") != c.url || set.MaxTokens != c.max || set.header()["Anthropic-Beta"] != c.beta {
			t.Errorf("%s: %+v, %v", c.settings, set, err)
		}
	}
}

// A model that goes on from an answer's text may say the space again that was cut off its end.
func TestPrefix(t *testing.T) {
	for _, c := range []struct{ prefix, said, want string }{
		{"It is ", " so", "so"},
		{"It is \n\n", "\n\nso", "\n\nso"},
		{"It is\n\n", "\n so", " so"},
		{"It is ", "so", "so"},
		{"It is", " so", " so"},
	} {
		var text string
		s := newStream(&sdk.Request{Prefix: c.prefix}, func(chunk sdk.Chunk) error {
			switch chunk := chunk.(type) {
			case sdk.Text:
				text += string(chunk)
			case sdk.Citation:
				if chunk.Start != len(c.prefix) || chunk.End != len(c.prefix+text) {
					t.Errorf("after %q, %q is cited from %d to %d", c.prefix, text, chunk.Start, chunk.End)
				}
			}
			return nil
		})
		body := start + beginFrame(0, `{"type":"text","text":""}`)
		for _, b := range c.said {
			body += deltaFrame(0, "text_delta", "text", string(b))
		}
		body += deltaFrame(0, "citations_delta", "citation", map[string]string{"url": "https://x.example/"}) + endFrame(0) + finishFrame("end_turn") + stopFrame
		if err := s.end(sdk.ReadSSE(strings.NewReader(body), s.event)); err != nil || text != c.want {
			t.Errorf("after %q, of %q it says %q, %v; want %q", c.prefix, c.said, text, err, c.want)
		}
	}
}
