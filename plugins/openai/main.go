// Command openai is a provider plugin for every server that speaks OpenAI's Chat Completions:
// OpenAI itself, vLLM, Groq, Together, DeepSeek, OpenRouter, xAI, Mistral, LM Studio, Ollama's /v1
// and others. Settings, from the manifest:
//
//	base_url          where the server is; a trailing /v1 may be there or not
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
	"encoding/json"
	"io"
	"strings"

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
	BaseURL        string `json:"base_url"`
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
	if err := s.Decode(&v); err != nil {
		return v, err
	}
	if v.BaseURL == "" {
		v.BaseURL = defaultBase
	}
	if v.Path == "" {
		v.Path = defaultPath
	}
	scheme, rest, _ := strings.Cut(v.BaseURL, "://") // net/url would be a tenth of the guest's size
	host, _, _ := strings.Cut(rest, "/")
	if host == "" || scheme != "https" && scheme != "http" {
		return v, &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host, Message: "setting base_url " + quote(v.BaseURL) + " is not an http or https URL; write one such as " + defaultBase}
	}
	if v.MaxTokensField == "" {
		v.MaxTokensField = "max_tokens"
		if v.isOpenAI() {
			v.MaxTokensField = "max_completion_tokens"
		}
	}
	return v, nil
}

// url of an endpoint: a base that already names the version is not given it twice.
func (s settings) url(path string) string {
	base := strings.TrimSuffix(s.BaseURL, "/")
	if strings.HasSuffix(base, "/v1") {
		path = strings.TrimPrefix(path, "/v1")
	}
	return base + path
}

func (s settings) isOpenAI() bool {
	return s.BaseURL == defaultBase || strings.HasPrefix(s.BaseURL, defaultBase+"/")
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return s
	}
	return string(b)
}

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
	err = sdk.PostSSE(ctx, sdk.HTTPRequest{URL: set.url(set.Path), Header: auth, Body: body}, answer.event)
	return answer.end(err)
}

func listModels(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
	set, err := readSettings(s)
	if err != nil {
		return nil, err
	}
	resp, err := sdk.Do(ctx, sdk.HTTPRequest{URL: set.url("/v1/models"), Header: auth})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, &sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream, Message: "the list of models is not the JSON it should be"}
	}
	found := make([]sdk.Model, 0, len(list.Data))
	for _, m := range list.Data {
		known, _ := (&sdk.Provider{Models: models}).Model(m.ID)
		known.Name = m.ID
		found = append(found, known)
	}
	return found, nil
}
