package host

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// plugin is one provider the host serves, whatever it runs in. It is read only
// once made.
type plugin struct {
	name     string
	runtime  string // native, wasm or embedded
	provider sdk.Provider
	settings sdk.Settings
	limits   manifest.Limits
	slots    *semaphore.Weighted // generations at the same time
}

func newPlugin(runtime string, p sdk.Provider, settings sdk.Settings, limits manifest.Limits) *plugin {
	return &plugin{
		name: p.Name, runtime: runtime, provider: p, settings: settings, limits: limits,
		slots: semaphore.NewWeighted(int64(max(1, limits.Concurrency))),
	}
}

// generate asks the provider, and makes a panic of its code an error.
func (p *plugin) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: fmt.Sprintf("panic: %v\n%s", v, debug.Stack())}
		}
	}()
	if req.Prefix != "" && p.provider.Resume != nil {
		return p.provider.Resume(ctx, req, emit)
	}
	return p.provider.Generate(ctx, req, emit)
}

// continues reports whether model can go on from the text of an earlier attempt.
func (p *plugin) continues(model sdk.Model) bool {
	return model.Continue || p.provider.Resume != nil
}

// info is how a model is announced.
func (r route) info() job.ModelInfo {
	return job.ModelInfo{
		Name: r.model.Name, Provider: r.plugin.name, Runtime: r.plugin.runtime,
		Tools: r.model.Tools, Vision: r.model.Vision, JSON: r.model.JSON, Reasoning: r.model.Reasoning,
		Continue:      r.plugin.continues(r.model),
		ContextTokens: r.model.ContextTokens, OutputTokens: r.model.OutputTokens,
	}
}
