// Plugins measures what each way of running a plugin costs, beside bare numbers
// of the same run and the targets: a chunk over the boundary, the time from an
// upstream to the host, the memory of a thousand streams, and starts.
//
//	go run ./bench/plugins
//
// It builds what it runs: package steady for both runtimes, and the plugins
// echo and openai.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
)

// options of a run.
type options struct {
	chunks  int // of a stream whose cost is measured
	rounds  int // the best of which counts
	events  int // of the upstream whose delay is measured
	streams int
	starts  int
	only    string
	out     io.Writer
}

func main() {
	o := options{out: os.Stdout}
	flag.IntVar(&o.chunks, "chunks", 500_000, "of a stream whose cost is measured")
	flag.IntVar(&o.rounds, "rounds", 3, "the best of which counts")
	flag.IntVar(&o.events, "events", 1000, "of the upstream whose delay is measured")
	flag.IntVar(&o.streams, "streams", 1000, "held at the same time")
	flag.IntVar(&o.starts, "starts", 5, "of a process with the guests in its cache")
	flag.StringVar(&o.only, "only", "", "only sections whose name has this in it: boundary, latency, streams, starts")
	child := flag.String("child", "", "load the guests below this folder and say how long it took: used by the bench itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *child != "" {
		err = startChild(ctx, *child, o.out)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plugins:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	b := &bench{options: o, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if b.dir, err = os.MkdirTemp("", "sl"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	fmt.Fprintf(o.out, "%s %s/%s, %d CPUs\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0))
	for _, s := range []struct {
		name string
		f    func(context.Context) error
	}{{"starts", b.starting}, {"boundary", b.boundary}, {"latency", b.latency}, {"streams", b.holding}} {
		if !strings.Contains(s.name, o.only) {
			continue
		}
		fmt.Fprintln(o.out)
		if err := s.f(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// bench is one run.
type bench struct {
	options
	dir string
	log *slog.Logger
}

// sources of the plugins, below the root of the repository.
var sources = map[string]string{
	"steady-sandbox": "bench/plugins/guest/sandbox.yaml", "steady-native": "bench/plugins/guest/native.yaml",
	"echo-sandbox": "plugins/echo/sandbox.yaml", "openai-sandbox": "plugins/openai/sandbox.yaml", "openai-native": "plugins/openai/native.yaml",
}

// built makes a plugin, once.
func (b *bench) built(ctx context.Context, name string) (*manifest.Manifest, error) {
	dir := filepath.Join(b.dir, name)
	if _, err := os.Stat(filepath.Join(dir, manifest.File)); err == nil {
		return manifest.Load(dir)
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "../..")
	return manifest.Build(ctx, filepath.Join(root, sources[name]), dir)
}

// running is a plugin that was started.
type running struct {
	sdk.Provider
	pids  func() []int // of its own processes
	close func() error
}

// start runs a plugin, in the runtime that its manifest names.
func (b *bench) start(ctx context.Context, name string, op manifest.Operator) (*running, error) {
	m, err := b.built(ctx, name)
	if err != nil {
		return nil, err
	}
	if m, err = m.Narrow(op); err != nil {
		return nil, err
	}
	gate, err := egress.New(m, egress.Options{Log: b.log})
	if err != nil {
		return nil, err
	}
	if m.Runtime == manifest.Native {
		p, err := native.Start(ctx, m, native.Options{Log: b.log, CacheDir: b.dir + "/cache", RunDir: b.dir, Egress: gate})
		if err != nil {
			return nil, err
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Run(context.WithoutCancel(ctx)) }()
		return &running{p.Provider(), func() []int { return p.State().PIDs }, func() error {
			defer gate.Close()
			return errors.Join(p.Close(context.Background()), <-ended)
		}}, nil
	}
	rt, err := sandbox.NewRuntime(ctx, sandbox.Options{CacheDir: b.dir + "/cache", Log: b.log})
	if err != nil {
		return nil, err
	}
	p, err := rt.Load(ctx, m, gate)
	if err != nil {
		return nil, err
	}
	return &running{p.Provider(), func() []int { return nil }, func() error {
		defer gate.Close()
		return errors.Join(p.Close(context.Background()), rt.Close(context.Background()))
	}}, nil
}

func ask(model, prompt string) *sdk.Request {
	return &sdk.Request{JobID: "bench", Attempt: 1, Model: model, Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(prompt)}}}}
}

func discard(sdk.Chunk) error { return nil }

// target is what a figure is to be below, in words too.
type target struct {
	most time.Duration
	text string
}

func (t target) judge(d time.Duration) string {
	if t.text == "" {
		return ""
	}
	return t.text + ": " + verdict(d <= t.most)
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}
