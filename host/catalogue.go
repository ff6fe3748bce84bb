package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

const (
	// startTimeout bounds the start of one plugin, compiling it included.
	startTimeout = 2 * time.Minute
	// closeTimeout is what all plugins together get to end.
	closeTimeout = 5 * time.Second
)

// starter starts a plugin of one runtime. stop ends it, within its context.
type starter func(ctx context.Context, m *manifest.Manifest, gate *egress.Gate) (p sdk.Provider, stop func(context.Context) error, err error)

// catalogue is every plugin that could be started.
type catalogue struct {
	plugins []*plugin
	closers []func(context.Context) error
	log     *slog.Logger
}

// openCatalogue starts the plugins found in the configured directories, several
// at a time, and adds the embedded ones. A plugin that can't be started is
// logged once and left out; the rest start. Close it, on every path.
func openCatalogue(ctx context.Context, cfg config.Plugins, embedded []sdk.Provider, starters map[manifest.Runtime]starter, log *slog.Logger) *catalogue {
	c := &catalogue{log: log}
	taken := map[string]string{} // name → where it came from
	for _, p := range embedded {
		if err := c.embed(p, cfg.Config[p.Name]); err != nil {
			log.Error("plugin is left out", "provider", p.Name, "error", err)
			continue
		}
		taken[p.Name] = "embedded"
	}
	var found []*candidate
	for _, dir := range pluginDirs(cfg.Dirs, log) {
		m, err := manifest.Load(dir)
		if err != nil {
			log.Error("plugin is left out", "dir", dir, "error", err)
			continue
		}
		if first, ok := taken[m.Name]; ok {
			log.Error("plugin is left out", "provider", m.Name, "dir", dir, "error", "another plugin has this name: "+first)
			continue
		}
		taken[m.Name] = dir
		op := cfg.Config[m.Name]
		if op.Disabled {
			log.Info("plugin is disabled", "provider", m.Name)
			continue
		}
		found = append(found, &candidate{m: m, op: op})
	}
	var starting errgroup.Group
	starting.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range found {
		starting.Go(func() error {
			f.err = f.start(ctx, starters, log)
			return nil // the others go on
		})
	}
	starting.Wait()
	for _, f := range found {
		switch {
		case f.err == nil:
			c.plugins = append(c.plugins, f.plugin)
			c.closers = append(c.closers, f.stop)
		case ctx.Err() == nil:
			log.Error("plugin is left out", "provider", f.m.Name, "dir", f.m.Dir, "error", f.err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Config)) {
		if _, ok := taken[name]; !ok {
			log.Warn("configured plugin was not found", "provider", name, "key", "plugins.config."+name)
		}
	}
	return c
}

// pluginDirs lists the folders that hold a manifest, sorted by their name.
func pluginDirs(roots []string, log *slog.Logger) []string {
	var dirs []string
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil {
			log.Error("plugin folder can't be read", "dir", root, "error", err)
			continue
		}
		for _, e := range entries {
			dir := filepath.Join(root, e.Name())
			if _, err := os.Stat(filepath.Join(dir, manifest.File)); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return dirs
}

// embed adds a provider that lives in this process.
func (c *catalogue) embed(p sdk.Provider, op config.Plugin) error {
	if op.Disabled {
		c.log.Info("plugin is disabled", "provider", p.Name)
		return nil
	}
	if p.Generate == nil {
		return errors.New("it has no Generate")
	}
	limits := manifest.Defaults()
	tighten(&limits, op.Limits)
	settings, err := settingsOf(op.Settings)
	if err != nil {
		return err
	}
	c.plugins = append(c.plugins, newPlugin("embedded", p, settings, limits))
	return nil
}

// candidate is a plugin that was found.
type candidate struct {
	m  *manifest.Manifest
	op config.Plugin

	err    error // why it could not be started
	plugin *plugin
	stop   func(context.Context) error
}

// start starts it as its manifest and the operator say.
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
	provider, stop, err := run(ctx, narrowed, gate)
	if err != nil {
		gate.Close()
		return err
	}
	c.stop = func(ctx context.Context) error {
		defer gate.Close()
		return stop(ctx)
	}
	c.plugin = newPlugin(string(c.m.Runtime), provider, sdk.Settings(narrowed.Config), narrowed.Limits)
	log.Info("plugin started", "provider", provider.Name, "version", c.m.Version, "runtime", c.m.Runtime, "models", len(provider.Models), "took", time.Since(began))
	return nil
}

// secretRef is how a secret from the operator's configuration is named to the
// manifest, which takes references only. The text itself stays out of it.
const secretRef = "sluice.config/"

// narrow applies the operator's word to a manifest. The function looks up the
// references in it: the operator's secrets, and the environment.
func narrow(m *manifest.Manifest, op config.Plugin) (*manifest.Manifest, func(string) (string, bool), error) {
	refs := map[string]string{}
	for name := range op.Secrets {
		refs[name] = "env:" + secretRef + name
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
	out, err := m.Narrow(manifest.Operator{
		Settings: op.Settings, Secrets: refs, Egress: op.Egress, Limits: limits, AllowPrivate: op.AllowPrivate,
	})
	return out, lookup, err
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

// close stops all plugins, within ctx.
func (c *catalogue) close(ctx context.Context) error {
	var errs []error
	for _, stop := range slices.Backward(c.closers) {
		if err := stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop plugin: %w", err))
		}
	}
	return errors.Join(errs...)
}
