package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/workshop"
)

const pluginHelp = `What can be done with plugins, without Redis:

  sluice plugin list [--json]            what is installed, started to see how it stands
  sluice plugin verify FOLDER...         manifest, digest, start, description, settings
  sluice plugin run FOLDER PROMPT        asks it one thing; text to stdout, the rest to stderr
         [--model M] [--system S] [--option NAME=VALUE]...
  sluice plugin test FOLDER              the conformance table against it
         [--model M] [--prompt P] [--long P] [--option NAME=VALUE]... [--echo]
  sluice plugin new NAME [FOLDER]        begins a new one, with a test that passes
  sluice plugin build MANIFEST FOLDER    builds it: artifact, and manifest with its digest
         [--engine FILE]                 what a script runs on

Settings, secrets and limits come from the configuration, as they would for a
host: --config FILE and so on work here too.
`

// plugin does what the words after "plugin" say.
func plugin(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	word := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		word, args = args[0], args[1:]
	}
	flags := pflag.NewFlagSet("sluice plugin", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	config.AddFlags(flags)
	flags.BoolP("help", "h", false, "")
	asJSON, echo := flags.Bool("json", false, ""), flags.Bool("echo", false, "")
	prompt, long := flags.String("prompt", "Say hello.", ""), flags.String("long", "", "")
	model, system := flags.String("model", "", ""), flags.String("system", "", "")
	engine := flags.String("engine", "", "")
	pairs := flags.StringArray("option", nil, "")
	if err := flags.Parse(args); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return &usageError{err.Error()}
	}
	if asked, _ := flags.GetBool("help"); asked {
		_, err := io.WriteString(stdout, pluginHelp)
		return err
	}
	if err := own(flags, word); err != nil {
		return err
	}
	rest := flags.Args()
	options, err := optionsOf(*pairs)
	if err != nil {
		return err
	}
	bench := func() (*workshop.Bench, error) { return newBench(flags, stdout, stderr) }
	switch {
	case word == "build" && len(rest) == 2:
		if *engine == "" {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the engine for scripts beside the binary: %w", err)
			}
			*engine = filepath.Join(filepath.Dir(exe), "examples", "javascript", "engine.wasm") // where make leaves it
		}
		m, err := manifest.Builder{Engine: *engine}.Build(ctx, rest[0], rest[1])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "%s %s (%s) is in %s\n", m.Name, m.Version, m.Runtime, m.Dir)
		return err
	case word == "new" && (len(rest) == 1 || len(rest) == 2):
		b, err := bench()
		if err != nil {
			return err
		}
		return b.New(rest[0], strings.Join(rest[1:], ""))
	case word == "list" && len(rest) == 0:
		b, err := bench()
		if err != nil {
			return err
		}
		return b.List(ctx, *asJSON)
	case word == "verify" && len(rest) > 0:
		b, err := bench()
		if err != nil {
			return err
		}
		var errs []error
		for _, dir := range rest {
			if err := b.Verify(ctx, dir); err != nil {
				errs = append(errs, fmt.Errorf("verify %s: %w", dir, err))
			}
		}
		return errors.Join(errs...)
	case word == "run" && len(rest) > 1:
		b, err := bench()
		if err != nil {
			return err
		}
		return b.Ask(ctx, rest[0], workshop.Question{Model: *model, System: *system, Prompt: strings.Join(rest[1:], " "), Options: options})
	case word == "test" && len(rest) == 1:
		b, err := bench()
		if err != nil {
			return err
		}
		return b.Test(ctx, rest[0], workshop.Table{
			Echo: *echo, Long: *long, Question: workshop.Question{Model: *model, System: *system, Prompt: *prompt, Options: options},
		})
	}
	for line := range strings.Lines(pluginHelp) {
		if usage, ok := strings.CutPrefix(strings.TrimSpace(line), "sluice plugin "+word+" "); ok && word != "" {
			usage, _, _ = strings.Cut(usage, "  ")
			return &usageError{"write: sluice plugin " + word + " " + usage}
		}
	}
	return &usageError{"write: sluice plugin list, verify, run, test or new, or sluice plugin build MANIFEST FOLDER"}
}

// own refuses the flags of other words.
func own(flags *pflag.FlagSet, word string) error {
	words := map[string][]string{
		"json": {"list"}, "engine": {"build"}, "echo": {"test"}, "prompt": {"test"}, "long": {"test"},
		"model": {"run", "test"}, "system": {"run", "test"}, "option": {"run", "test"},
	}
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if of, ok := words[f.Name]; ok && !slices.Contains(of, word) && err == nil {
			err = &usageError{fmt.Sprintf("--%s belongs to sluice plugin %s", f.Name, strings.Join(of, " and "))}
		}
	})
	return err
}

// optionsOf reads NAME=VALUE pairs. A value is JSON, or else a text.
func optionsOf(pairs []string) (map[string]json.RawMessage, error) {
	options := map[string]json.RawMessage{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, &usageError{fmt.Sprintf("--option %q is not NAME=VALUE", pair)}
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			var err error
			if raw, err = json.Marshal(value); err != nil {
				return nil, err
			}
		}
		options[name] = raw
	}
	return options, nil
}

func newBench(flags *pflag.FlagSet, stdout, stderr io.Writer) (*workshop.Bench, error) {
	c, err := config.Load(config.Sources{Environ: os.Environ(), Flags: flags})
	if err != nil {
		return nil, fmt.Errorf("configuration:\n%w", err)
	}
	if err := besideBinary(&c); err != nil {
		return nil, err
	}
	// The log of a host would drown the answer; what goes wrong is in it.
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return &workshop.Bench{Plugins: c.Plugins, Log: log, Out: stdout, Err: stderr}, nil
}
