//go:build !wasip1

package sdk

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
)

// try runs one request against p from a command line, printing text to stdout and everything
// else to stderr, and returns the exit code.
func try(ctx context.Context, p *Provider, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()

	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "%s %s is a Sluice provider: hosts start it. To try it by hand:\n\n\t%s [flags] a prompt\n\n", p.Name, p.Version, p.Name)
		flags.PrintDefaults()
	}
	req := &Request{JobID: "try", Attempt: 1, Options: map[string]json.RawMessage{}}
	if len(p.Models) > 0 {
		req.Model = p.Models[0].Name
	}
	flags.StringVar(&req.Model, "model", req.Model, "the model to ask")
	flags.IntVar(&req.MaxTokens, "max-tokens", 0, "output limit; 0 leaves it to the provider")
	system := flags.String("system", "", "a system message")
	flags.Func("settings", "the plugin's settings, a JSON object", func(s string) error {
		req.Settings = Settings(s)
		return req.Settings.Decode(&map[string]json.RawMessage{})
	})
	flags.Func("option", "name=value, a provider option; the value is JSON, or else a string", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want name=value")
		}
		if !json.Valid([]byte(value)) {
			value = string(JSON(value))
		}
		req.Options[name] = json.RawMessage(value)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return 2
	}
	if *system != "" {
		req.Messages = append(req.Messages, Message{RoleSystem, []Part{TextPart(*system)}})
	}
	req.Messages = append(req.Messages, Message{RoleUser, []Part{TextPart(strings.Join(flags.Args(), " "))}})

	midLine := false // on a terminal, where both streams are one
	err := guarded(func() error {
		return p.Generate(ctx, req, func(c Chunk) error {
			if ctx.Err() != nil {
				return contextError(ctx)
			}
			var err error
			if t, ok := c.(Text); ok {
				midLine = !strings.HasSuffix(string(t), "\n")
				_, err = io.WriteString(stdout, string(t))
			} else {
				if midLine {
					fmt.Fprintln(stderr)
					midLine = false
				}
				_, err = fmt.Fprintf(stderr, "[%s %+v]\n", strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", c), "sdk.")), c)
			}
			return err
		})
	})
	fmt.Fprintln(stdout)
	if e := AsError(err); e != nil {
		fmt.Fprintf(stderr, "%s: %s (fault: %s)\n", e.Kind, e.Message, e.Fault)
		return 1
	}
	return 0
}
