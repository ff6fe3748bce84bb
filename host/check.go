package host

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

// PluginProblem is why a plugin, or a folder of plugins, can't be used.
type PluginProblem struct {
	Name string // "" for a folder of plugins
	Dir  string
	// Err is a *manifest.Problem where it is about one field. One without a
	// File is about what the operator says under plugins.config.<name>.
	Err error
}

// Installed is what a host would find in its folders of plugins: providers
// without abilities.
type Installed []sdk.Provider

// Named reports whether a plugin of this name is installed.
func (i Installed) Named(name string) bool {
	return slices.ContainsFunc(i, func(p sdk.Provider) bool { return p.Name == name })
}

// Serves reports whether one of the plugins serves a model.
func (i Installed) Serves(model string) bool {
	return slices.ContainsFunc(i, func(p sdk.Provider) bool { _, ok := p.Model(model); return ok })
}

// Check reads the plugins that a host with this configuration would start, and
// starts none. It returns those it could read, and what is wrong with them.
func Check(cfg config.Plugins) (installed Installed, problems []PluginProblem) {
	for _, root := range cfg.Dirs {
		if _, err := os.ReadDir(root); err != nil {
			problems = append(problems, PluginProblem{Dir: root, Err: fmt.Errorf("plugins.dirs: %w", err)})
		}
	}
	taken := map[string]string{}
	for _, dir := range pluginDirs(cfg.Dirs) {
		m, err := manifest.Load(dir)
		if err != nil {
			problems = append(problems, PluginProblem{filepath.Base(dir), dir, err})
			continue
		}
		p := sdk.Provider{Name: m.Name, Version: m.Version}
		if other := taken[m.Name]; other != "" {
			err = fmt.Errorf("another plugin has this name: %s", other)
		} else if taken[m.Name] = dir; !cfg.Config[m.Name].Disabled {
			for _, model := range m.Models {
				p.Models = append(p.Models, sdk.Model{Name: model.Name})
			}
			err = checkGate(m, cfg.Config[m.Name])
		}
		if err != nil {
			problems = append(problems, PluginProblem{m.Name, dir, err})
		}
		installed = append(installed, p)
	}
	return installed, problems
}

// checkGate has the operator's word applied to a manifest, and its secrets read.
func checkGate(m *manifest.Manifest, op config.Plugin) error {
	narrowed, lookup, err := narrow(m, op)
	if err != nil {
		return err
	}
	gate, err := egress.New(narrowed, egress.Options{Log: slog.New(slog.DiscardHandler), LookupEnv: lookup})
	if err != nil {
		return err
	}
	gate.Close()
	return nil
}
