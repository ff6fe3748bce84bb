package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/gateway"
	"github.com/sluicehq/sluice/host"
	"github.com/sluicehq/sluice/host/embedded"
	"github.com/sluicehq/sluice/host/manifest"
)

// version is set by the linker in released binaries.
var version = ""

// buildVersion names this build, as well as the build knows.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func versionLine() string {
	return fmt.Sprintf("sluice %s %s %s/%s", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

const helpText = `Sluice streams the answers of language models to browsers.

  sluice                       host and gateway in one process; without redis.url
                               on a Redis of its own
  sluice host                  only takes jobs and runs plugins
  sluice gateway               only talks to browsers
  sluice check [FILE]          says whether a configuration can be used
  sluice plugin                list, verify, run, test, new, build: see sluice plugin --help
  sluice version
  sluice help settings         every setting, with its default

Settings come from ./sluice.yaml (or --config FILE), then from the environment
(SLUICE_GATEWAY__ADDR is gateway.addr), then from flags (--gateway.addr); the
later wins. Secrets have no flags.
`

// help prints what the words do, or every setting.
func help(out io.Writer, topics []string) error {
	if len(topics) == 0 {
		_, err := io.WriteString(out, helpText)
		return err
	}
	if len(topics) == 1 && topics[0] == "plugin" {
		_, err := io.WriteString(out, pluginHelp)
		return err
	}
	if len(topics) > 1 || topics[0] != "settings" {
		return &usageError{fmt.Sprintf("no help about %q", strings.Join(topics, " "))}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range config.Keys() {
		text := k.Help
		if k.Default != "" {
			text += " (default " + k.Default + ")"
		}
		fmt.Fprintf(w, "%s\t%s\n", k.Name, text)
	}
	return w.Flush()
}

// check says everything that would keep a start with the same flags from doing
// its work on this machine, and starts nothing.
func check(args []string, flags *pflag.FlagSet, out io.Writer) error {
	from := config.Sources{Environ: os.Environ(), Flags: flags}
	switch len(args) {
	case 0:
	case 1:
		from.File = args[0]
	default:
		return &usageError{"check takes one file"}
	}
	c, places, err := config.Locate(from)
	if err != nil {
		return fmt.Errorf("configuration:\n%w", err)
	}
	asked := len(c.Plugins.Dirs) > 0
	if err := besideBinary(&c); err != nil {
		return err
	}
	problems := machineProblems(c, places)
	installed, bad := host.Check(c.Plugins)
	for _, p := range bad {
		if p.Name == "" && !asked {
			fmt.Fprintf(out, "note: no plugins beside the binary, in %s; a host would serve nothing\n", p.Dir)
			continue
		}
		problems = append(problems, pluginProblem(p, places))
	}
	if len(problems) > 0 {
		return fmt.Errorf("configuration:\n%w", errors.Join(problems...))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plugins.Config)) {
		if !installed.Named(name) {
			fmt.Fprintf(out, "note: %splugins.config.%s is about a plugin that is not installed here\n", prefix(places.Of("plugins.config."+name)), name)
		}
	}
	if len(installed) > 0 && !installed.Serves(c.Gateway.DefaultModel) {
		fmt.Fprintf(out, "note: %sgateway.default_model = %q is served by no plugin installed here\n", prefix(places.Of("gateway.default_model")), c.Gateway.DefaultModel)
	}
	_, err = fmt.Fprintln(out, "The configuration can be used.")
	return err
}

// machineProblems is what a valid configuration asks of this machine in vain.
func machineProblems(c config.Config, places config.Places) (problems []error) {
	report := func(key string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s%w", prefix(places.Of(key)), err))
		}
	}
	report("gateway.auth.keys_file", gateway.Check(c.Gateway))
	report("plugins.cache_dir", writable("plugins.cache_dir", c.Plugins.CacheDir))
	if c.Redis.URL.IsZero() && c.Redis.Embedded != embedded.Memory {
		report("redis.data_dir", writable("redis.data_dir", c.Redis.DataDir))
	}
	return problems
}

// writable says why a folder could not be made and written to, and makes nothing.
func writable(key, dir string) error {
	at, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("%s = %q: %w", key, dir, err)
	}
	for {
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			at = filepath.Dir(at)
			continue
		case err != nil:
		case !info.IsDir():
			err = fmt.Errorf("%s is not a folder", at)
		default:
			err = syscall.Access(at, 0x2|0x1) // W_OK, X_OK
		}
		if err != nil {
			return fmt.Errorf("%s = %q can't be written to (%w): name a folder that this user may write to", key, dir, err)
		}
		return nil
	}
}

// pluginProblem says where the operator said what is wrong with a plugin.
func pluginProblem(p host.PluginProblem, places config.Places) error {
	if p.Name == "" {
		return fmt.Errorf("%s%w: name a folder of installed plugins", prefix(places.Of("plugins.dirs")), p.Err)
	}
	var problem *manifest.Problem
	if errors.As(p.Err, &problem) && problem.File == "" && problem.Field != "" {
		key := "plugins.config." + p.Name + "."
		return fmt.Errorf("%s%s%w", prefix(places.Of(key+problem.Field)), key, problem)
	}
	return fmt.Errorf("plugin %s in %s: %w", p.Name, p.Dir, p.Err)
}

func prefix(where string) string {
	if where == "" {
		return ""
	}
	return where + ": "
}
