// Command anthropic is a provider plugin for every server that speaks Anthropic's Messages API:
// Anthropic itself, and the many that offer its dialect beside OpenAI's. Settings, from the manifest:
//
//	base_url    where the server is; a trailing /v1, or another version, may be there or not
//	max_tokens  the limit of an answer whose caller names none, as the API wants one
//	beta        what to ask for in the header anthropic-beta, with commas in between
//
// The key is the secret ANTHROPIC_API_KEY, which the host puts into the header x-api-key; a server
// that wants none is asked without. Options of the caller that aren't common parameters go into the
// request body as they are: thinking, top_k, cache_control, mcp_servers and whatever comes later.
// Tools among them, which are the server's own, are added to the caller's functions.
//
// What has no chunk of its own in an answer, such as redacted thinking or a search of the server's,
// is provider data of the type "anthropic.block": the content block, which goes back as it is in the
// next turn. A caller may send blocks in that way, too, such as documents.
//
// The wire format: https://platform.claude.com/docs/en/build-with-claude/streaming, and what follows
// there of errors, thinking, tools, citations and structured outputs.
package main

import (
	"context"
	"fmt"

	"github.com/sluicehq/sluice/sdk"
)

func init() { sdk.Register(provider) }

func main() { sdk.Main() }

var provider = sdk.Provider{
	Name:       "anthropic",
	Version:    "1.0.0",
	Models:     models,
	Generate:   generate,
	Check:      check,
	ListModels: listModels,
}

// models: from version 4.6 on they refuse to continue an answer, and those between can't while they
// think or keep to a schema, so only the old ones are said to.
var models = []sdk.Model{
	{Name: "claude-3-*", Tools: true, Vision: true, Continue: true},
	{Name: "claude-*", Tools: true, Vision: true, JSON: true, Reasoning: true},
	{Name: "*", Tools: true, Reasoning: true}, // a compatible server's own; the manifest says which
}

// settings are the operator's, see plugin.yaml.
type settings struct {
	base      sdk.BaseURL
	MaxTokens int    `json:"max_tokens"`
	Beta      string `json:"beta"`
}

const (
	defaultBase = "https://api.anthropic.com"
	// defaultMaxTokens is what every model since Claude 3.5 may give.
	defaultMaxTokens = 8192
	apiVersion       = "2023-06-01"
)

func readSettings(s sdk.Settings) (settings, error) {
	v := settings{MaxTokens: defaultMaxTokens}
	err := s.Decode(&v)
	if err == nil {
		v.base, err = s.BaseURL("base_url", defaultBase)
	}
	if err == nil && v.MaxTokens < 1 {
		err = &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host, Message: fmt.Sprintf("setting max_tokens %d is no limit; write one such as %d", v.MaxTokens, defaultMaxTokens)}
	}
	return v, err
}

func (s settings) isAnthropic() bool { return s.base.Within(defaultBase) }

// header of every request. The key is filled in by the host; this code never sees it.
func (s settings) header() sdk.Header {
	h := sdk.Header{"X-Api-Key": "${secret:ANTHROPIC_API_KEY}", "Anthropic-Version": apiVersion}
	if s.Beta != "" {
		h["Anthropic-Beta"] = s.Beta
	}
	return h
}

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
	answer := newStream(req, emit)
	err = sdk.PostSSE(ctx, sdk.HTTPRequest{URL: set.base.Join("/v1/messages"), Header: set.header(), Body: body}, answer.event)
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
	// A page is of 20 when not told otherwise, and of 1000 at most: more models than there are.
	req := sdk.HTTPRequest{URL: set.base.Join("/v1/models?limit=1000"), Header: set.header()}
	if err := sdk.DoJSON(ctx, req, &list); err != nil {
		return nil, err
	}
	found := make([]sdk.Model, len(list.Data))
	for i, m := range list.Data {
		found[i] = sdk.ModelNamed(models, m.ID)
	}
	return found, nil
}
