package host

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// requestOf makes a job into what a provider is asked: its messages, or its
// query as the only one. The messages and parameters are in the shape of
// OpenAI's Chat Completions; a parameter that is not one of its common ones is
// passed through as a provider option, as are the members of params.options, and
// the job's context under "context". Errors are the caller's fault.
func requestOf(j job.Job) (*sdk.Request, error) {
	req := &sdk.Request{JobID: j.ID, User: j.User}
	if err := readParams(j.Params, req); err != nil {
		return nil, err
	}
	if len(j.Context) > 0 && string(j.Context) != "null" {
		if req.Options == nil {
			req.Options = map[string]json.RawMessage{}
		}
		req.Options["context"] = j.Context
	}
	if len(j.Messages) > 0 && string(j.Messages) != "null" {
		var wire []wireMessage
		if err := json.Unmarshal(j.Messages, &wire); err != nil {
			return nil, badField("messages", err)
		}
		for i, m := range wire {
			msg, err := m.message()
			if err != nil {
				return nil, sdk.Errorf(sdk.Invalid, "messages[%d]: %w", i, err)
			}
			req.Messages = append(req.Messages, msg)
		}
	}
	if len(req.Messages) == 0 && j.Query != "" {
		req.Messages = append(req.Messages, sdk.Message{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(j.Query)}})
	}
	if len(req.Messages) == 0 {
		return nil, sdk.Errorf(sdk.Invalid, "the job has neither a query nor messages")
	}
	return req, nil
}

// badField reports a value of the wrong shape without quoting it.
func badField(name string, err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field != "" {
			name += "." + wrong.Field
		}
		return sdk.Errorf(sdk.Invalid, "%s can't be a JSON %s", name, wrong.Value)
	}
	return sdk.Errorf(sdk.Invalid, "%s can't be read", name)
}

// wireMessage is a message as OpenAI-style clients send it.
type wireMessage struct {
	Role       sdk.Role        `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	ToolCallID string          `json:"tool_call_id"`
	ToolCalls  []struct {
		ID       string `json:"id"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

// wirePart is one part of a message whose content is an array. The types
// reasoning and provider_data are ours: what a delta of an earlier turn said,
// given back.
type wirePart struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Signature string          `json:"signature"`
	ImageURL  json.RawMessage `json:"image_url"`
	DataType  string          `json:"dataType"`
	Data      json.RawMessage `json:"data"`
}

func (m wireMessage) message() (sdk.Message, error) {
	out := sdk.Message{Role: m.Role}
	switch m.Role {
	case sdk.RoleSystem, sdk.RoleDeveloper, sdk.RoleUser, sdk.RoleAssistant, sdk.RoleTool:
	case "":
		return out, sdk.Errorf(sdk.Invalid, "role is missing")
	default:
		return out, sdk.Errorf(sdk.Invalid, "role %.20q is not one of system, developer, user, assistant, tool", string(m.Role))
	}
	parts, err := contentOf(m.Content)
	if err != nil {
		return out, err
	}
	if m.Role == sdk.RoleTool {
		if m.ToolCallID == "" {
			return out, sdk.Errorf(sdk.Invalid, "a tool message needs tool_call_id")
		}
		out.Parts = []sdk.Part{sdk.ToolResultPart{ID: m.ToolCallID, Name: m.Name, Content: sdk.Message{Parts: parts}.Text()}}
		return out, nil
	}
	out.Parts = parts
	for _, c := range m.ToolCalls {
		out.Parts = append(out.Parts, sdk.ToolCallPart{ID: c.ID, Name: c.Function.Name, Arguments: c.Function.Arguments})
	}
	return out, nil
}

// contentOf reads content: absent, a string, or an array of parts.
func contentOf(raw json.RawMessage) ([]sdk.Part, error) {
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return nil, nil
	case raw[0] == '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, badField("content", err)
		}
		return []sdk.Part{sdk.TextPart(text)}, nil
	}
	var wire []wirePart
	if err := json.Unmarshal(raw, &wire); err != nil {
		return nil, badField("content", err)
	}
	parts := make([]sdk.Part, 0, len(wire))
	for i, p := range wire {
		switch p.Type {
		case "text", "input_text", "output_text":
			parts = append(parts, sdk.TextPart(p.Text))
		case "image_url", "input_image":
			img, err := imageOf(p.ImageURL)
			if err != nil {
				return nil, sdk.Errorf(sdk.Invalid, "content[%d]: %w", i, err)
			}
			parts = append(parts, img)
		case "reasoning":
			parts = append(parts, sdk.ReasoningPart{Text: p.Text, Signature: p.Signature})
		case "provider_data":
			parts = append(parts, sdk.ProviderDataPart{Type: p.DataType, Data: p.Data})
		default:
			return nil, sdk.Errorf(sdk.Invalid, "content[%d]: type %.40q is not known", i, p.Type)
		}
	}
	return parts, nil
}

// imageOf reads an image_url: a string or {url, detail}; a data: URL is decoded.
func imageOf(raw json.RawMessage) (sdk.ImagePart, error) {
	var v struct {
		URL    string `json:"url"`
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(raw, &v.URL); err != nil {
		if err := json.Unmarshal(raw, &v); err != nil {
			return sdk.ImagePart{}, badField("image_url", err)
		}
	}
	rest, isData := strings.CutPrefix(v.URL, "data:")
	if !isData {
		if !strings.HasPrefix(v.URL, "https://") && !strings.HasPrefix(v.URL, "http://") {
			return sdk.ImagePart{}, sdk.Errorf(sdk.Invalid, "image_url is neither an http nor a data URL")
		}
		return sdk.ImagePart{URL: v.URL, Detail: v.Detail}, nil
	}
	head, body, ok := strings.Cut(rest, ",")
	media, encoded := strings.CutSuffix(head, ";base64")
	if !ok || !encoded {
		return sdk.ImagePart{}, sdk.Errorf(sdk.Invalid, "image_url: a data URL must be base64")
	}
	data, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return sdk.ImagePart{}, badField("image_url", err)
	}
	return sdk.ImagePart{MediaType: media, Data: data, Detail: v.Detail}, nil
}

// readParams reads a job's params into req. Names not known here become options.
func readParams(raw json.RawMessage, req *sdk.Request) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return badField("params", err)
	}
	take := func(name string, into any) error {
		v, ok := all[name]
		delete(all, name)
		if !ok || string(v) == "null" {
			return nil
		}
		if err := json.Unmarshal(v, into); err != nil {
			return badField(name, err)
		}
		return nil
	}
	var stop, choice json.RawMessage
	var tools []wireTool
	var format *wireFormat
	for _, p := range []struct {
		name string
		into any
	}{
		{"temperature", &req.Temperature}, {"top_p", &req.TopP}, {"seed", &req.Seed},
		{"max_tokens", &req.MaxTokens}, {"max_completion_tokens", &req.MaxTokens},
		{"stop", &stop}, {"tools", &tools}, {"tool_choice", &choice}, {"response_format", &format},
	} {
		if err := take(p.name, p.into); err != nil {
			return err
		}
	}
	if req.MaxTokens < 0 {
		return sdk.Errorf(sdk.Invalid, "max_tokens is negative")
	}
	if err := readStop(stop, req); err != nil {
		return err
	}
	for i, t := range tools {
		if t.Type != "function" && t.Type != "" || t.Function.Name == "" {
			return sdk.Errorf(sdk.Invalid, "tools[%d] is not a function with a name", i)
		}
		req.Tools = append(req.Tools, sdk.Tool{Name: t.Function.Name, Description: t.Function.Description, Parameters: t.Function.Parameters, Strict: t.Function.Strict})
	}
	if err := readToolChoice(choice, req); err != nil {
		return err
	}
	if format != nil {
		req.ResponseFormat = &sdk.ResponseFormat{Type: format.Type, Name: format.Schema.Name, Schema: format.Schema.Schema, Strict: format.Schema.Strict}
	}
	return readOptions(all, req)
}

// readOptions takes what params holds beyond the common parameters as provider
// options, and the members of its object "options", which say so explicitly
// and so come first.
func readOptions(rest map[string]json.RawMessage, req *sdk.Request) error {
	var explicit map[string]json.RawMessage
	if raw, ok := rest["options"]; ok {
		if err := json.Unmarshal(raw, &explicit); err != nil {
			return badField("options", err)
		}
		delete(rest, "options")
	}
	maps.Copy(rest, explicit)
	if len(rest) > 0 {
		req.Options = rest
	}
	return nil
}

type wireTool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
		Strict      bool            `json:"strict"`
	} `json:"function"`
}

type wireFormat struct {
	Type   string `json:"type"`
	Schema struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
		Strict bool            `json:"strict"`
	} `json:"json_schema"`
}

// readStop takes one stop sequence or a list of them.
func readStop(raw json.RawMessage, req *sdk.Request) error {
	if raw == nil {
		return nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		req.Stop = []string{one}
		return nil
	}
	if err := json.Unmarshal(raw, &req.Stop); err != nil {
		return badField("stop", err)
	}
	return nil
}

// readToolChoice takes a mode, or {type:"function", function:{name}}.
func readToolChoice(raw json.RawMessage, req *sdk.Request) error {
	if raw == nil {
		return nil
	}
	if json.Unmarshal(raw, &req.ToolChoice.Mode) == nil {
		switch req.ToolChoice.Mode {
		case "auto", "none", "required":
			return nil
		}
		return sdk.Errorf(sdk.Invalid, "tool_choice is not auto, none, required or a function")
	}
	var v struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if err := json.Unmarshal(raw, &v); err != nil || v.Function.Name == "" {
		return sdk.Errorf(sdk.Invalid, "tool_choice is not auto, none, required or a function")
	}
	req.ToolChoice = sdk.ToolChoice{Mode: "tool", Name: v.Function.Name}
	return nil
}
