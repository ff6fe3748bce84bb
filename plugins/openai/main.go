// Command openai is a provider plugin for every server that speaks OpenAI's Chat Completions:
// OpenAI itself, vLLM, Groq, Together, DeepSeek, OpenRouter, xAI, Mistral, LM Studio, Ollama's /v1
// and others. Settings, from the manifest:
//
//	base_url          where the server is; a trailing /v1, or another version, may be there or not
//	path              of the endpoint below it, "/v1/chat/completions" when empty
//	max_tokens_field  "max_completion_tokens" or "max_tokens"; empty chooses by base_url
//	include_usage     ask for the usage at the end of the stream (a few old servers refuse to be asked)
//
// The key is the secret OPENAI_API_KEY, which the host puts into the Authorization header; a server
// that wants none is asked without. Options of the caller that aren't common parameters go into the
// request body as they are, so that a server's own extensions can be used.
//
// The wire format: https://platform.openai.com/docs/api-reference/chat/streaming, and where
// compatible servers deviate from it.
package main

import (
	"context"

	"github.com/sluicehq/sluice/sdk"
)

func init() { sdk.Register(provider) }

func main() { sdk.Main() }

var provider = sdk.Provider{
	Name:       "openai",
	Version:    "1.0.0",
	Models:     models,
	Generate:   generate,
	Check:      check,
	ListModels: listModels,
}

var models = []sdk.Model{
	{Name: "gpt-*", Tools: true, Vision: true, JSON: true},
	{Name: "chatgpt-*", Vision: true},
	{Name: "o1*", Tools: true, Vision: true, JSON: true, Reasoning: true},
	{Name: "o3*", Tools: true, Vision: true, JSON: true, Reasoning: true},
	{Name: "o4*", Tools: true, Vision: true, JSON: true, Reasoning: true},
	{Name: "*", Tools: true, JSON: true}, // a compatible server's own; the manifest says which
}

// settings are the operator's, see plugin.yaml.
type settings struct {
	base           sdk.BaseURL
	Path           string `json:"path"`
	MaxTokensField string `json:"max_tokens_field"`
	IncludeUsage   *bool  `json:"include_usage"`
}

const (
	defaultBase = "https://api.openai.com"
	defaultPath = "/v1/chat/completions"
)

func readSettings(s sdk.Settings) (settings, error) {
	var v settings
	err := s.Decode(&v)
	if err == nil {
		v.base, err = s.BaseURL("base_url", defaultBase)
	}
	if err != nil {
		return v, err
	}
	if v.Path == "" {
		v.Path = defaultPath
	}
	if v.MaxTokensField == "" {
		v.MaxTokensField = "max_tokens"
		if v.isOpenAI() {
			v.MaxTokensField = "max_completion_tokens"
		}
	}
	return v, nil
}

func (s settings) isOpenAI() bool { return s.base.Within(defaultBase) }

// auth is filled in by the host; this code never sees the key.
var auth = sdk.Header{"Authorization": "Bearer ${secret:OPENAI_API_KEY}"}

func check(_ context.Context, s sdk.Settings) error {
	_, err := readSettings(s)
	return err
}

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	set, err := readSettings(req.Settings)
	if err != nil {
		return err
	}
	body, err := requestBody(req, set)
	if err != nil {
		return err
	}
	answer := stream{emit: emit}
	err = sdk.PostSSE(ctx, sdk.HTTPRequest{URL: set.base.Join(set.Path), Header: auth, Body: body}, answer.event)
	return answer.end(err)
}

func listModels(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
	set, err := readSettings(s)
	if err != nil {
		return nil, err
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := sdk.DoJSON(ctx, sdk.HTTPRequest{URL: set.base.Join("/v1/models"), Header: auth}, &list); err != nil {
		return nil, err
	}
	found := make([]sdk.Model, len(list.Data))
	for i, m := range list.Data {
		found[i] = sdk.ModelNamed(models, m.ID)
	}
	return found, nil
}
