package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/sandbox/rewrite"
	"github.com/sluicehq/sluice/proto/guest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// Plugin is a loaded guest. It is safe for concurrent use.
type Plugin struct {
	m        *manifest.Manifest
	gate     *egress.Gate
	log      *plainLog
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
	desc     sdk.Description
	exports  map[string]api.FunctionDefinition
	image    image
	start    []string // what a new instance runs first
	globals  []string // exports of what a used instance has to be given back
	reusable bool

	mu      sync.Mutex
	closed  bool
	idle    []*instance
	live    atomic.Int64 // instances that have not been closed
	freed   sync.Once
	running sync.WaitGroup
	stop    context.Context // done when calls under way are to be cut
	cut     context.CancelFunc
}

var errClosed = &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Host, Message: "the plugin has been closed"}

func (rt *Runtime) load(ctx context.Context, m *manifest.Manifest, gate *egress.Gate, bin []byte) (_ *Plugin, err error) {
	log := newPlainLog(rt.log.With("provider", m.Name))
	pre, err := rt.prepare(ctx, m, log, bin)
	if err != nil {
		return nil, err
	}
	stop, cut := context.WithCancel(context.WithoutCancel(ctx))
	p := &Plugin{
		m: m, gate: gate, log: log, stop: stop, cut: cut,
		runtime: wazero.NewRuntimeWithConfig(ctx, runtimeConfig(rt.cache)),
	}
	defer func() {
		if err != nil {
			p.Close(context.WithoutCancel(ctx))
		}
	}()
	if p.reusable = pre.frozen(); !p.reusable {
		p.start = []string{guest.ExportInitialize}
	}
	if p.image, err = newImage(pre.memory); err != nil {
		return nil, err
	}
	if err := defineImports(ctx, p.runtime); err != nil {
		return nil, fmt.Errorf("define imports: %w", err)
	}
	if p.compiled, err = p.runtime.CompileModule(ctx, pre.code); err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	p.exports = p.compiled.ExportedFunctions()
	if p.globals, err = rewrite.Probes(pre.code); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	out, err := p.invoke(ctx, guest.ExportDescribe, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	if err := p.desc.UnmarshalBinary(out); err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	for _, text := range []*string{&p.desc.Name, &p.desc.Version, &p.desc.SDK} {
		*text = legible((*text)[:min(len(*text), maxName)])
	}
	if err := p.configure(ctx, sdk.Settings(m.Config)); err != nil {
		return nil, fmt.Errorf("configure: %w", err)
	}
	return p, nil
}

// Manifest is what the plugin was loaded with.
func (p *Plugin) Manifest() *manifest.Manifest { return p.m }

// Description is what the guest says about itself. Name, version and models of
// [Plugin.Provider] are the manifest's, which the operator has seen.
func (p *Plugin) Description() sdk.Description { return p.desc }

// Provider is the guest as any other provider. Its functions fail with an
// [*sdk.Error] only.
func (p *Plugin) Provider() sdk.Provider {
	pr := sdk.Provider{
		Name: p.m.Name, Version: p.m.Version, Check: p.configure,
		Generate: func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			return p.stream(ctx, guest.ExportGenerate, req, emit)
		},
	}
	for _, m := range p.m.Models {
		pr.Models = append(pr.Models, sdk.Model(m))
	}
	if p.exports[guest.ExportResume] != nil && p.desc.Resume {
		pr.Resume = func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			return p.stream(ctx, guest.ExportResume, req, emit)
		}
	}
	if p.exports[guest.ExportCountTokens] != nil && p.desc.CountTokens {
		pr.CountTokens = p.countTokens
	}
	if p.exports[guest.ExportListModels] != nil && p.desc.ListModels {
		pr.ListModels = p.listModels
	}
	return pr
}

func (p *Plugin) stream(ctx context.Context, export string, req *sdk.Request, emit sdk.Emit) error {
	in, err := p.request(req)
	if err != nil {
		return err
	}
	_, err = p.invoke(ctx, export, in, emit)
	return err
}

// request encodes a request, with the operator's settings when it has none.
func (p *Plugin) request(req *sdk.Request) ([]byte, error) {
	if len(req.Settings) == 0 {
		with := *req
		with.Settings = sdk.Settings(p.m.Config)
		req = &with
	}
	in, err := req.MarshalBinary()
	if err != nil {
		return nil, &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Message: "encode request: " + err.Error(), Err: err}
	}
	return in, nil
}

func (p *Plugin) configure(ctx context.Context, s sdk.Settings) error {
	in, err := s.MarshalBinary()
	if err != nil {
		return &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host, Message: "encode settings: " + err.Error(), Err: err}
	}
	_, err = p.invoke(ctx, guest.ExportConfigure, in, nil)
	return err
}

func (p *Plugin) countTokens(ctx context.Context, req *sdk.Request) (int, error) {
	in, err := p.request(req)
	if err != nil {
		return 0, err
	}
	out, err := p.invoke(ctx, guest.ExportCountTokens, in, nil)
	if err != nil {
		return 0, err
	}
	n, err := sdk.DecodeTokenCount(out)
	if err != nil || n < 0 {
		return 0, pluginError("answered with a malformed token count")
	}
	return n, nil
}

func (p *Plugin) listModels(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
	in, err := s.MarshalBinary()
	if err != nil {
		return nil, &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host, Message: "encode settings: " + err.Error(), Err: err}
	}
	out, err := p.invoke(ctx, guest.ExportListModels, in, nil)
	if err != nil {
		return nil, err
	}
	models, err := sdk.DecodeModels(out)
	if err != nil {
		return nil, pluginError("answered with a malformed list of models")
	}
	return models, nil
}

// Close takes no more calls, waits for those under way until ctx is done, then
// cuts them.
func (p *Plugin) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	drained := make(chan struct{})
	go func() {
		p.running.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		p.cut()
		<-drained
	}
	p.cut()
	var err error
	p.freed.Do(func() {
		if p.compiled != nil {
			err = p.compiled.Close(context.WithoutCancel(ctx)) // the cache that plugins share would keep the code
		}
		err = errors.Join(err, p.runtime.Close(context.WithoutCancel(ctx)))
		if p.image != nil {
			err = errors.Join(err, p.image.close())
		}
	})
	if err != nil {
		return fmt.Errorf("close plugin %s: %w", p.m.Name, err)
	}
	return nil
}

func (p *Plugin) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running.Add(1)
	return true
}

// invoke runs one export in an instance of its own and returns what the guest
// gave to output. Every error is an *sdk.Error.
func (p *Plugin) invoke(ctx context.Context, export string, input []byte, emit sdk.Emit) ([]byte, error) {
	if !p.enter() {
		return nil, errClosed
	}
	defer p.running.Done()
	if len(input) > guest.MaxInput {
		return nil, &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Message: "the request is larger than 64 MiB"}
	}
	c, release := p.newCall(ctx, input, emit)
	defer release()
	code, err := p.run(c, export)
	return c.result(ctx, code, err)
}

func (p *Plugin) run(c *call, export string) (code int32, err error) {
	in, err := p.take(c)
	if err != nil {
		return 0, err
	}
	well := false
	defer func() { p.put(c, in, well) }()
	f := in.mod.ExportedFunction(export)
	c.stack = stackOf(f)
	res, err := f.Call(c)
	if err != nil {
		return 0, err
	}
	well = true
	return int32(uint32(res[0])), nil
}

// result turns the end of a call into its output or its error. What ended the
// call from outside comes first, as a guest that was cut has no say.
func (c *call) result(ctx context.Context, code int32, err error) ([]byte, error) {
	switch {
	case c.emitErr != nil:
		return nil, sdk.AsError(c.emitErr)
	case ctx.Err() != nil:
		return nil, sdk.AsError(context.Cause(ctx))
	case c.fatal != nil:
		return nil, c.fatal
	case c.plugin.stop.Err() != nil:
		return nil, errClosed
	case err != nil:
		return nil, c.died(err)
	case code == 0:
		return c.output[guest.OutputResult], nil
	case code == guest.Failed && c.output[guest.OutputError] != nil:
		var e sdk.Error
		if err := e.UnmarshalBinary(c.output[guest.OutputError]); err != nil {
			return nil, pluginError("failed with a malformed error")
		}
		if len(e.Message) > maxMessage {
			e.Message = strings.ToValidUTF8(e.Message[:maxMessage], "") + "…"
		}
		e.Message = legible(e.Message)
		if e.Kind == sdk.Cancelled { // the host knows better
			e = sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: "gave up without being cancelled: " + e.Message}
		}
		return nil, &e
	}
	return nil, pluginError("returned code %d without an error", code)
}

// Bounds of what a guest says of itself and of its failure, in bytes.
const (
	maxName    = 100
	maxMessage = 4096
)

// died tells how a guest came to its end.
func (c *call) died(err error) *sdk.Error {
	reason := err.Error()
	if i := strings.IndexByte(reason, '\n'); i >= 0 {
		reason = reason[:i] // the rest is a stack of function names
	}
	reason = "trapped: " + strings.TrimPrefix(reason, "wasm error: ")
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		reason = fmt.Sprintf("exited with code %d", exit.ExitCode())
	}
	if text := c.stdio.excerpt(); text != "" {
		reason += "; it wrote: " + text
	}
	return pluginError("%s", reason)
}

func pluginError(format string, args ...any) *sdk.Error {
	return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: "plugin " + fmt.Sprintf(format, args...)}
}
