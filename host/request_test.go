package host

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

func TestRequestOf(t *testing.T) {
	half, one, seed := 0.5, 1.0, int64(7)
	for _, tt := range []struct {
		name string
		job  job.Job
		want sdk.Request
	}{
		{
			name: "a query",
			job:  job.Job{Query: "why?", Context: json.RawMessage(`{"lang":"de"}`)},
			want: sdk.Request{
				Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("why?")}}},
				Options:  map[string]json.RawMessage{"context": json.RawMessage(`{"lang":"de"}`)},
			},
		},
		{
			name: "messages before the query",
			job: job.Job{Query: "title", Messages: json.RawMessage(`[
				{"role":"system","content":"be brief"},
				{"role":"user","content":[{"type":"text","text":"what is"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AQI=","detail":"low"}},{"type":"image_url","image_url":"https://x.example/y.png"}]},
				{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
				{"role":"tool","tool_call_id":"c1","name":"f","content":"42"},
				{"role":"assistant","content":[{"type":"reasoning","text":"hm","signature":"s"},{"type":"provider_data","dataType":"x","data":{"a":1}},{"type":"text","text":"it is"}]},
				{"role":"user"}]`)},
			want: sdk.Request{Messages: []sdk.Message{
				{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("be brief")}},
				{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("what is"), sdk.ImagePart{MediaType: "image/png", Data: []byte{1, 2}, Detail: "low"}, sdk.ImagePart{URL: "https://x.example/y.png"}}},
				{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ToolCallPart{ID: "c1", Name: "f", Arguments: "{}"}}},
				{Role: sdk.RoleTool, Parts: []sdk.Part{sdk.ToolResultPart{ID: "c1", Name: "f", Content: "42"}}},
				{Role: sdk.RoleAssistant, Parts: []sdk.Part{sdk.ReasoningPart{Text: "hm", Signature: "s"}, sdk.ProviderDataPart{Type: "x", Data: json.RawMessage(`{"a":1}`)}, sdk.TextPart("it is")}},
				{Role: sdk.RoleUser},
			}},
		},
		{
			name: "parameters",
			job: job.Job{Query: "q", Params: json.RawMessage(`{"temperature":0.5,"top_p":1,"max_completion_tokens":9,"seed":7,"stop":"end","pace":3,"top_k":1,"options":{"pace":4,"burst":2},
				"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"},"strict":true}}],
				"tool_choice":{"type":"function","function":{"name":"f"}},
				"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"},"strict":true}}}`)},
			want: sdk.Request{
				Messages:    []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("q")}}},
				Temperature: &half, TopP: &one, MaxTokens: 9, Seed: &seed, Stop: []string{"end"},
				Tools:          []sdk.Tool{{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`), Strict: true}},
				ToolChoice:     sdk.ToolChoice{Mode: "tool", Name: "f"},
				ResponseFormat: &sdk.ResponseFormat{Type: "json_schema", Name: "n", Schema: json.RawMessage(`{"type":"object"}`), Strict: true},
				Options:        map[string]json.RawMessage{"pace": json.RawMessage(`4`), "burst": json.RawMessage(`2`), "top_k": json.RawMessage(`1`)},
			},
		},
		{
			name: "nulls are absent",
			job:  job.Job{Query: "q", Messages: json.RawMessage(`null`), Params: json.RawMessage(`{"temperature":null,"stop":["a","b"],"tool_choice":"none"}`), Context: json.RawMessage(`null`)},
			want: sdk.Request{
				Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("q")}}},
				Stop:     []string{"a", "b"}, ToolChoice: sdk.ToolChoice{Mode: "none"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.job.ID, tt.job.User = "j", "ada"
			tt.want.JobID, tt.want.User = "j", "ada"
			got, err := requestOf(tt.job)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRequestOfRefuses(t *testing.T) {
	for _, tt := range []struct{ messages, params, want string }{
		{``, ``, "neither a query nor messages"},
		{`[]`, ``, "neither a query nor messages"},
		{`{}`, ``, "messages can't be a JSON object"},
		{`[{"content":"x"}]`, ``, "messages[0]: role is missing"},
		{`[{"role":"boss","content":"x"}]`, ``, `messages[0]: role "boss" is not one of`},
		{`[{"role":"user","content":7}]`, ``, "content can't be a JSON number"},
		{`[{"role":"user","content":[{"type":"video"}]}]`, ``, `content[0]: type "video" is not known`},
		{`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]`, ``, "neither an http nor a data URL"},
		{`[{"role":"user","content":[{"type":"image_url","image_url":"data:image/png,x"}]}]`, ``, "must be base64"},
		{`[{"role":"user","content":[{"type":"image_url","image_url":"data:image/png;base64,%%"}]}]`, ``, "image_url can't be read"},
		{`[{"role":"tool","content":"x"}]`, ``, "needs tool_call_id"},
		{`[{"role":"user","content":"x"}]`, `[]`, "params can't be a JSON array"},
		{`[{"role":"user","content":"x"}]`, `{"temperature":"hot"}`, "temperature can't be a JSON string"},
		{`[{"role":"user","content":"x"}]`, `{"max_tokens":-1}`, "max_tokens is negative"},
		{`[{"role":"user","content":"x"}]`, `{"tools":[{"type":"function","function":{}}]}`, "tools[0] is not a function with a name"},
		{`[{"role":"user","content":"x"}]`, `{"tool_choice":"maybe"}`, "tool_choice is not"},
		{`[{"role":"user","content":"x"}]`, `{"options":3}`, "options can't be a JSON number"},
		{`[{"role":"user","content":"x"}]`, `{"stop":{"a":1}}`, "stop can't be a JSON object"},
	} {
		_, err := requestOf(job.Job{Messages: json.RawMessage(tt.messages), Params: json.RawMessage(tt.params)})
		e := sdk.AsError(err)
		if e == nil || e.Kind != sdk.Invalid || e.Fault != sdk.Caller || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s %s: error %v, want %q", tt.messages, tt.params, err, tt.want)
		}
	}
}

func FuzzRequestOf(f *testing.F) {
	f.Add([]byte(`[{"role":"user","content":"x"}]`), []byte(`{"temperature":1,"stop":"x"}`))
	f.Add([]byte(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AQI="}}]}]`), []byte(`null`))
	f.Add([]byte(`[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}]`), []byte(`{"tools":[{"function":{"name":"f"}}],"tool_choice":{"function":{"name":"f"}}}`))
	f.Fuzz(func(t *testing.T, messages, params []byte) {
		req, err := requestOf(job.Job{Messages: messages, Params: params})
		if (req == nil) == (err == nil) {
			t.Fatalf("request %v and error %v", req, err)
		}
		if err != nil {
			if e := sdk.AsError(err); e.Kind != sdk.Invalid || e.Fault != sdk.Caller {
				t.Errorf("bad input is %s, the fault of %s: %v", e.Kind, e.Fault, err)
			}
			return
		}
		for _, m := range req.Messages {
			for _, p := range m.Parts {
				if p == nil {
					t.Error("a part is nil")
				}
			}
		}
		if _, err := req.MarshalBinary(); err != nil && json.Valid(params) && json.Valid(messages) {
			t.Logf("not encodable: %v", err)
		}
	})
}
