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
	"encoding/json"
	"fmt"
	"io"
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

// settings are the operator's, see the manifests.
type settings struct {
	BaseURL string `json:"base_url"`
}

const defaultBase = "https://generativelanguage.googleapis.com"

func readSettings(s sdk.Settings) (settings, error) {
	var v settings
	if err := s.Decode(&v); err != nil {
		return v, err
	}
	if v.BaseURL == "" {
		v.BaseURL = defaultBase
	}
	scheme, rest, _ := strings.Cut(v.BaseURL, "://") // net/url would be a tenth of the guest's size
	host, _, _ := strings.Cut(rest, "/")
	if host == "" || scheme != "https" && scheme != "http" {
		return v, &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host, Message: fmt.Sprintf("setting base_url %q is not an http or https URL; write one such as %s", v.BaseURL, defaultBase)}
	}
	return v, nil
}

// url of what lies below the version.
func (s settings) url(path string) string {
	base := strings.TrimSuffix(s.BaseURL, "/")
	for _, version := range []string{"/v1beta", "/v1alpha", "/v1"} {
		if strings.HasSuffix(base, version) {
			return base + path
		}
	}
	return base + "/v1beta" + path
}

// streamURL is where a model is asked. Its name becomes a part of the path, so one that could lead
// elsewhere is refused: with a slash, a question mark, or the colon that a method follows.
func (s settings) streamURL(model string) (string, error) {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
	}
	if model == "" || strings.ContainsFunc(model, func(c rune) bool { return !plain(c) }) {
		return "", sdk.Errorf(sdk.Invalid, "there is no model %q: names have letters, digits, and - _ . only", model)
	}
	return s.url("/models/" + model + ":streamGenerateContent?alt=sse"), nil
}

// auth is filled in by the host; this code never sees the key.
var auth = sdk.Header{"x-goog-api-key": "${secret:GEMINI_API_KEY}"}

func check(_ context.Context, s sdk.Settings) error {
	_, err := readSettings(s)
	return err
}

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	set, err := readSettings(req.Settings)
	if err != nil {
		return err
	}
	url, err := set.streamURL(req.Model)
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
	set, err := readSettings(s)
	if err != nil {
		return nil, err
	}
	resp, err := sdk.Do(ctx, sdk.HTTPRequest{URL: set.url("/models?pageSize=1000"), Header: auth})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
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
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, &sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream, Message: "the list of models is not the JSON it should be"}
	}
	found := make([]sdk.Model, 0, len(list.Models))
	for _, m := range list.Models {
		if !slices.Contains(m.Methods, "generateContent") {
			continue // it makes embeddings, or videos
		}
		name := strings.TrimPrefix(m.Name, "models/")
		known, _ := (&sdk.Provider{Models: models}).Model(name)
		known.Name, known.ContextTokens, known.OutputTokens = name, m.Input, m.Output
		found = append(found, known)
	}
	return found, nil
}
