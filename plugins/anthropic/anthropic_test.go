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
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// frame is one event of a stream.
func frame(name, data string) string { return "event: " + name + "\ndata: " + data + "\n\n" }

var start = frame("message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}`) +
	frame("ping", `{"type": "ping"}`)

func beginFrame(index int, block string) string {
	return frame("content_block_start", fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":%s}`, index, block))
}

// deltaFrame has the order of members and the space that Anthropic's own have.
func deltaFrame(index int, kind, member string, value any) string {
	return frame("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":%s}   }`, index, kind, member, sdk.JSON(value)))
}

func endFrame(index int) string {
	return frame("content_block_stop", fmt.Sprintf(`{"type":"content_block_stop","index":%d            }`, index))
}

func textBlock(index int, text string) string {
	return beginFrame(index, `{"type":"text","text":""}`) + deltaFrame(index, "text_delta", "text", text) + endFrame(index)
}

func finishFrame(reason string) string {
	return frame("message_delta", `{"type":"message_delta","delta":{"stop_reason":"`+reason+`","stop_sequence":null},"usage":{"output_tokens":7}}`)
}

var stopFrame = frame("message_stop", `{"type":"message_stop"           }`)

var update = flag.Bool("update", false, "write the golden files anew")

// dialects are streams as servers send them, with the turns of the dialect and the deviations from it.
var dialects = sdktest.Recorded{
	Dir: "testdata/dialects",
	Read: func(body io.Reader, emit sdk.Emit) error {
		s := newStream(&sdk.Request{}, emit)
		return s.end(sdk.ReadSSE(body, s.event))
	},
}

func TestDialects(t *testing.T) { dialects.Run(t, *update) }

func TestStatuses(t *testing.T) {
	for _, c := range []struct {
		status       int
		header       http.Header
		kind, detail string
		want         sdk.Kind
		wait         time.Duration
	}{
		{400, nil, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum", sdk.Invalid, 0},
		{400, nil, "invalid_request_error", "Output blocked by content filtering policy", sdk.Refused, 0},
		{400, nil, "invalid_request_error", "This model does not support assistant message prefill. The conversation must end with a user message.", sdk.Invalid, 0},
		{401, nil, "authentication_error", "invalid x-api-key", sdk.Denied, 0},
		{402, nil, "billing_error", "", sdk.Denied, 0},
		{403, nil, "permission_error", "", sdk.Denied, 0},
		{404, nil, "not_found_error", "model: claude-y", sdk.Invalid, 0},
		{413, nil, "request_too_large", "", sdk.Invalid, 0},
		{429, http.Header{"Retry-After": {"12"}}, "rate_limit_error", "", sdk.Limited, 12 * time.Second},
		{429, http.Header{"Retry-After": {"12"}, "X-Should-Retry": {"false"}}, "rate_limit_error", "", sdk.Denied, 0},
		{400, http.Header{"Retry-After": {"1"}, "X-Should-Retry": {"true"}}, "invalid_request_error", "", sdk.Unavailable, time.Second},
		{500, nil, "api_error", "", sdk.Unavailable, 0},
		{504, nil, "timeout_error", "", sdk.Unavailable, 0},
		{529, http.Header{"Retry-After": {"3"}}, "overloaded_error", "Overloaded", sdk.Unavailable, 3 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d %s %s", c.status, c.kind, c.want), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name, values := range c.header {
					w.Header()[name] = values
				}
				w.WriteHeader(c.status)
				w.Write(sdk.JSON(map[string]any{"type": "error", "error": map[string]string{"type": c.kind, "message": c.detail}}))
			}))
			defer server.Close()
			tr := sdktest.Record(t.Context(), provider, request(server.URL))
			e := sdk.AsError(tr.Err)
			if len(tr.Chunks) != 0 || e == nil || e.Kind != c.want || e.Wait != c.wait || e.Status != c.status || e.Code != c.kind || !strings.Contains(e.Message, c.detail) {
				t.Errorf("got %v and %+v, want kind %s, wait %s", tr.Chunks, e, c.want, c.wait)
			}
		})
	}
}

func TestListModels(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" || r.URL.Query().Get("limit") != "1000" || r.Header.Get("Anthropic-Version") == "" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"data":[{"type":"model","id":"claude-x","display_name":"X"},{"type":"model","id":"claude-3-old"},{"id":"glm"}],"has_more":false,"first_id":"claude-x","last_id":"glm"}`)
	}))
	defer server.Close()
	models, err := listModels(t.Context(), request(server.URL).Settings)
	want := []sdk.Model{
		{Name: "claude-x", Tools: true, Vision: true, JSON: true, Reasoning: true},
		{Name: "claude-3-old", Tools: true, Vision: true, Continue: true},
		{Name: "glm", Tools: true, Reasoning: true},
	}
	if err != nil || !cmp.Equal(models, want) {
		t.Errorf("got %+v, %v", models, err)
	}
}

// FuzzEvents: whatever an upstream sends, the chunks keep their order, and the way it is cut into reads
// doesn't matter.
func FuzzEvents(f *testing.F) {
	for _, rec := range dialects.Recordings(f) {
		f.Add(rec.Stream)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		whole := dialects.Transcript(bytes.NewReader(body))
		finished := false
		calls := 0
		ended := map[int]bool{}
		for _, c := range whole.Chunks {
			switch c := c.(type) {
			case sdk.Usage:
				if c.Reasoning > c.Output {
					t.Errorf("counted %+v", c)
				}
				continue
			case sdk.Text:
				if c == "" {
					t.Error("an empty text")
				}
			case sdk.ToolCall:
				switch {
				case c.Index == calls:
					calls++
				case c.Index > calls || ended[c.Index]:
					t.Errorf("%#v, after %d calls, %v of them ended", c, calls, ended)
				}
				ended[c.Index] = c.End
			case sdk.ProviderData:
				if !json.Valid(c.Data) {
					t.Errorf("provider data is no JSON: %s", c.Data)
				}
			case sdk.Finish:
				if finished || c.Reason == "" {
					t.Errorf("%#v", c)
				}
			}
			if finished {
				t.Errorf("%#v after the end", c)
			}
			_, ends := c.(sdk.Finish)
			finished = finished || ends
		}
		if whole.Err == nil && !finished {
			t.Error("whole, without an end")
		}
		if got, want := dialects.Transcript(iotest.OneByteReader(bytes.NewReader(body))).String(), whole.String(); got != want {
			t.Errorf("byte by byte: %s", cmp.Diff(want, got))
		}
	})
}

// FuzzPlainDelta holds the fast path against the decoder: whatever it takes, the decoder reads alike.
func FuzzPlainDelta(f *testing.F) {
	for _, kind := range []string{`"text_delta","text"`, `"thinking_delta","thinking"`} {
		for _, tail := range []string{`"a"}}`, `"Grüße"}   }`, `""}}`, `"\n"}}`, `"a","b":1}}`, `"a"},"delta":{}}`} {
			f.Add([]byte(`{"type":"content_block_delta","index":10,"delta":{"type":` + kind + `:` + tail))
		}
	}
	f.Add([]byte(`{"type":"content_block_delta","index":01,"delta":{"type":"text_delta","text":"a"}}`))
	f.Add([]byte("{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\xff\"}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, thinking, ok := plainDelta(data)
		if !ok {
			return
		}
		var ev wireEvent
		if err := json.Unmarshal(data, &ev); err != nil {
			t.Fatalf("took %q, which the decoder refuses: %v", data, err)
		}
		want := wireEvent{Type: "content_block_delta", Index: ev.Index, Delta: delta{Type: "text_delta", Text: string(text)}}
		if thinking {
			want.Delta = delta{Type: "thinking_delta", Thinking: string(text)}
		}
		if diff := cmp.Diff(want, ev); diff != "" {
			t.Fatalf("took %q, read otherwise (-read +decoded):\n%s", data, diff)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	_, data, _ := strings.Cut(strings.TrimSpace(deltaFrame(0, "text_delta", "text", "some words")), "data: ")
	for _, c := range []struct{ name, data string }{{"plain", data}, {"decoded", strings.Replace(data, "some", `\u0073ome`, 1)}} {
		b.Run(c.name, func(b *testing.B) {
			s := newStream(&sdk.Request{}, func(sdk.Chunk) error { return nil })
			ev := sdk.Event{Name: "content_block_delta", Data: []byte(c.data)}
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
	os.Setenv("ANTHROPIC_API_KEY", "sk-ant-test") // outside a host, secrets are environment variables
	os.Exit(m.Run())
}

func request(url string) *sdk.Request {
	return &sdk.Request{
		Model:    "claude-x",
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("hi")}}},
		Settings: sdk.Settings(`{"base_url":"` + url + `"}`),
	}
}
