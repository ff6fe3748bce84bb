// Command queue measures how fast jobs start and how many get through, beside
// BullMQ and PING, in one run on a redis-server of its own:
//
//	go run ./bench/queue
//
// All sides take turns, since what a shared machine does to one it should do to
// the others. Each line says what was seen and what the target is; a noisy
// machine is judged by the ratios. BullMQ (Node and npm) is left out with
// -bullmq=false, or when it isn't there.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

type options struct {
	samples int
	rounds  int
	jobs    int
	idle    time.Duration
	bullmq  bool
	only    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench/queue:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench/queue", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.samples, "samples", 150, "latencies measured per side and round")
	flags.IntVar(&o.rounds, "rounds", 4, "rounds of everything that takes turns")
	flags.IntVar(&o.jobs, "jobs", 6000, "jobs per throughput round")
	flags.DurationVar(&o.idle, "idle", 8*time.Second, "how long the idle host is watched")
	flags.BoolVar(&o.bullmq, "bullmq", true, "measure BullMQ too (installs it with npm, once)")
	flags.StringVar(&o.only, "only", "", "parts to run, separated by commas: pickup, killed, idle, throughput, enqueue, retry, append, writes, first")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))

	redis, err := startRedis(ctx)
	if err != nil {
		return err
	}
	defer redis.stop()
	var bull *node
	if o.bullmq {
		if bull, err = startNode(ctx, redis.port, stderr); err != nil {
			if os.Getenv("SLUICE_REQUIRE") == "1" {
				return err
			}
			fmt.Fprintln(stdout, "without BullMQ:", err)
		} else {
			defer bull.stop()
		}
	}
	b := &bench{options: o, redis: redis, bull: bull, log: log, out: stdout}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"pickup", b.pickup}, {"killed", b.killed}, {"idle", b.idleHost}, {"throughput", b.throughput},
		{"enqueue", b.enqueue}, {"retry", b.retryAfter}, {"append", b.appends}, {"writes", b.writes}, {"first", b.firstChunk},
	} {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), part.name) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
