package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// frame is one data line of a stream with a chunk whose choices are given.
func frame(choices string) string {
	return `data: {"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-x","system_fingerprint":"fp","choices":[` + choices + `]}` + "\n\n"
}

func textFrame(text string) string {
	b, _ := json.Marshal(text)
	return frame(`{"index":0,"delta":{"content":` + string(b) + `},"logprobs":null,"finish_reason":null}`)
}

func finishFrame(reason string) string {
	return frame(`{"index":0,"delta":{},"logprobs":null,"finish_reason":"` + reason + `"}`)
}

const doneFrame = "data: [DONE]\n\n"

var update = flag.Bool("update", false, "write the golden files anew")

// dialects are streams as servers send them, with their deviations from the dialect.
var dialects = sdktest.Recorded{
	Dir: "testdata/dialects",
	Read: func(body io.Reader, emit sdk.Emit) error {
		s := stream{emit: emit}
		return s.end(sdk.ReadSSE(body, s.event))
	},
	Show: func(tr sdktest.Transcript) string {
		var b strings.Builder
		for _, c := range tr.Chunks {
			fmt.Fprintf(&b, "%#v\n", c)
		}
		if tr.Err == nil {
			return b.String() + "whole\n"
		}
		return b.String() + fmt.Sprintf("error: %s\n", sdk.AsError(tr.Err).Kind)
	},
}

func TestDialects(t *testing.T) { dialects.Run(t, *update) }

func TestStatuses(t *testing.T) {
	for _, c := range []struct {
		status int
		header string
		body   string
		kind   sdk.Kind
		wait   time.Duration
	}{
		{429, "2", `{"error":{"message":"rate limit","type":"requests","code":"rate_limit_exceeded"}}`, sdk.Limited, 2 * time.Second},
		{429, "", `{"error":{"message":"quota","type":"insufficient_quota","code":"insufficient_quota"}}`, sdk.Denied, 0},
		{400, "", `{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}`, sdk.Invalid, 0},
		{400, "", `{"error":{"message":"no","type":"invalid_request_error","code":"content_policy_violation"}}`, sdk.Refused, 0},
		{401, "", `{"error":{"message":"Incorrect API key","code":"invalid_api_key"}}`, sdk.Denied, 0},
		{500, "", `oops`, sdk.Unavailable, 0},
		{503, "1", ``, sdk.Unavailable, time.Second},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.kind), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.header != "" {
					w.Header().Set("Retry-After", c.header)
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}))
			defer server.Close()
			tr := sdktest.Record(t.Context(), provider, request(server.URL))
			e := sdk.AsError(tr.Err)
			if len(tr.Chunks) != 0 || e == nil || e.Kind != c.kind || e.Wait != c.wait || e.Status != c.status {
				t.Errorf("got %v and %+v, want kind %s, wait %s", tr.Chunks, e, c.kind, c.wait)
			}
		})
	}
}

func TestRequestBody(t *testing.T) {
	temperature, seed := 0.5, int64(7)
	req := &sdk.Request{
		Model: "gpt-x",
		Messages: []sdk.Message{
			{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("be brief")}},
			{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("what is it?"), sdk.ImagePart{MediaType: "image/gif", Data: []byte("GIF"), Detail: "low"}}},
			{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ReasoningPart{Text: "hm"}, sdk.ToolCallPart{ID: "c", Name: "f", Arguments: `{}`}}},
			{Role: sdk.RoleTool, Parts: []sdk.Part{sdk.ToolResultPart{ID: "c", Content: "42"}}},
			{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ProviderDataPart{Type: "x", Data: json.RawMessage(`1`)}}},
		},
		Tools:          []sdk.Tool{{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`), Strict: true}},
		ToolChoice:     sdk.ToolChoice{Mode: "tool", Name: "f"},
		ResponseFormat: &sdk.ResponseFormat{Type: "json_schema", Schema: json.RawMessage(`{"type":"object"}`)},
		Temperature:    &temperature, Seed: &seed, MaxTokens: 9, Stop: []string{"END"}, User: "u",
		Options: map[string]json.RawMessage{"top_k": json.RawMessage(`3`), "model": json.RawMessage(`"other"`), "stream": json.RawMessage(`false`), "context": json.RawMessage(`{}`)},
		Prefix:  "It is",
	}
	const want = `{
		"model": "gpt-x", "stream": true, "stream_options": {"include_usage": true},
		"messages": [
			{"role": "system", "content": "be brief"},
			{"role": "user", "content": [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lG", "detail": "low"}}]},
			{"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
			{"role": "tool", "content": "42", "tool_call_id": "c"},
			{"role": "assistant", "content": "It is"}
		],
		"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}}],
		"tool_choice": {"type": "function", "function": {"name": "f"}},
		"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": false}},
		"temperature": 0.5, "seed": 7, "max_tokens": 9, "stop": ["END"], "top_k": 3
	}`
	set, err := readSettings(sdk.Settings(`{"base_url":"http://127.0.0.1:1/v1/"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := requestBody(req, set)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal([]byte(want), &a) != nil || json.Unmarshal(got, &b) != nil {
		t.Fatalf("not JSON: %s", got)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct{ settings, url, max, err string }{
		{`{}`, "https://api.openai.com/v1/chat/completions", "max_completion_tokens", ""},
		{`{"base_url":"http://localhost:8000/v1"}`, "http://localhost:8000/v1/chat/completions", "max_tokens", ""},
		{`{"base_url":"http://localhost:8000/","max_tokens_field":"max_completion_tokens"}`, "http://localhost:8000/v1/chat/completions", "max_completion_tokens", ""},
		{`{"base_url":"https://x.example/api","path":"/chat"}`, "https://x.example/api/chat", "max_tokens", ""},
		{`{"base_url":"localhost:8000"}`, "", "", `setting base_url "localhost:8000" is not an http or https URL`},
		{`{"base_url":7}`, "", "", "base_url"},
	} {
		set, err := readSettings(sdk.Settings(c.settings))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want one with %q", c.settings, err, c.err)
			}
			continue
		}
		if err != nil || set.base.Join(set.Path) != c.url || set.MaxTokensField != c.max {
			t.Errorf("%s: %s, %s, %v", c.settings, set.base.Join(set.Path), set.MaxTokensField, err)
		}
	}
}

func TestListModels(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"object":"list","data":[{"id":"gpt-x"},{"id":"llama"}]}`)
	}))
	defer server.Close()
	models, err := listModels(t.Context(), request(server.URL).Settings)
	want := []sdk.Model{{Name: "gpt-x", Tools: true, Vision: true, JSON: true}, {Name: "llama", Tools: true, JSON: true}}
	if err != nil || !cmp.Equal(models, want) {
		t.Errorf("got %+v, %v", models, err)
	}
}

// FuzzPlainDelta holds the fast path against the decoder: whatever it takes, the decoder reads alike.
func FuzzPlainDelta(f *testing.F) {
	for _, rec := range dialects.Recordings(f) {
		for line := range bytes.Lines(rec.Stream) {
			if data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data: ")); ok {
				f.Add(data)
			}
		}
	}
	f.Add([]byte(`{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"Usage":{"prompt_tokens":1}}`))
	f.Add([]byte(`{"choices":[{"index":0,"delta":{"content":"a"}}],"Choices":null}`))
	f.Add([]byte(`{"ERROR":"x","choices":[{"index":0,"delta":{"content":"a"}}]}`))
	f.Add([]byte(`{"choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}],"x":01}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, ok := plainDelta(data)
		if !ok {
			return
		}
		var c chunk
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("took %q, which the decoder refuses: %v", data, err)
		}
		if len(c.Choices) != 1 || c.Choices[0].FinishReason != nil || c.Usage != nil || len(c.Error) > 0 && string(c.Error) != "null" {
			t.Fatalf("took %q, where there is more than text", data)
		}
		d := c.Choices[0].Delta
		if got := stringOf(d.Content); got != string(text) {
			t.Fatalf("read %q, the decoder %q, in %q", text, got, data)
		}
		d.Content = nil
		if !cmp.Equal(d, delta{}) {
			t.Fatalf("took %q, whose delta holds more than content", data)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	data := strings.TrimPrefix(strings.TrimSpace(textFrame("some words")), "data: ")
	for _, c := range []struct{ name, data string }{{"plain", data}, {"decoded", strings.Replace(data, "some", `\u0073ome`, 1)}} {
		b.Run(c.name, func(b *testing.B) {
			s := stream{emit: func(sdk.Chunk) error { return nil }}
			ev := sdk.Event{Data: []byte(c.data)}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.event(ev); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestMain(m *testing.M) {
	os.Setenv("OPENAI_API_KEY", "sk-test") // outside a host, secrets are environment variables
	os.Exit(m.Run())
}

func request(url string) *sdk.Request {
	return &sdk.Request{
		Model:    "gpt-x",
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("hi")}}},
		Settings: sdk.Settings(`{"base_url":"` + url + `"}`),
	}
}
