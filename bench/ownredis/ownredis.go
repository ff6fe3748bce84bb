// Package ownredis is the frame of a benchmark that needs a Redis and nothing
// else of the machine: it runs one beside it, in a folder that is gone at the end.
package ownredis

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/sluicehq/sluice/host/embedded"
)

// Bench is a benchmark in dir, on a Redis that outlives it: what stops at the
// end of ctx still has to write.
type Bench func(ctx context.Context, dir string, redis embedded.Instance, log *slog.Logger) error

// Main is the main of a command: it parses the flags, runs bench until its end or
// an interrupt, and exits with 1 if something went wrong. What is logged from
// level on goes to stderr.
func Main(name string, level slog.Level, bench Bench) {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := run(ctx, log, bench); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, bench Bench) error {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	redisCtx, stopRedis := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRedis()
	ready, ended := make(chan embedded.Instance, 1), make(chan error, 1)
	go func() {
		ended <- embedded.Run(redisCtx, embedded.Options{Mode: embedded.Auto, Dir: dir + "/redis", Log: log}, func(i embedded.Instance) { ready <- i })
	}()
	select {
	case i := <-ready:
		err = bench(ctx, dir, i, log)
	case err := <-ended:
		return err
	}
	stopRedis()
	if redisErr := <-ended; err == nil {
		err = redisErr
	}
	return err
}
