package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// frame is one data line of a stream with the candidates that are given.
func frame(candidates string) string {
	return `data: {"candidates":[` + candidates + `],"modelVersion":"gemini-x","responseId":"r1"}` + "\n\n"
}

func partFrame(p part) string {
	return frame(`{"content":{"parts":[` + string(sdk.JSON(p)) + `],"role":"model"},"index":0}`)
}

func textFrame(text string) string { return partFrame(part{Text: &text}) }

func finishFrame(reason string) string { return frame(`{"finishReason":"` + reason + `","index":0}`) }

var update = flag.Bool("update", false, "write the golden files anew")

// dialects are streams as servers send them.
var dialects = sdktest.Recorded{
	Dir: "testdata/dialects",
	Read: func(body io.Reader, emit sdk.Emit) error {
		s := stream{job: "job", emit: emit}
		return s.end(sdk.ReadSSE(body, s.event))
	},
	Show: func(tr sdktest.Transcript) string {
		var b strings.Builder
		for _, c := range tr.Chunks {
			if data, ok := c.(sdk.ProviderData); ok {
				fmt.Fprintf(&b, "%T %s %s\n", data, data.Type, data.Data)
				continue
			}
			fmt.Fprintf(&b, "%#v\n", c)
		}
		if tr.Err == nil {
			return b.String() + "whole\n"
		}
		e := sdk.AsError(tr.Err)
		return b.String() + fmt.Sprintf("error: %s, fault of the %s: %s\n", e.Kind, e.Fault, e.Message)
	},
}

func TestDialects(t *testing.T) { dialects.Run(t, *update) }

func TestSettings(t *testing.T) {
	for _, c := range []struct{ settings, url, err string }{
		{`{}`, "https://generativelanguage.googleapis.com/v1beta/models", ""},
		{`{"base_url":"http://localhost:8000/"}`, "http://localhost:8000/v1beta/models", ""},
		{`{"base_url":"https://x.example/gemini/v1beta/"}`, "https://x.example/gemini/v1beta/models", ""},
		{`{"base_url":"https://x.example/v1"}`, "https://x.example/v1/models", ""},
		{`{"base_url":"https://v1.example"}`, "https://v1.example/v1beta/models", ""},
		{`{"base_url":"localhost:8000"}`, "", `setting base_url "localhost:8000" is not an http or https URL`},
		{`{"base_url":7}`, "", "base_url"},
	} {
		got, err := endpoint(sdk.Settings(c.settings), "/models")
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want one with %q", c.settings, err, c.err)
			}
			continue
		}
		if err != nil || got != c.url {
			t.Errorf("%s: %s, %v", c.settings, got, err)
		}
	}
}

// A model's name can't lead to another endpoint.
func TestModelNamesStayNames(t *testing.T) {
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		io.WriteString(w, finishFrame("STOP"))
	}))
	defer server.Close()
	for _, c := range []struct {
		model string
		ok    bool
	}{
		{"gemini-2.5-pro", true}, {"gemini-3-pro-preview-11-2025", true}, {"Gemma_3.1", true}, {"..", true},
		{"", false}, {"../files", false}, {"a/b", false}, {"a?b", false}, {"a#b", false}, {"a%2fb", false}, {"a%3Fb", false},
		{`a\b`, false}, {"a:countTokens", false}, {"a&b", false}, {"a b", false}, {"a\r\nb", false}, {"é", false}, {"a\x00", false},
	} {
		asked = ""
		req := request(server.URL)
		req.Model = c.model
		err := generate(t.Context(), req, func(sdk.Chunk) error { return nil })
		want := ""
		if c.ok {
			want = "/v1beta/models/" + c.model + ":streamGenerateContent?alt=sse"
		}
		e := sdk.AsError(err)
		if asked != want || c.ok != (e == nil) || !c.ok && (e.Kind != sdk.Invalid || e.Fault != sdk.Caller) {
			t.Errorf("%q: asked for %q and returned %v", c.model, asked, err)
		}
	}
}

func TestListModels(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1beta/models" || r.Header.Get("X-Goog-Api-Key") != "AI-test" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"models":[
			{"name":"models/gemini-x","displayName":"X","inputTokenLimit":1000,"outputTokenLimit":100,"supportedGenerationMethods":["generateContent","countTokens"]},
			{"name":"models/gemini-embedding","supportedGenerationMethods":["embedContent"]},
			{"name":"models/gemma","supportedGenerationMethods":["generateContent"]}]}`)
	}))
	defer server.Close()
	models, err := listModels(t.Context(), request(server.URL).Settings)
	want := []sdk.Model{
		{Name: "gemini-x", Tools: true, Vision: true, JSON: true, Reasoning: true, ContextTokens: 1000, OutputTokens: 100},
		{Name: "gemma", Tools: true, Vision: true, JSON: true},
	}
	if err != nil || !cmp.Equal(models, want) {
		t.Errorf("got %+v, %v", models, err)
	}
}

// Whichever chunk nobody wants, there is no other after it.
func TestEmitErrorEndsIt(t *testing.T) {
	body := frame(`{"content":{"parts":[{"text":"hm","thought":true},{"text":"a"},{"functionCall":{"name":"f"},"thoughtSignature":"c2ln"},{"inlineData":{"mimeType":"image/png","data":"AP+A"}}]}}`) +
		"data: " + `{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1}}` + "\n\n"
	unwanted := errors.New("unwanted")
	const all = 7
	for last := 1; last <= all+1; last++ {
		n := 0
		s := stream{emit: func(sdk.Chunk) error {
			if n++; n == last {
				return unwanted
			}
			return nil
		}}
		err := s.end(sdk.ReadSSE(strings.NewReader(body), s.event))
		if last <= all && (!errors.Is(err, unwanted) || n != last) || last > all && (err != nil || n != all) {
			t.Errorf("with %d chunks wanted it emitted %d and returned %v", last-1, n, err)
		}
	}
}

// The ids of one answer differ from each other and from those of another job.
func TestIDsOfCalls(t *testing.T) {
	body := frame(`{"content":{"parts":[{"functionCall":{"name":"f"}},{"functionCall":{"name":"f"}}]}}`)
	seen := map[string]bool{}
	for _, job := range []string{"", "job-1", "job-2", strings.Repeat("long ", 100)} {
		s := stream{job: job, emit: func(c sdk.Chunk) error {
			id := c.(sdk.ToolCall).ID
			if seen[id] || len(id) > 40 || theirID(id) != "" {
				t.Errorf("job %.10q has a call %q", job, id)
			}
			seen[id] = true
			return nil
		}}
		if err := sdk.ReadSSE(strings.NewReader(body), s.event); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 8 {
		t.Errorf("there are %d ids", len(seen))
	}
}

// FuzzStream reads any stream as servers might send it. What is emitted can be relied on: calls rise by
// one and are objects that can be told apart, provider data is JSON and can be given back, an answer is
// whole only with a finish reason; and it does not matter where the stream is split.
func FuzzStream(f *testing.F) {
	for _, rec := range dialects.Recordings(f) {
		f.Add(rec.Stream)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		whole := dialects.Transcript(bytes.NewReader(body))
		calls, finished := 0, false
		turn := sdk.Message{Role: sdk.RoleAssistant}
		for _, c := range whole.Chunks {
			switch c := c.(type) {
			case sdk.Text:
				if c == "" || !utf8.ValidString(string(c)) {
					t.Errorf("text %q", c)
				}
				turn.Parts = append(turn.Parts, sdk.TextPart(c))
			case sdk.Reasoning:
				turn.Parts = append(turn.Parts, sdk.ReasoningPart(c))
			case sdk.ToolCall:
				if c.Index != calls || c.ID == "" || !c.End || !json.Valid([]byte(c.Arguments)) {
					t.Errorf("call %d is %+v", calls, c)
				}
				calls++
				if _, ok := objectOf(c.Arguments); ok {
					turn.Parts = append(turn.Parts, sdk.ToolCallPart{ID: c.ID, Name: c.Name, Arguments: c.Arguments})
				}
			case sdk.ProviderData:
				turn.Parts = append(turn.Parts, sdk.ProviderDataPart(c))
			case sdk.Finish:
				finished = true
			}
		}
		if whole.Err == nil && !finished {
			t.Error("it is whole and has no finish reason")
		}
		if len(turn.Parts) > 0 {
			turns := []sdk.Message{turn, {Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("go on")}}}
			if _, err := requestBody(&sdk.Request{Model: "gemini-3", Messages: turns}); err != nil {
				t.Errorf("what it said can't be given back: %v", err)
			}
		}
		if one, other := whole.String(), dialects.Transcript(iotest.OneByteReader(bytes.NewReader(body))).String(); one != other {
			t.Errorf("split, it is another answer:\n%s\n%s", one, other)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	s := stream{emit: func(sdk.Chunk) error { return nil }}
	ev := sdk.Event{Data: []byte(strings.TrimPrefix(strings.TrimSpace(textFrame("some words")), "data: "))}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.event(ev); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMain(m *testing.M) {
	os.Setenv("GEMINI_API_KEY", "AI-test") // outside a host, secrets are environment variables
	os.Exit(m.Run())
}

func request(url string) *sdk.Request {
	return &sdk.Request{
		Model:    "gemini-x",
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("hi")}}},
		Settings: sdk.Settings(`{"base_url":"` + url + `"}`),
	}
}
