package sdk

import (
	"context"
	"strings"
)

// Provider is what a plugin fills in. The host holds the same type: there, the functions cross a
// process or a sandbox.
//
// All functions may be called concurrently. A nil optional function means "not supported".
type Provider struct {
	Name    string // lower case, as in the manifest
	Version string
	Models  []Model

	// Generate answers req chunk by chunk. It must stop when ctx is done or emit fails, returning
	// that error. Returning nil means that the answer is whole.
	Generate func(ctx context.Context, req *Request, emit Emit) error

	// Check says whether settings are usable. It should be cheap: a host calls it at start.
	Check func(ctx context.Context, s Settings) error
	// CountTokens counts the input tokens of a request.
	CountTokens func(ctx context.Context, req *Request) (int, error)
	// ListModels asks the upstream which models there are.
	ListModels func(ctx context.Context, s Settings) ([]Model, error)
	// Resume goes on with the answer of an earlier attempt, whose text so far is req.Prefix. It
	// emits only what comes after it.
	Resume func(ctx context.Context, req *Request, emit Emit) error
}

// Emit hands one chunk to the host. It blocks while the host is busy (backpressure) and fails
// once nobody wants the answer; return that error. It must not be called concurrently by one
// Generate, nor after it has returned.
type Emit func(Chunk) error

// Model is a model, or a family of them, and what it can do.
type Model struct {
	Name          string // a name, or a glob in which * stands for any characters
	Tools         bool   // calls tools
	Vision        bool   // takes images
	JSON          bool   // keeps to a JSON schema
	Reasoning     bool   // streams its reasoning
	Continue      bool   // can continue an answer from Request.Prefix
	ContextTokens int    // 0: not known
	OutputTokens  int    // 0: not known
}

// Matches reports whether name is this model's, or fits its glob.
func (m Model) Matches(name string) bool {
	head, rest, glob := strings.Cut(m.Name, "*")
	if !glob {
		return m.Name == name
	}
	name, ok := strings.CutPrefix(name, head)
	for ok {
		var part string
		part, rest, glob = strings.Cut(rest, "*")
		if !glob {
			return strings.HasSuffix(name, part)
		}
		_, name, ok = strings.Cut(name, part)
	}
	return false
}

// Model finds the entry that serves name: an equal name before the first glob that matches.
func (p *Provider) Model(name string) (Model, bool) { return findModel(p.Models, name) }

// ModelNamed is what an entry of models says of the one that is called name, and that name: for
// ListModels, when the upstream tells little more of its models. Without an entry it is the name only.
func ModelNamed(models []Model, name string) Model {
	m, _ := findModel(models, name)
	m.Name = name
	return m
}

func findModel(models []Model, name string) (Model, bool) {
	for _, m := range models {
		if m.Name == name {
			return m, true
		}
	}
	for _, m := range models {
		if m.Matches(name) {
			return m, true
		}
	}
	return Model{}, false
}

// Describe is the part of a provider that can be written down.
func (p *Provider) Describe() Description {
	return Description{
		Name: p.Name, Version: p.Version, SDK: sdkName, Models: p.Models,
		Check: p.Check != nil, CountTokens: p.CountTokens != nil,
		ListModels: p.ListModels != nil, Resume: p.Resume != nil,
	}
}

// Description is what a plugin tells its host about itself; the booleans are the optional
// abilities it has.
type Description struct {
	Name, Version string
	SDK           string // language and version of the SDK it was built with
	Models        []Model

	Check, CountTokens, ListModels, Resume bool
}

const sdkName = "go/1.0"

var registered Provider

// Register makes p the provider of this plugin. Call it once, from init or before [Main].
func Register(p Provider) {
	switch {
	case registered.Generate != nil:
		panic("sdk: Register called twice")
	case p.Generate == nil:
		panic("sdk: Register: provider without Generate")
	}
	registered = p
}
