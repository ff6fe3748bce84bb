package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/sdk"
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

// eachDialect runs a test on the streams under testdata/dialects: what servers send, with the turns of
// the dialect and the deviations from it; beside each, what a provider must make of it.
func eachDialect(t *testing.T, test func(t *testing.T, body []byte, golden string)) {
	files, err := filepath.Glob("testdata/dialects/*.sse")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialects: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sse"), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			test(t, body, strings.TrimSuffix(file, ".sse")+".golden")
		})
	}
}

func TestDialects(t *testing.T) {
	eachDialect(t, func(t *testing.T, body []byte, golden string) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Write(body)
		}))
		defer server.Close()
		got := transcript(ask(t.Context(), request(server.URL)))
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("chunks (-want +got):\n%s", diff)
		}
	})
}

// However a stream is cut into reads, and however its lines end, it says the same.
func TestDialectsInPieces(t *testing.T) {
	eachDialect(t, func(t *testing.T, body []byte, golden string) {
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{"\n", "\r\n", "\r"} {
			text := strings.ReplaceAll(strings.ReplaceAll(string(body), "\r\n", "\n"), "\n", end)
			if got := transcript(read(iotest.OneByteReader(strings.NewReader(text)))); got != string(want) {
				t.Errorf("lines that end in %q, byte by byte: %s", end, cmp.Diff(string(want), got))
			}
		}
		for at := range body {
			if got := transcript(read(io.MultiReader(bytes.NewReader(body[:at]), bytes.NewReader(body[at:])))); got != string(want) {
				t.Fatalf("cut at %d: %s", at, cmp.Diff(string(want), got))
			}
		}
	})
}

func transcript(chunks []sdk.Chunk, err error) string {
	var b strings.Builder
	for _, c := range chunks {
		if d, ok := c.(sdk.ProviderData); ok {
			fmt.Fprintf(&b, "sdk.ProviderData{Type:%q, Data:`%s`}\n", d.Type, d.Data)
			continue
		}
		fmt.Fprintf(&b, "%#v\n", c)
	}
	if err == nil {
		return b.String() + "whole\n"
	}
	e := sdk.AsError(err)
	return b.String() + fmt.Sprintf("error: %s, of the %s: %s\n", e.Kind, e.Fault, e.Message)
}

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
			chunks, err := ask(t.Context(), request(server.URL))
			e := sdk.AsError(err)
			if len(chunks) != 0 || e == nil || e.Kind != c.want || e.Wait != c.wait || e.Status != c.status || e.Code != c.kind || !strings.Contains(e.Message, c.detail) {
				t.Errorf("got %v and %+v, want kind %s, wait %s", chunks, e, c.want, c.wait)
			}
		})
	}
}

func TestCancelClosesTheUpstream(t *testing.T) {
	closed := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, start+textBlock(0, "a"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(closed)
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err := generate(ctx, request(server.URL), func(sdk.Chunk) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, it returned %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the upstream's connection stays open")
	}
}

// Whichever chunk isn't taken, there is none after it.
func TestEmitErrorEndsIt(t *testing.T) {
	unwanted := errors.New("unwanted")
	eachDialect(t, func(t *testing.T, body []byte, _ string) {
		all, _ := read(bytes.NewReader(body))
		for last := range all {
			n := 0
			s := newStream(&sdk.Request{}, func(sdk.Chunk) error {
				if n++; n > last {
					return unwanted
				}
				return nil
			})
			err := s.end(sdk.ReadSSE(bytes.NewReader(body), s.event))
			if !errors.Is(err, unwanted) || n != last+1 {
				t.Errorf("chunk %d was not taken; it emitted %d and returned %v", last, n, err)
			}
		}
	})
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
	files, _ := filepath.Glob("testdata/dialects/*.sse")
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		chunks, err := read(bytes.NewReader(body))
		finished := false
		calls := 0
		ended := map[int]bool{}
		for _, c := range chunks {
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
		if err == nil && !finished {
			t.Error("whole, without an end")
		}
		if got, want := transcript(read(iotest.OneByteReader(bytes.NewReader(body)))), transcript(chunks, err); got != want {
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

func ask(ctx context.Context, req *sdk.Request) (chunks []sdk.Chunk, err error) {
	err = generate(ctx, req, func(c sdk.Chunk) error {
		chunks = append(chunks, c)
		return nil
	})
	return chunks, err
}

// read is what is made of the body of an answer.
func read(body io.Reader) (chunks []sdk.Chunk, err error) {
	s := newStream(&sdk.Request{}, func(c sdk.Chunk) error {
		chunks = append(chunks, c)
		return nil
	})
	return chunks, s.end(sdk.ReadSSE(body, s.event))
}
