package main

import (
	"encoding/base64"

	"github.com/sluicehq/sluice/sdk"
)

// reserved are the members of the body that a caller's options can't set.
var reserved = map[string]bool{
	"model": true, "messages": true, "stream": true, "stream_options": true, "n": true,
	"context": true, // the job's own, not the upstream's
}

// requestBody makes the body of a streaming chat completion.
func requestBody(req *sdk.Request, set settings) ([]byte, error) {
	body := make(map[string]any, 16)
	for name, v := range req.Options {
		if !reserved[name] {
			body[name] = v
		}
	}
	body["model"] = req.Model
	body["stream"] = true
	if set.IncludeUsage == nil || *set.IncludeUsage {
		options := map[string]bool{"include_usage": true}
		if set.isOpenAI() {
			options["include_obfuscation"] = false // padding; compatible servers may refuse the field
		}
		body["stream_options"] = options
	}
	messages, err := messagesOf(req)
	if err != nil {
		return nil, err
	}
	body["messages"] = messages
	if req.Temperature != nil {
		body["temperature"] = *req.Temperature
	}
	if req.TopP != nil {
		body["top_p"] = *req.TopP
	}
	if req.MaxTokens > 0 {
		body[set.MaxTokensField] = req.MaxTokens
	}
	if len(req.Stop) > 0 {
		body["stop"] = req.Stop
	}
	if req.Seed != nil {
		body["seed"] = *req.Seed
	}
	if req.User != "" && set.isOpenAI() {
		body["user"] = req.User
	}
	if len(req.Tools) > 0 {
		body["tools"] = toolsOf(req.Tools)
	}
	switch c := req.ToolChoice; c.Mode {
	case "":
	case "tool":
		body["tool_choice"] = map[string]any{"type": "function", "function": map[string]string{"name": c.Name}}
	default:
		body["tool_choice"] = c.Mode
	}
	if f := req.ResponseFormat; f != nil {
		body["response_format"] = formatOf(f)
	}
	return sdk.JSON(body), nil
}

func toolsOf(tools []sdk.Tool) []any {
	out := make([]any, len(tools))
	for i, t := range tools {
		f := map[string]any{"name": t.Name}
		if t.Description != "" {
			f["description"] = t.Description
		}
		if len(t.Parameters) > 0 {
			f["parameters"] = t.Parameters
		}
		if t.Strict {
			f["strict"] = true
		}
		out[i] = map[string]any{"type": "function", "function": f}
	}
	return out
}

func formatOf(f *sdk.ResponseFormat) map[string]any {
	if f.Type != "json_schema" {
		return map[string]any{"type": f.Type}
	}
	name := f.Name
	if name == "" {
		name = "answer" // required by the API
	}
	return map[string]any{"type": f.Type, "json_schema": map[string]any{"name": name, "schema": f.Schema, "strict": f.Strict}}
}

// message is one message of the body. Content is nil, a string or a list of parts.
type message struct {
	Role       sdk.Role `json:"role"`
	Content    any      `json:"content"`
	ToolCallID string   `json:"tool_call_id,omitempty"`
	ToolCalls  []call   `json:"tool_calls,omitempty"`
}

type call struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type function struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// messagesOf translates the conversation. Tool results become messages of their own, whatever
// message they stand in. Reasoning and provider data have no place in this dialect and are left out.
// The answer so far, if there is one, is the start of a last message of the assistant's.
func messagesOf(req *sdk.Request) ([]message, error) {
	out := make([]message, 0, len(req.Messages)+1)
	for _, m := range req.Messages {
		msg := message{Role: m.Role}
		var parts []any
		var text string
		onlyText := true
		for _, p := range m.Parts {
			switch p := p.(type) {
			case sdk.TextPart:
				text += string(p)
				parts = append(parts, map[string]any{"type": "text", "text": string(p)})
			case sdk.ImagePart:
				onlyText = false
				parts = append(parts, map[string]any{"type": "image_url", "image_url": imageOf(p)})
			case sdk.ToolCallPart:
				msg.ToolCalls = append(msg.ToolCalls, call{ID: p.ID, Type: "function", Function: function{p.Name, p.Arguments}})
			case sdk.ToolResultPart:
				out = append(out, message{Role: sdk.RoleTool, ToolCallID: p.ID, Content: p.Content})
			}
		}
		switch {
		case !onlyText:
			msg.Content = parts
		case text != "":
			msg.Content = text
		case len(msg.ToolCalls) > 0:
		case len(m.Parts) == 0 && m.Role != sdk.RoleTool:
			msg.Content = ""
		default:
			continue // nothing of it is left
		}
		out = append(out, msg)
	}
	if len(out) == 0 {
		return nil, sdk.Errorf(sdk.Invalid, "the request has no messages")
	}
	if req.Prefix != "" {
		out = append(out, message{Role: sdk.RoleAssistant, Content: req.Prefix})
	}
	return out, nil
}

func imageOf(p sdk.ImagePart) map[string]string {
	img := map[string]string{"url": p.URL}
	if len(p.Data) > 0 {
		media := p.MediaType
		if media == "" {
			media = "image/png"
		}
		img["url"] = "data:" + media + ";base64," + base64.StdEncoding.EncodeToString(p.Data)
	}
	if p.Detail != "" {
		img["detail"] = p.Detail
	}
	return img
}
