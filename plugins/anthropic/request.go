package main

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// blockData is the type of provider data that is a content block.
const blockData = "anthropic.block"

// reserved are the members of the body that a caller's options can't set.
var reserved = map[string]bool{
	"model": true, "messages": true, "stream": true,
	"context": true, // the job's own, not the upstream's
}

// requestBody makes the body of a streaming message. A seed is left out: the API has none.
func requestBody(req *sdk.Request, set settings) ([]byte, error) {
	body := make(map[string]any, 16)
	for name, v := range req.Options {
		if !reserved[name] {
			body[name] = v
		}
	}
	body["model"] = req.Model
	body["stream"] = true
	system, messages, err := conversation(req)
	if err != nil {
		return nil, err
	}
	body["messages"] = messages
	if system != "" {
		body["system"] = system
	}
	switch {
	case req.MaxTokens > 0:
		body["max_tokens"] = req.MaxTokens
	case body["max_tokens"] == nil:
		if body["max_tokens"], err = defaultLimit(req, set); err != nil {
			return nil, err
		}
	}
	if req.Prefix != "" {
		delete(body, "thinking") // an answer that has begun is not continued with thinking
	}
	if req.Temperature != nil {
		body["temperature"] = *req.Temperature
	}
	if req.TopP != nil {
		body["top_p"] = *req.TopP
	}
	if len(req.Stop) > 0 {
		body["stop_sequences"] = req.Stop
	}
	if req.User != "" && set.isAnthropic() {
		body["metadata"] = map[string]string{"user_id": req.User}
	}
	if len(req.Tools) > 0 {
		if body["tools"], err = toolsOf(req); err != nil {
			return nil, err
		}
	}
	switch c := req.ToolChoice; c.Mode {
	case "":
	case "required":
		body["tool_choice"] = map[string]string{"type": "any"}
	case "tool":
		body["tool_choice"] = map[string]string{"type": "tool", "name": c.Name}
	default:
		body["tool_choice"] = map[string]string{"type": c.Mode}
	}
	if f := req.ResponseFormat; f != nil && f.Type != "text" {
		if body["output_config"], err = outputOf(req, f); err != nil {
			return nil, err
		}
	}
	return sdk.JSON(body), nil
}

// defaultLimit is max_tokens for a caller who names none. What the model may think counts in, so it
// is added, and there is room for an answer whatever the budget.
func defaultLimit(req *sdk.Request, set settings) (int, error) {
	var thinking struct {
		Budget int `json:"budget_tokens"`
	}
	if _, err := req.Option("thinking", &thinking); err != nil {
		return 0, err
	}
	return set.MaxTokens + min(max(thinking.Budget, 0), 1<<24), nil
}

// toolsOf lists the caller's functions, and after them the server's tools that the options name.
func toolsOf(req *sdk.Request) ([]any, error) {
	var servers []json.RawMessage
	if _, err := req.Option("tools", &servers); err != nil {
		return nil, err
	}
	out := make([]any, 0, len(req.Tools)+len(servers))
	for _, t := range req.Tools {
		tool := map[string]any{"name": t.Name, "input_schema": t.Parameters}
		if len(t.Parameters) == 0 {
			tool["input_schema"] = map[string]string{"type": "object"} // required by the API
		}
		if t.Description != "" {
			tool["description"] = t.Description
		}
		if t.Strict {
			tool["strict"] = true
		}
		out = append(out, tool)
	}
	for _, t := range servers {
		out = append(out, t)
	}
	return out, nil
}

// outputOf is output_config, with what the options have in it besides. Its format replaced the beta's
// output_format and wants no beta header. The API keeps to a schema or to nothing: there is no JSON
// without one.
func outputOf(req *sdk.Request, f *sdk.ResponseFormat) (map[string]json.RawMessage, error) {
	if f.Type != "json_schema" || len(f.Schema) == 0 {
		return nil, sdk.Errorf(sdk.Invalid, "response_format %s: the Messages API knows only json_schema, with a schema", f.Type)
	}
	var besides map[string]json.RawMessage
	if _, err := req.Option("output_config", &besides); err != nil {
		return nil, err
	}
	config := map[string]json.RawMessage{"format": sdk.JSON(map[string]any{"type": f.Type, "schema": f.Schema})}
	for name, v := range besides {
		if name != "format" {
			config[name] = v
		}
	}
	return config, nil
}

// turn is one message of the body.
type turn struct {
	Role    sdk.Role `json:"role"`
	Content []any    `json:"content"` // blocks
}

// block is one of the content of a message.
type block map[string]any

// conversation translates the messages. The system's have a place of their own, wherever they stood;
// the newest models would take them in between, the others refuse that. Tool results are the user's,
// and messages of one side that follow each other become one, so that the results of calls made
// together stay together. The answer so far, if there is one, is the start of a last message of the
// assistant's.
func conversation(req *sdk.Request) (system string, turns []turn, err error) {
	add := func(role sdk.Role, blocks ...any) {
		if n := len(turns); n > 0 && turns[n-1].Role == role {
			turns[n-1].Content = append(turns[n-1].Content, blocks...)
		} else if len(blocks) > 0 {
			turns = append(turns, turn{role, blocks})
		}
	}
	for _, m := range req.Messages {
		switch m.Role {
		case sdk.RoleSystem, sdk.RoleDeveloper:
			if system != "" {
				system += "\n\n"
			}
			system += m.Text()
		default:
			blocks, err := blocksOf(m)
			if err != nil {
				return "", nil, err
			}
			if m.Role == sdk.RoleTool {
				m.Role = sdk.RoleUser
			}
			add(m.Role, blocks...)
		}
	}
	if len(turns) == 0 {
		return "", nil, sdk.Errorf(sdk.Invalid, "the request has no messages but the system's")
	}
	if prefix, _ := cutPrefix(req.Prefix); prefix != "" {
		add(sdk.RoleAssistant, block{"type": "text", "text": prefix})
	}
	return system, turns, nil
}

// cutPrefix takes the space off the end of the answer so far, with which the API refuses it.
func cutPrefix(prefix string) (text, space string) {
	text = strings.TrimRight(prefix, " \t\r\n")
	return text, prefix[len(text):]
}

// blocksOf are the content blocks of a message. The results of tools come first, as they must. Text
// of nothing but space is left out, as the API refuses it, and so is thinking without its signature.
func blocksOf(m sdk.Message) ([]any, error) {
	var results, blocks []any
	var thinking string
	for _, part := range m.Parts {
		if _, ok := part.(sdk.ReasoningPart); !ok {
			thinking = "" // it was never signed
		}
		switch p := part.(type) {
		case sdk.TextPart:
			if strings.TrimSpace(string(p)) != "" {
				blocks = append(blocks, block{"type": "text", "text": string(p)})
			}
		case sdk.ImagePart:
			blocks = append(blocks, block{"type": "image", "source": imageOf(p)})
		case sdk.ToolCallPart:
			input, ok := object(p.Arguments)
			if !ok {
				return nil, sdk.Errorf(sdk.Invalid, "the arguments of tool call %s are not a JSON object", p.ID)
			}
			blocks = append(blocks, block{"type": "tool_use", "id": p.ID, "name": p.Name, "input": input})
		case sdk.ToolResultPart:
			result := block{"type": "tool_result", "tool_use_id": p.ID, "content": p.Content}
			if p.IsError {
				result["is_error"] = true
			}
			results = append(results, result)
		case sdk.ReasoningPart: // a block may come in the pieces it was streamed in
			thinking += p.Text
			if p.Signature != "" {
				blocks = append(blocks, block{"type": "thinking", "thinking": thinking, "signature": p.Signature})
				thinking = ""
			}
		case sdk.ProviderDataPart:
			if p.Type != blockData {
				continue // another provider's
			}
			data, ok := object(string(p.Data))
			if !ok {
				return nil, sdk.Errorf(sdk.Invalid, "provider data %s is not a JSON object", p.Type)
			}
			blocks = append(blocks, data)
		}
	}
	return slices.Concat(results, blocks), nil
}

// object is the JSON object in text, an empty one for no text.
func object(text string) (json.RawMessage, bool) {
	text = strings.TrimSpace(text)
	if text == "" {
		return json.RawMessage("{}"), true
	}
	return json.RawMessage(text), text[0] == '{' && json.Valid([]byte(text))
}

func imageOf(p sdk.ImagePart) map[string]any {
	if len(p.Data) == 0 {
		return map[string]any{"type": "url", "url": p.URL}
	}
	media := p.MediaType
	if media == "" {
		media = "image/png"
	}
	return map[string]any{"type": "base64", "media_type": media, "data": p.Data} // []byte is base64 in JSON
}
