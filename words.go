package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/sluicehq/sluice/config"
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

// check loads the configuration that a start with the same flags would use,
// and the manifests of the plugins it names.
func check(args []string, flags *pflag.FlagSet, out io.Writer) error {
	from := config.Sources{Environ: os.Environ(), Flags: flags}
	switch len(args) {
	case 0:
	case 1:
		from.File = args[0]
	default:
		return &usageError{"check takes one file"}
	}
	c, err := config.Load(from)
	if err != nil {
		return fmt.Errorf("configuration:\n%w", err)
	}
	if !c.Redis.URL.IsZero() {
		if _, err := c.Redis.Options(); err != nil {
			return fmt.Errorf("configuration:\n%w", err)
		}
	}
	_, err = fmt.Fprintln(out, "The configuration can be used.")
	return err
}
