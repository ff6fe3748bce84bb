package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/sdk"
)

// instance is a plugin that runs.
type instance struct {
	provider sdk.Provider
	stop     func(context.Context) error // within its context
	state    func() native.State         // nil for a plugin without processes
	says     sdk.Description             // what the artifact says about itself
}

// starter starts a plugin of one runtime.
type starter func(ctx context.Context, m *manifest.Manifest, gate *egress.Gate) (instance, error)

// candidate is a plugin that was found.
type candidate struct {
	m  *manifest.Manifest
	op config.Plugin

	// Once it is started:
	plugin   *plugin
	narrowed *manifest.Manifest
	took     time.Duration
	state    func() native.State
	says     sdk.Description
	stop     func(context.Context) error
}

// start starts it as its manifest and the operator say, and has it check its
// settings. When that fails nothing of it is left.
func (c *candidate) start(ctx context.Context, starters map[manifest.Runtime]starter, log *slog.Logger) error {
	run, ok := starters[c.m.Runtime]
	if !ok {
		return fmt.Errorf("runtime %q is not supported on this machine", c.m.Runtime)
	}
	narrowed, lookup, err := narrow(c.m, c.op)
	if err != nil {
		return err
	}
	gate, err := egress.New(narrowed, egress.Options{Log: log, LookupEnv: lookup})
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	made, err := run(ctx, narrowed, gate)
	if err != nil {
		gate.Close()
		return err
	}
	c.stop = func(ctx context.Context) error {
		defer gate.Close()
		return made.stop(ctx)
	}
	if err := checkSettings(ctx, made.provider, sdk.Settings(narrowed.Config), log); err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return errors.Join(err, c.stop(last))
	}
	c.narrowed, c.state, c.says, c.took = narrowed, made.state, made.says, time.Since(began)
	c.plugin = newPlugin(string(c.m.Runtime), made.provider, sdk.Settings(narrowed.Config), narrowed.Limits)
	c.plugin.digest = c.m.SHA256
	log.Info("plugin started", "provider", made.provider.Name, "version", c.m.Version, "runtime", c.m.Runtime, "models", len(made.provider.Models), "took", c.took)
	return nil
}

// checkSettings asks a plugin whether it can work with what the operator has
// set. An upstream that is away at this moment is no reason to refuse it.
func checkSettings(ctx context.Context, p sdk.Provider, s sdk.Settings, log *slog.Logger) error {
	if p.Check == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := p.Check(ctx, s)
	if e := sdk.AsError(err); e != nil && e.Fault == sdk.Upstream && e.Retryable() {
		log.Warn("plugin can't check its settings now", "provider", p.Name, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("check its settings: %w", err)
	}
	return nil
}

// secretRef is how a secret from the operator's configuration is named to the
// manifest, which takes references only. The text itself stays out of it.
const secretRef = "sluice.config/"

// narrow applies the operator's word to a manifest. The function looks up the
// references in it: the operator's secrets, and the environment.
func narrow(m *manifest.Manifest, op config.Plugin) (*manifest.Manifest, func(string) (string, bool), error) {
	if err := foreignSettings(m, op); err != nil {
		return nil, nil, err
	}
	refs := map[string]string{}
	for name, s := range op.Secrets {
		if refs[name] = s.Reference(); refs[name] == "" { // the gate reads a reference again when it may have changed
			refs[name] = "env:" + secretRef + name
		}
	}
	lookup := func(name string) (string, bool) {
		if s, ok := strings.CutPrefix(name, secretRef); ok {
			v, ok := op.Secrets[s]
			return v.Reveal(), ok
		}
		return os.LookupEnv(name)
	}
	var limits manifest.Limits
	limits.Memory, limits.Output = int64(op.Limits.Memory), int64(op.Limits.Output)
	limits.Concurrency = op.Limits.Concurrency
	limits.FirstToken, limits.Idle, limits.Total = op.Limits.FirstToken, op.Limits.Idle, op.Limits.Total
	limits.CPU, limits.OpenRequests = op.Limits.CPU, op.Limits.OpenRequests
	limits.RequestBody, limits.ResponseBody = int64(op.Limits.RequestBody), int64(op.Limits.ResponseBody)
	out, err := m.Narrow(manifest.Operator{
		Settings: op.Settings, Secrets: refs, Egress: op.Egress, Models: op.Models, Limits: limits, AllowPrivate: op.AllowPrivate,
	})
	return out, lookup, err
}

// foreignSettings refuses a manifest that names variables which hold this program's
// own settings. Whoever wrote it would be told the password of Redis, or what
// tokens are signed with.
func foreignSettings(m *manifest.Manifest, op config.Plugin) error {
	names := slices.Clone(m.Env)
	for _, s := range m.Secrets {
		if _, given := op.Secrets[s.Name]; given {
			continue
		}
		if name, ok := strings.CutPrefix(s.From, "env:"); ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if strings.HasPrefix(strings.ToUpper(name), "SLUICE_") && strings.Contains(name, "__") {
			return fmt.Errorf("plugin %s: its manifest asks for the environment variable %s, which is a setting of Sluice's own", m.Name, name)
		}
	}
	return nil
}

// tighten applies the operator's limits to those of an embedded provider.
func tighten(l *manifest.Limits, op config.PluginLimits) {
	if op.Concurrency > 0 {
		l.Concurrency = op.Concurrency
	}
	for _, d := range []struct {
		limit *time.Duration
		by    time.Duration
	}{{&l.FirstToken, op.FirstToken}, {&l.Idle, op.Idle}, {&l.Total, op.Total}} {
		if d.by > 0 {
			*d.limit = min(*d.limit, d.by)
		}
	}
	if op.Output > 0 {
		l.Output = min(l.Output, int64(op.Output))
	}
}
