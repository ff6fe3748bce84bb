package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/sdk"
)

// wantBody compares the body of a request.
func wantBody(t *testing.T, req *sdk.Request, want string) {
	t.Helper()
	body, err := requestBody(req)
	if err != nil {
		t.Fatal(err)
	}
	var a, b map[string]any
	if err := json.Unmarshal([]byte(want), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func options(members string) map[string]json.RawMessage {
	var v map[string]json.RawMessage
	if err := json.Unmarshal([]byte(members), &v); err != nil {
		panic(err)
	}
	return v
}

func asked(parts ...sdk.Part) sdk.Message { return sdk.Message{Role: sdk.RoleUser, Parts: parts} }

func answered(parts ...sdk.Part) sdk.Message {
	return sdk.Message{Role: sdk.RoleAssistant, Parts: parts}
}

func TestRequestBody(t *testing.T) {
	temperature, topP, seed := 0.5, 0.9, int64(7)
	wantBody(t, &sdk.Request{
		Model: "gemini-2.5-pro",
		Messages: []sdk.Message{
			{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("be "), sdk.TextPart("brief")}},
			asked(sdk.TextPart("what is it?"), sdk.ImagePart{MediaType: "image/gif", Data: []byte("GIF"), Detail: "low"}, sdk.ImagePart{Data: []byte("PNG")}, sdk.ImagePart{URL: "https://x.example/a.webp"}),
			{Role: sdk.RoleDeveloper, Parts: []sdk.Part{sdk.TextPart("and kind")}},
		},
		Tools: []sdk.Tool{
			{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object","additionalProperties":false}`), Strict: true},
			{Name: "g"},
		},
		ToolChoice:     sdk.ToolChoice{Mode: "tool", Name: "f"},
		ResponseFormat: &sdk.ResponseFormat{Type: "json_schema", Name: "n", Schema: json.RawMessage(`{"type":"object"}`)},
		Temperature:    &temperature, TopP: &topP, Seed: &seed, MaxTokens: 9, Stop: []string{"END"}, User: "u",
		Prefix: "It is",
	}, `{
		"systemInstruction": {"parts": [{"text": "be brief"}, {"text": "and kind"}]},
		"contents": [
			{"role": "user", "parts": [
				{"text": "what is it?"}, {"inlineData": {"mimeType": "image/gif", "data": "R0lG"}},
				{"inlineData": {"mimeType": "image/png", "data": "UE5H"}}, {"fileData": {"fileUri": "https://x.example/a.webp"}}
			]},
			{"role": "model", "parts": [{"text": "It is"}]}
		],
		"tools": [{"functionDeclarations": [
			{"name": "f", "description": "d", "parametersJsonSchema": {"type": "object", "additionalProperties": false}},
			{"name": "g"}
		]}],
		"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
		"generationConfig": {
			"temperature": 0.5, "topP": 0.9, "seed": 7, "maxOutputTokens": 9, "stopSequences": ["END"],
			"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}
		}
	}`)
}

func TestOptions(t *testing.T) {
	wantBody(t, &sdk.Request{
		Messages: []sdk.Message{asked(sdk.TextPart("hi"))}, MaxTokens: 9,
		Tools: []sdk.Tool{{Name: "f"}}, ToolChoice: sdk.ToolChoice{Mode: "auto"}, ResponseFormat: &sdk.ResponseFormat{Type: "text"},
		Options: options(`{
			"safetySettings": [{"category": "x"}], "cachedContent": "cachedContents/1", "tools": [{"googleSearch": {}}],
			"toolConfig": {"retrievalConfig": {"languageCode": "de"}, "functionCallingConfig": {"mode": "NONE"}},
			"generationConfig": {"topK": 3, "maxOutputTokens": 100, "candidateCount": 2, "thinkingConfig": {"thinkingBudget": 0}},
			"thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": true},
			"contents": [], "systemInstruction": {"parts": []}, "model": "other", "messages": [], "stream": false, "stream_options": {}, "n": 2, "context": {}
		}`),
	}, `{
		"contents": [{"role": "user", "parts": [{"text": "hi"}]}],
		"safetySettings": [{"category": "x"}], "cachedContent": "cachedContents/1",
		"tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f"}]}],
		"toolConfig": {"retrievalConfig": {"languageCode": "de"}, "functionCallingConfig": {"mode": "AUTO"}},
		"generationConfig": {"topK": 3, "maxOutputTokens": 9, "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": true}}
	}`)
	wantBody(t, &sdk.Request{Messages: []sdk.Message{asked(sdk.TextPart("hi"))}, Options: options(`{"tools": [{"googleSearch": {}}], "generationConfig": null}`)}, `{
		"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "tools": [{"googleSearch": {}}]
	}`)
}

func TestToolChoice(t *testing.T) {
	for mode, want := range map[string]string{"auto": "AUTO", "none": "NONE", "required": "ANY"} {
		wantBody(t, &sdk.Request{Messages: []sdk.Message{asked(sdk.TextPart("hi"))}, ToolChoice: sdk.ToolChoice{Mode: mode}}, `{
			"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "toolConfig": {"functionCallingConfig": {"mode": "`+want+`"}}
		}`)
	}
}

func TestJSONWithoutASchema(t *testing.T) {
	wantBody(t, &sdk.Request{Messages: []sdk.Message{asked(sdk.TextPart("hi"))}, ResponseFormat: &sdk.ResponseFormat{Type: "json_object"}}, `{
		"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"responseMimeType": "application/json"}
	}`)
}

// The results of calls that were made together come together and by name; ids that this plugin made
// stay with it.
func TestToolResults(t *testing.T) {
	ours := ourID("job", 0)
	wantBody(t, &sdk.Request{Model: "gemini-2.5-pro", Messages: []sdk.Message{
		asked(sdk.TextPart("hi")),
		answered(sdk.TextPart("a moment"), sdk.ToolCallPart{ID: "a", Name: "look", Arguments: ` {"at":"Köln"}`}, sdk.ToolCallPart{ID: ours, Name: "wait"}),
		{Role: sdk.RoleTool, Parts: []sdk.Part{sdk.ToolResultPart{ID: "a", Content: `{"n":12345678901234567890}`}}},
		{Role: sdk.RoleTool, Parts: []sdk.Part{sdk.ToolResultPart{ID: ours, Name: "not so", Content: "done"}}},
		answered(sdk.ToolCallPart{ID: "b", Name: "look", Arguments: "{}"}),
		asked(sdk.ToolResultPart{ID: "b", Content: "no such place", IsError: true}, sdk.ToolResultPart{ID: "before", Name: "old", Content: "[1]"}, sdk.TextPart("well?")),
	}}, `{"contents": [
		{"role": "user", "parts": [{"text": "hi"}]},
		{"role": "model", "parts": [{"text": "a moment"}, {"functionCall": {"id": "a", "name": "look", "args": {"at": "Köln"}}}, {"functionCall": {"name": "wait"}}]},
		{"role": "user", "parts": [
			{"functionResponse": {"id": "a", "name": "look", "response": {"n": 12345678901234567890}}},
			{"functionResponse": {"name": "wait", "response": {"output": "done"}}}
		]},
		{"role": "model", "parts": [{"functionCall": {"id": "b", "name": "look", "args": {}}}]},
		{"role": "user", "parts": [
			{"functionResponse": {"id": "b", "name": "look", "response": {"error": "no such place"}}},
			{"functionResponse": {"id": "before", "name": "old", "response": {"output": "[1]"}}}
		]},
		{"role": "user", "parts": [{"text": "well?"}]}
	]}`)
}

func signed(s signature) sdk.Part {
	return sdk.ProviderDataPart{Type: signatureType, Data: sdk.JSON(s)}
}

// Signatures stand at what they came with, wherever the client puts them.
func TestSignatures(t *testing.T) {
	talk := func(model string) *sdk.Request {
		return &sdk.Request{Model: model, Messages: []sdk.Message{
			asked(sdk.TextPart("hi")),
			answered(
				sdk.ReasoningPart{Text: "Hm"}, sdk.ReasoningPart{Text: "."}, signed(signature{Thought: true, Signature: "s0"}), signed(signature{Thought: true, Signature: "t0"}),
				sdk.TextPart(""), sdk.TextPart("A moment."), signed(signature{Signature: "s1"}), signed(signature{Signature: "s2"}),
				signed(signature{Call: "a", Signature: "s3"}),
				sdk.ToolCallPart{ID: "a", Name: "look"}, sdk.ToolCallPart{ID: "b", Name: "look"}, signed(signature{Signature: "t3"}),
			),
			asked(sdk.ToolResultPart{ID: "a"}, sdk.ToolResultPart{ID: "b"}),
			answered(sdk.ToolCallPart{ID: "c", Name: "look"}, signed(signature{Call: "c", Signature: "s4"})),
			asked(sdk.ToolResultPart{ID: "c"}),
			answered(sdk.ReasoningPart{Text: "of another", Signature: "theirs"}, sdk.ProviderDataPart{Type: "other", Data: json.RawMessage(`7`)},
				sdk.ToolCallPart{ID: "d", Name: "look"}, sdk.ToolCallPart{ID: "e", Name: "look"}),
			asked(sdk.ToolResultPart{ID: "d"}, sdk.ToolResultPart{ID: "e"}),
			answered(signed(signature{Signature: "s5"})),
			answered(sdk.ImagePart{Data: []byte("PNG")}, signed(signature{Signature: "s6"})),
		}}
	}
	const want = `{"contents": [
		{"role": "user", "parts": [{"text": "hi"}]},
		{"role": "model", "parts": [
			{"text": "Hm.", "thought": true, "thoughtSignature": "s0"}, {"text": "", "thought": true, "thoughtSignature": "t0"},
			{"text": "A moment.", "thoughtSignature": "s1"}, {"text": "", "thoughtSignature": "s2"},
			{"functionCall": {"id": "a", "name": "look"}, "thoughtSignature": "s3"}, {"functionCall": {"id": "b", "name": "look"}},
			{"text": "", "thoughtSignature": "t3"}
		]},
		{"role": "user", "parts": [{"functionResponse": {"id": "a", "name": "look", "response": {"output": ""}}}, {"functionResponse": {"id": "b", "name": "look", "response": {"output": ""}}}]},
		{"role": "model", "parts": [{"functionCall": {"id": "c", "name": "look"}, "thoughtSignature": "s4"}]},
		{"role": "user", "parts": [{"functionResponse": {"id": "c", "name": "look", "response": {"output": ""}}}]},
		{"role": "model", "parts": [{"functionCall": {"id": "d", "name": "look"}%s}, {"functionCall": {"id": "e", "name": "look"}}]},
		{"role": "user", "parts": [{"functionResponse": {"id": "d", "name": "look", "response": {"output": ""}}}, {"functionResponse": {"id": "e", "name": "look", "response": {"output": ""}}}]},
		{"role": "model", "parts": [{"text": "", "thoughtSignature": "s5"}]},
		{"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": "UE5H"}, "thoughtSignature": "s6"}]}
	]}`
	for model, standIn := range map[string]string{
		"gemini-2.5-pro": "", "gemini-2.0-flash": "", "gemma-3-27b-it": "",
		"gemini-3-pro-preview": `, "thoughtSignature": "skip_thought_signature_validator"`,
		"gemini-flash-latest":  `, "thoughtSignature": "skip_thought_signature_validator"`,
	} {
		t.Run(model, func(t *testing.T) { wantBody(t, talk(model), strings.Replace(want, "%s", standIn, 1)) })
	}
}

// What an answer said comes back in the next turn, each signature as it was and at its part.
func TestAnswerGoesBack(t *testing.T) {
	const said = `[
		{"text":"A moment.","thoughtSignature":"czE="},
		{"functionCall":{"name":"look","args":{"at":"Köln"}},"thoughtSignature":"czI+/w=="},
		{"functionCall":{"id":"fc-1","name":"look","args":{"at":"Bonn"}}}
	]`
	turn := sdk.Message{Role: sdk.RoleAssistant}
	s := stream{job: "job", emit: func(c sdk.Chunk) error {
		switch c := c.(type) {
		case sdk.Text:
			turn.Parts = append(turn.Parts, sdk.TextPart(c))
		case sdk.ToolCall:
			turn.Parts = append(turn.Parts, sdk.ToolCallPart{ID: c.ID, Name: c.Name, Arguments: c.Arguments})
		case sdk.ProviderData:
			turn.Parts = append(turn.Parts, sdk.ProviderDataPart(c))
		}
		return nil
	}}
	body := "data: " + strings.NewReplacer("\n", "", "\t", "").Replace(`{"candidates":[{"content":{"parts":`+said+`},"finishReason":"STOP"}]}`) + "\n\n"
	if err := s.end(sdk.ReadSSE(strings.NewReader(body), s.event)); err != nil {
		t.Fatal(err)
	}
	wantBody(t, &sdk.Request{Model: "gemini-3-pro", Messages: []sdk.Message{asked(sdk.TextPart("hi")), turn}},
		`{"contents": [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": `+said+`}]}`)
}

func TestRequestsThatAreRefused(t *testing.T) {
	hi := asked(sdk.TextPart("hi"))
	for name, req := range map[string]*sdk.Request{
		"no messages besides the system's": {Messages: []sdk.Message{{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart("be brief")}}}},
		"are not a JSON object":            {Messages: []sdk.Message{hi, answered(sdk.ToolCallPart{ID: "a", Name: "f", Arguments: `{"at":`})}},
		`"a" of "f" are not`:               {Messages: []sdk.Message{hi, answered(sdk.ToolCallPart{ID: "a", Name: "f", Arguments: `[1]`})}},
		`"b" belongs to no call`:           {Messages: []sdk.Message{hi, asked(sdk.ToolResultPart{ID: "b"})}},
		"is not what it was":               {Messages: []sdk.Message{hi, answered(sdk.ProviderDataPart{Type: signatureType, Data: json.RawMessage(`7`)})}},
		"option generationConfig":          {Messages: []sdk.Message{hi}, Options: options(`{"generationConfig": 7}`)},
		"option tools":                     {Messages: []sdk.Message{hi}, Tools: []sdk.Tool{{Name: "f"}}, Options: options(`{"tools": {}}`)},
		"option toolConfig":                {Messages: []sdk.Message{hi}, ToolChoice: sdk.ToolChoice{Mode: "auto"}, Options: options(`{"toolConfig": []}`)},
	} {
		_, err := requestBody(req)
		if e := sdk.AsError(err); e == nil || e.Kind != sdk.Invalid || e.Fault != sdk.Caller || !strings.Contains(e.Message, name) {
			t.Errorf("the error is %v, want one with %q", err, name)
		}
	}
}
