package main

import (
	"encoding/json"

	"github.com/sluicehq/sluice/sdk"
)

// reserved are the members of the body that a caller's options can't set, or not by themselves.
var reserved = map[string]bool{
	"contents": true, "systemInstruction": true, "generationConfig": true, "thinkingConfig": true,
	"model": true, "messages": true, "stream": true, "stream_options": true, "n": true, // of other dialects
	"context": true, // the job's own, not the upstream's
}

// requestBody makes a GenerateContentRequest.
func requestBody(req *sdk.Request) ([]byte, error) {
	body := make(map[string]any, 8)
	for name, v := range req.Options {
		if !reserved[name] {
			body[name] = v
		}
	}
	talk, err := conversationOf(req)
	if err != nil {
		return nil, err
	}
	body["contents"] = talk.contents
	if len(talk.system) > 0 {
		body["systemInstruction"] = content{Parts: talk.system}
	}
	if len(req.Tools) > 0 {
		var tools []json.RawMessage // such as {"googleSearch":{}}
		if _, err := req.Option("tools", &tools); err != nil {
			return nil, err
		}
		body["tools"] = append(tools, sdk.JSON(map[string]any{"functionDeclarations": declarationsOf(req.Tools)}))
	}
	if c := req.ToolChoice; c.Mode != "" {
		config, err := objectOption(req, "toolConfig")
		if err != nil {
			return nil, err
		}
		config["functionCallingConfig"] = sdk.JSON(choiceOf(c))
		body["toolConfig"] = config
	}
	config, err := generationConfig(req)
	if err != nil {
		return nil, err
	}
	if len(config) > 0 {
		body["generationConfig"] = config
	}
	return sdk.JSON(body), nil
}

// objectOption is an option of the caller's that is an object, an empty one when it isn't there.
func objectOption(req *sdk.Request, name string) (map[string]json.RawMessage, error) {
	var v map[string]json.RawMessage
	if _, err := req.Option(name, &v); err != nil {
		return nil, err
	}
	if v == nil {
		v = map[string]json.RawMessage{}
	}
	return v, nil
}

func generationConfig(req *sdk.Request) (map[string]json.RawMessage, error) {
	config, err := objectOption(req, "generationConfig")
	if err != nil {
		return nil, err
	}
	delete(config, "candidateCount") // there is one answer
	if thinking, ok := req.Options["thinkingConfig"]; ok {
		config["thinkingConfig"] = thinking
	}
	if req.Temperature != nil {
		config["temperature"] = sdk.JSON(*req.Temperature)
	}
	if req.TopP != nil {
		config["topP"] = sdk.JSON(*req.TopP)
	}
	if req.MaxTokens > 0 {
		config["maxOutputTokens"] = sdk.JSON(req.MaxTokens)
	}
	if len(req.Stop) > 0 {
		config["stopSequences"] = sdk.JSON(req.Stop)
	}
	if req.Seed != nil {
		config["seed"] = sdk.JSON(*req.Seed)
	}
	if f := req.ResponseFormat; f != nil && f.Type != "text" {
		config["responseMimeType"] = sdk.JSON("application/json")
		if len(f.Schema) > 0 {
			// responseSchema is for a dialect of OpenAPI and refuses JSON Schema's additionalProperties.
			config["responseJsonSchema"] = f.Schema
		}
	}
	return config, nil
}

func declarationsOf(tools []sdk.Tool) []any {
	out := make([]any, len(tools))
	for i, t := range tools {
		f := map[string]any{"name": t.Name}
		if t.Description != "" {
			f["description"] = t.Description
		}
		if len(t.Parameters) > 0 {
			f["parametersJsonSchema"] = t.Parameters // not parameters, for the reason above
		}
		out[i] = f
	}
	return out
}

func choiceOf(c sdk.ToolChoice) map[string]any {
	switch c.Mode {
	case "none":
		return map[string]any{"mode": "NONE"}
	case "required":
		return map[string]any{"mode": "ANY"}
	case "tool":
		return map[string]any{"mode": "ANY", "allowedFunctionNames": []string{c.Name}}
	}
	return map[string]any{"mode": "AUTO"}
}
