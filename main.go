// Sluice takes jobs from browsers, has provider plugins answer them, and
// streams the answers back. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/sluicehq/sluice/config"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		if second, ok := (<-signals).(syscall.Signal); ok {
			os.Exit(128 + int(second)) // children notice and end by themselves
		}
	}()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "sluice:", err)
	var usage *usageError
	if errors.As(err, &usage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// usageError is a command line that says nothing Sluice can do.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text + "; try: sluice help" }

// run does what args say and returns when it is done, or when ctx has ended and
// everything that was started has stopped. Answers go to stdout, the log to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	word := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		word, args = args[0], args[1:]
	}
	if word == "plugin" {
		return plugin(ctx, args, stdout, stderr)
	}
	flags := pflag.NewFlagSet("sluice", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolP("help", "h", false, "")
	flags.Bool("version", false, "")
	config.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return help(stdout, nil)
		}
		return &usageError{err.Error()}
	}
	if asked, _ := flags.GetBool("help"); asked {
		return help(stdout, nil)
	}
	if asked, _ := flags.GetBool("version"); asked {
		word = "version"
	}
	rest := flags.Args()
	switch word {
	case "help":
		return help(stdout, rest)
	case "check":
		return check(rest, flags, stdout)
	}
	if len(rest) > 0 {
		return &usageError{fmt.Sprintf("what is %q?", rest[0])}
	}
	switch word {
	case "version":
		_, err := fmt.Fprintln(stdout, versionLine())
		return err
	case "", "host", "gateway":
	default:
		return &usageError{fmt.Sprintf("what is %q?", word)}
	}
	sources := config.Sources{Environ: os.Environ(), Flags: flags}
	c, err := config.Load(sources)
	if err != nil {
		return fmt.Errorf("configuration:\n%w", err)
	}
	s := &service{config: c, sources: sources, stdout: stdout, host: word != "gateway", gateway: word != "host"}
	s.log = newLog(c.Log, &s.level, stderr)
	return s.run(ctx)
}
