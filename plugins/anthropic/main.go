// Command anthropic is a provider plugin for every server that speaks Anthropic's Messages API:
// Anthropic itself, and the many that offer its dialect beside OpenAI's. Settings, from the manifest:
//
//	base_url    where the server is; a trailing /v1 may be there or not
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
	"encoding/json"
	"fmt"
	"io"
	"strings"

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
	BaseURL   string `json:"base_url"`
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
	v := settings{BaseURL: defaultBase, MaxTokens: defaultMaxTokens}
	if err := s.Decode(&v); err != nil {
		return v, err
	}
	scheme, rest, _ := strings.Cut(v.BaseURL, "://") // net/url would be a tenth of the guest's size
	host, _, _ := strings.Cut(rest, "/")
	if host == "" || scheme != "https" && scheme != "http" {
		return v, badSetting("base_url %q is not an http or https URL; write one such as %s", v.BaseURL, defaultBase)
	}
	if v.MaxTokens < 1 {
		return v, badSetting("max_tokens %d is no limit; write one such as %d", v.MaxTokens, defaultMaxTokens)
	}
	return v, nil
}

func badSetting(format string, args ...any) error {
	return &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host, Message: "setting " + fmt.Sprintf(format, args...)}
}

// url of an endpoint: a base that already names the version is not given it twice.
func (s settings) url(path string) string {
	return strings.TrimSuffix(strings.TrimSuffix(s.BaseURL, "/"), "/v1") + path
}

func (s settings) isAnthropic() bool {
	return s.BaseURL == defaultBase || strings.HasPrefix(s.BaseURL, defaultBase+"/")
}

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
	err = sdk.PostSSE(ctx, sdk.HTTPRequest{URL: set.url("/v1/messages"), Header: set.header(), Body: body}, answer.event)
	return answer.end(err)
}

func listModels(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
	set, err := readSettings(s)
	if err != nil {
		return nil, err
	}
	// A page is of 20 when not told otherwise, and of 1000 at most: more models than there are.
	resp, err := sdk.Do(ctx, sdk.HTTPRequest{URL: set.url("/v1/models?limit=1000"), Header: set.header()})
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
