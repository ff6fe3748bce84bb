package host

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// plugin is one version of a provider the host serves, whatever it runs in. But
// for who uses it, it is read only once made.
type plugin struct {
	name     string
	runtime  string // native, wasm or embedded
	digest   string // SHA-256 of the artifact, "" when embedded
	provider sdk.Provider
	settings sdk.Settings
	limits   manifest.Limits
	slots    *slots // generations at the same time, those of its other versions included

	over context.Context // ends the generations of a plugin that was retired and had its time
	cut  context.CancelFunc

	mu      sync.Mutex
	users   int
	retired bool          // by another version, or because it was removed
	unused  chan struct{} // closed when retired and nobody uses it
}

func newPlugin(runtime string, p sdk.Provider, settings sdk.Settings, limits manifest.Limits) *plugin {
	made := &plugin{
		name: p.Name, runtime: runtime, provider: p, settings: settings, limits: limits,
		slots: newSlots(limits.Concurrency), unused: make(chan struct{}),
	}
	made.over, made.cut = context.WithCancel(context.Background())
	return made
}

// use is called before a generation, and done after it. It reports false once
// the plugin has been retired: another one has its models, or nobody.
func (p *plugin) use() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return false
	}
	p.users++
	return true
}

func (p *plugin) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users--; p.users == 0 && p.retired {
		close(p.unused)
	}
}

// retire lets nobody else use it.
func (p *plugin) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired = true; p.users == 0 {
		close(p.unused)
	}
}

// errRetired is the end of a generation whose plugin was replaced, and did not
// come to its end within the time that was left. The job is not to blame.
var errRetired = errors.New("the plugin was replaced")

// generate asks the provider, and makes a panic of its code an error.
func (p *plugin) generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) (err error) {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.over, func() { cancel(errRetired) })()
	defer func() {
		if err != nil && asked.Err() == nil && errors.Is(context.Cause(ctx), errRetired) {
			err = errRetired
		}
	}()
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
