package guests

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// script builds a plugin out of a script and tries to load it.
func script(t *testing.T, source string, op manifest.Operator) (*sandbox.Plugin, *text, error) {
	t.Helper()
	javascript.build(t)
	return try(t, install(t, source), op)
}

func TestJavaScript(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `{"text":"from JSON: ü"}`)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Upstream", "yes")
		w.WriteHeader(http.StatusAccepted)
		for _, piece := range []string{"data: one\r\n", "\nda", "ta: zw\xc3", "\xb6lf\n", r.Header.Get("X-Job") + "\n" + string(body)} {
			fmt.Fprint(w, piece)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
		if r.Header.Get("Authorization") != "Bearer very-secret" {
			t.Errorf("the secret is %q", r.Header.Get("Authorization"))
		}
	}))
	defer upstream.Close()
	op := manifest.Operator{Settings: map[string]any{"url": upstream.URL}, AllowPrivate: []string{"127.0.0.1"}}
	loaded, log, err := script(t, "javascript/testdata/try.js", op)
	if err != nil {
		t.Fatal(err)
	}
	if d := loaded.Description(); len(d.Models) != 1 || d.Models[0] != (sdk.Model{Name: "*", Tools: true, ContextTokens: 128_000}) || !d.Resume || !d.CountTokens || d.Check {
		t.Errorf("it describes itself as %+v", d)
	}
	p := loaded.Provider()
	do := func(t *testing.T, model string) sdktest.Transcript {
		t.Helper()
		return sdktest.Record(t.Context(), p, question(model, "Grüße", nil))
	}
	for model, want := range map[string]string{
		"half": "a\ufffd.", "large": strings.Repeat("🙂", 300_000), "later": "later", "state": "1",
		"lines": "202 yes\n[data: one][][data: zwölf][bench][a body: ü]", "json": "from JSON: ü", "log": "",
	} {
		t.Run(model, func(t *testing.T) {
			if tr := do(t, model); tr.Err != nil || tr.Text() != want {
				t.Errorf("%.200q, %v; want %.200q", tr.Text(), tr.Err, want)
			}
		})
	}
	for model, want := range map[string]sdk.Error{
		"unknown":   {Kind: sdk.Internal, Fault: sdk.Plugin, Message: "telepathy"},
		"throw":     {Kind: sdk.Internal, Fault: sdk.Plugin, Message: "TypeError: out of luck"},
		"fail":      {Kind: sdk.Limited, Fault: sdk.Upstream, Message: "slow down", Wait: 1500 * time.Millisecond, Status: 429, Code: "rate"},
		"reject":    {Kind: sdk.Denied, Fault: sdk.Upstream, Message: "no key"},
		"never":     {Kind: sdk.Internal, Fault: sdk.Plugin, Message: "never settled"},
		"deep":      {Kind: sdk.Internal, Fault: sdk.Plugin, Message: "RangeError: Maximum call stack size exceeded"},
		"elsewhere": {Kind: sdk.Denied, Fault: sdk.Plugin, Message: "elsewhere.example", Code: "egress_refused"},
	} {
		t.Run(model, func(t *testing.T) {
			e := sdk.AsError(do(t, model).Err)
			if e == nil || e.Kind != want.Kind || e.Fault != want.Fault || !strings.Contains(e.Message, want.Message) || e.Wait != want.Wait || e.Status != want.Status || e.Code != want.Code {
				t.Errorf("error is %#v, want %#v", e, want)
			}
		})
	}
	t.Run("chunks", func(t *testing.T) {
		want := []sdk.Chunk{
			sdk.Reasoning{Text: "hm", Signature: "s"},
			sdk.ToolCall{Index: 1, ID: "c", Name: "look", Arguments: `{"at":"Köln"}`, End: true},
			sdk.Refusal("no"),
			sdk.Citation{URL: "https://a.example/", Title: "A", Start: 1, End: 300},
			sdk.Image{MediaType: "image/png", Data: []byte{0, 255, 128}},
			sdk.ProviderData{Type: "t", Data: sdk.JSON(map[string]any{"a": []int{1}})},
			sdk.Usage{Input: 3, Output: 70_000, Reasoning: 1}, sdk.Finish{Reason: sdk.FinishToolCalls, Raw: "t"},
		}
		if tr := do(t, "chunks"); tr.Err != nil || !reflect.DeepEqual(tr.Chunks, want) {
			t.Errorf("%+v, %v; want %+v", tr.Chunks, tr.Err, want)
		}
	})
	t.Run("random", func(t *testing.T) {
		if a, b := do(t, "random").Text(), do(t, "random").Text(); a == b {
			t.Errorf("two jobs drew %s", a)
		}
	})
	t.Run("request", func(t *testing.T) {
		half, seed := 0.5, int64(-7)
		req := question("request", "Grüße", map[string]any{"a": []any{1, "ü"}})
		req.Messages = append([]sdk.Message{{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("s")}}}, req.Messages...)
		req.Temperature, req.Seed, req.MaxTokens, req.Stop = &half, &seed, 1<<33, []string{"x", ""}
		tr := sdktest.Record(t.Context(), p, req)
		want := `{"messages":[{"parts":[{"text":"s"}],"role":"system"},{"parts":[{"text":"Grüße"}],"role":"user"}],"tools":[],"stop":["x",""],` +
			`"options":{"a":[1,"ü"],"delay_ms":0},"jobId":"bench","attempt":1,"model":"request","temperature":0.5,"maxTokens":8589934592,"seed":-7,` +
			`"settings":{"url":"` + upstream.URL + `"},"prompt":"Grüße"}`
		if tr.Err != nil || tr.Text() != want {
			t.Errorf("%s\n%v, want\n%s", tr.Text(), tr.Err, want)
		}
	})
	t.Run("abilities", func(t *testing.T) {
		req := question("any", "Grüße", nil)
		req.Prefix = "this"
		var tr sdktest.Transcript
		tr.Err = p.Resume(t.Context(), req, func(c sdk.Chunk) error { tr.Chunks = append(tr.Chunks, c); return nil })
		if tr.Err != nil || tr.Text() != "after this" {
			t.Errorf("resume: %q, %v", tr.Text(), tr.Err)
		}
		if n, err := p.CountTokens(t.Context(), req); n != 5 || err != nil {
			t.Errorf("tokens: %d, %v", n, err)
		}
	})
	for _, want := range []string{`to the log {\"a\":1}`, "out of luck", "try.js:"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestJavaScriptThatDoesNotLoad(t *testing.T) {
	for source, want := range map[string]string{
		"plugin({":                       "SyntaxError",
		"throw new Error('out of luck')": "out of luck",
		"const nothing = 1;":             "has not called plugin()",
	} {
		file := filepath.Join(t.TempDir(), "broken.js")
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := script(t, file, manifest.Operator{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
}

// TestReadmeOfJavaScript runs the plugin that the README shows.
func TestReadmeOfJavaScript(t *testing.T) {
	b, err := os.ReadFile("javascript/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(b), "\n    generate(request")
	code, _, ok := strings.Cut(code, "\n    }\n")
	if !ok {
		t.Fatal("the README shows no plugin")
	}
	file := filepath.Join(t.TempDir(), "readme.js")
	if err := os.WriteFile(file, []byte("plugin({name: 'try', version: '1', generate(request"+code+"}})"), 0o644); err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"prompt":"out of order"}` {
			fmt.Fprintf(w, "data: {\"text\":\"one\"}\n\ndata: {\"text\":\" two\"}\n\n")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer upstream.Close()
	p, _, err := script(t, file, manifest.Operator{Settings: map[string]any{"url": upstream.URL}, AllowPrivate: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	tr := sdktest.Record(t.Context(), p.Provider(), question("any", "in order", nil))
	if tr.Err != nil || tr.Text() != "one two" {
		t.Errorf("%q, %v", tr.Text(), tr.Err)
	}
	err = sdktest.Record(t.Context(), p.Provider(), question("any", "out of order", nil)).Err
	if e := sdk.AsError(err); e == nil || e.Kind != sdk.Unavailable || e.Status != http.StatusServiceUnavailable {
		t.Errorf("error is %+v, want that the upstream is unavailable", e)
	}
}
