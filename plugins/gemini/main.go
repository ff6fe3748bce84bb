// Command gemini is a provider plugin for Google's Gemini API and for servers that speak its dialect,
// generateContent. One setting, from the manifest:
//
//	base_url  where the server is; /v1beta is added unless a version is there already
//
// The key is the secret GEMINI_API_KEY, which the host puts into the header x-goog-api-key; a server
// that wants none is asked without. Options of the caller that aren't common parameters go into the
// request body as they are, such as safetySettings, cachedContent and further tools. Of a
// generationConfig among them, what the common parameters don't say is kept; a thinkingConfig may
// stand in it or by itself.
//
// The wire format: https://ai.google.dev/api/generate-content.
package main

import (
	"context"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

func init() { sdk.Register(provider) }

func main() { sdk.Main() }

var provider = sdk.Provider{
	Name:       "gemini",
	Version:    "1.0.0",
	Models:     models,
	Generate:   generate,
	Check:      check,
	ListModels: listModels,
}

var models = []sdk.Model{
	{Name: "gemini-*", Tools: true, Vision: true, JSON: true, Reasoning: true},
	{Name: "*", Tools: true, Vision: true, JSON: true}, // the manifest says which
}

const defaultBase = "https://generativelanguage.googleapis.com"

// endpoint is the URL of what lies below the version, which the base may name.
func endpoint(s sdk.Settings, path string) (string, error) {
	base, err := s.BaseURL("base_url", defaultBase)
	return base.Join("/v1beta" + path), err
}

// streamURL is where a model is asked. Its name becomes a part of the path, so one that could lead
// elsewhere is refused: with a slash, a question mark, or the colon that a method follows.
func streamURL(s sdk.Settings, model string) (string, error) {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
	}
	if model == "" || strings.ContainsFunc(model, func(c rune) bool { return !plain(c) }) {
		return "", sdk.Errorf(sdk.Invalid, "there is no model %q: names have letters, digits, and - _ . only", model)
	}
	return endpoint(s, "/models/"+model+":streamGenerateContent?alt=sse")
}

// auth is filled in by the host; this code never sees the key.
var auth = sdk.Header{"x-goog-api-key": "${secret:GEMINI_API_KEY}"}

func check(_ context.Context, s sdk.Settings) error {
	_, err := endpoint(s, "")
	return err
}

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	url, err := streamURL(req.Settings, req.Model)
	if err != nil {
		return err
	}
	body, err := requestBody(req)
	if err != nil {
		return err
	}
	answer := stream{emit: emit, job: req.JobID}
	err = sdk.PostSSE(ctx, sdk.HTTPRequest{URL: url, Header: auth, Body: body}, answer.event)
	return answer.end(err)
}

// listModels asks for one page, of the largest size there is: it holds them all.
func listModels(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
	url, err := endpoint(s, "/models?pageSize=1000")
	if err != nil {
		return nil, err
	}
	var list struct {
		Models []struct {
			Name    string   `json:"name"` // models/NAME
			Input   int      `json:"inputTokenLimit"`
			Output  int      `json:"outputTokenLimit"`
			Methods []string `json:"supportedGenerationMethods"`
		} `json:"models"`
	}
	if err := sdk.DoJSON(ctx, sdk.HTTPRequest{URL: url, Header: auth}, &list); err != nil {
		return nil, err
	}
	found := make([]sdk.Model, 0, len(list.Models))
	for _, m := range list.Models {
		if !slices.Contains(m.Methods, "generateContent") {
			continue // it makes embeddings, or videos
		}
		known := sdk.ModelNamed(models, strings.TrimPrefix(m.Name, "models/"))
		known.ContextTokens, known.OutputTokens = m.Input, m.Output
		found = append(found, known)
	}
	return found, nil
}
