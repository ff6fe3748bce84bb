package host

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/sdk"
)

// States of a plugin.
const (
	PluginUp       = "up"
	PluginDown     = "down"     // between two processes
	PluginOpen     = "open"     // its processes died in a loop: the next try is put off
	PluginRefused  = "refused"  // it could not be started
	PluginDisabled = "disabled" // by the operator
)

// PluginInfo is a plugin as it stands on this machine.
type PluginInfo struct {
	Name       string        `json:"name"`
	Version    string        `json:"version,omitempty"`
	Runtime    string        `json:"runtime,omitempty"` // native, wasm
	Digest     string        `json:"digest,omitempty"`  // SHA-256 of the artifact
	Dir        string        `json:"dir,omitempty"`
	Models     []string      `json:"models,omitempty"`
	State      string        `json:"state"`
	Reason     string        `json:"reason,omitempty"` // of a state other than up
	Box        string        `json:"box,omitempty"`    // what keeps it in
	Guarantees []string      `json:"guarantees"`       // that the box gives, see package box
	Limits     []PluginLimit `json:"limits,omitempty"`
	Started    time.Duration `json:"-"` // how long its start took
	// What the artifact says about itself; the manifest, which the operator has seen, is what counts.
	Says sdk.Description `json:"-"`
}

// PluginLimit is a limit in force.
type PluginLimit struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Check says how it is kept, where the system doesn't keep it by itself.
	Check string `json:"check,omitempty"`
}

// Inspect starts the plugins that a host with this configuration would have,
// tells how they stand, sorted by name, and ends them.
func Inspect(ctx context.Context, cfg config.Plugins, log *slog.Logger) (infos []PluginInfo, err error) {
	starters, closeRuntimes, err := runtimes(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	c := openCatalogue(ctx, cfg, nil, starters, log)
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, c.close(last), closeRuntimes(last))
	}()
	for _, path := range slices.SortedFunc(maps.Keys(c.folders), byBase) {
		infos = append(infos, c.folders[path].info())
	}
	return infos, ctx.Err()
}

// Try starts the plugin in one folder as a host with this configuration would,
// hands it to use, and ends it.
func Try(ctx context.Context, cfg config.Plugins, dir string, log *slog.Logger, use func(PluginInfo, sdk.Provider) error) (err error) {
	m, err := manifest.Load(dir)
	if err != nil {
		return err
	}
	starters, closeRuntimes, err := runtimes(ctx, cfg, log)
	if err != nil {
		return err
	}
	end := func(stop func(context.Context) error) {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, stop(last))
	}
	defer end(closeRuntimes)
	f := &folder{path: dir, name: m.Name, current: &candidate{m: m, op: cfg.Config[m.Name]}}
	if err := f.current.start(ctx, starters, log); err != nil {
		return err
	}
	defer end(f.current.stop)
	return use(f.info(), withSettings(f.current))
}

// withSettings is the provider of a plugin as an attempt would ask it.
func withSettings(c *candidate) sdk.Provider {
	p := c.plugin.provider
	set := func(req *sdk.Request) *sdk.Request {
		with := *req
		with.Settings = c.plugin.settings
		return &with
	}
	generate, resume := p.Generate, p.Resume
	p.Generate = func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error { return generate(ctx, set(req), emit) }
	if resume != nil {
		p.Resume = func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error { return resume(ctx, set(req), emit) }
	}
	if check := p.Check; check != nil {
		p.Check = func(ctx context.Context, _ sdk.Settings) error { return check(ctx, c.plugin.settings) }
	}
	return p
}

// info tells how what lies in a folder stands.
func (f *folder) info() PluginInfo {
	i := PluginInfo{Name: f.title(), Dir: f.path, State: PluginDisabled, Guarantees: []string{}}
	if f.err != nil {
		i.State, i.Reason = PluginRefused, f.err.Error()
	}
	c := f.current
	if c == nil {
		return i
	}
	i.Version, i.Runtime, i.Digest, i.Limits = c.m.Version, string(c.m.Runtime), c.m.SHA256, limitsOf(c.narrowed)
	i.Started, i.Says = c.took, c.says
	for _, m := range c.plugin.provider.Models {
		i.Models = append(i.Models, m.Name)
	}
	i.State, i.Box, i.Guarantees = PluginUp, "sandbox", box.Guarantees()
	if c.state == nil {
		return i
	}
	st := c.state()
	i.Box, i.Guarantees = st.Box.String(), st.Box.Held()
	tasks := PluginLimit{Name: "tasks", Value: strconv.Itoa(native.MaxTasks)}
	switch {
	case st.Box.Gives(box.Memory):
		i.Limits[0].Check = ""
	case st.Box.Limits:
		i.Limits[0].Check += ", and the system stops it at " + config.Size(native.MaxMemory(c.narrowed)).String()
	}
	if !st.Box.Gives(box.Tasks) {
		tasks.Check = lookedAt
	}
	i.Limits = append(i.Limits, tasks)
	if !st.Up {
		i.State = PluginDown
		if st.Open {
			i.State = PluginOpen
		}
		if st.Death != nil {
			i.Reason = st.Death.Error()
		}
	}
	return i
}

// lookedAt is how a limit of a process is kept that the system doesn't keep.
const lookedAt = "looked at 4 times a second; a process over it is replaced"

// limitsOf lists the limits in force, and how those are kept that nothing keeps
// by itself.
func limitsOf(m *manifest.Manifest) []PluginLimit {
	l := m.Limits
	size := func(n int64) string { return config.Size(n).String() }
	list := []PluginLimit{
		{Name: "memory", Value: size(l.Memory)},
		{Name: "concurrency", Value: strconv.Itoa(l.Concurrency)},
		{Name: "first_token", Value: l.FirstToken.String()},
		{Name: "idle", Value: l.Idle.String()},
		{Name: "total", Value: l.Total.String()},
		{Name: "output", Value: size(l.Output)},
		{Name: "request_body", Value: size(l.RequestBody)},
		{Name: "response_body", Value: size(l.ResponseBody)},
	}
	if m.Runtime == manifest.Wasm {
		return append(list,
			PluginLimit{Name: "cpu", Value: l.CPU.String()},
			PluginLimit{Name: "open_requests", Value: strconv.Itoa(l.OpenRequests)})
	}
	list[0].Check = lookedAt
	return append(list, PluginLimit{Name: "processes", Value: strconv.Itoa(max(1, l.Processes))})
}
