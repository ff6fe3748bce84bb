// Chaos breaks every part of a running Sluice at random while many clients
// stream, and counts what they lost by it.
//
//	go run ./bench/chaos -for 10m -seed 7
//
// It builds the binary and the plugins, and starts a redis-server, two gateways
// and two hosts, each behind a proxy of its own to Redis, and an upstream for
// the openai plugin. Its clients drop their connections and come back at either
// gateway with the last seq they saw; some open a second tab, some cancel.
// Meanwhile hosts, gateways, plugins and Redis are killed, paused, cut off and
// slowed down. At the end everything is whole again, and what was accepted must
// have come to its one end.
//
// Every frame that any tab was given is compared with the log of its job. It
// prints the figures beside what they must be, tells how each job ended that
// failed without a reason of its own, and exits with status 1 if a figure isn't
// as it must be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	length  time.Duration // of the faults; clearing up comes on top
	seed    uint64
	clients int
	keep    bool // the folder with the logs
	only    string
	out     io.Writer
}

func main() {
	o := options{out: os.Stdout}
	flag.DurationVar(&o.length, "for", 10*time.Minute, "how long things are broken")
	flag.Uint64Var(&o.seed, "seed", 0, "of what is random; 0 takes one from the clock")
	flag.IntVar(&o.clients, "clients", 40, "clients streaming at the same time")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder with the logs of all processes")
	flag.StringVar(&o.only, "only", "", "only faults whose name has this in it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, o)
	if r != nil {
		r.print(o.out)
	}
	if err == nil {
		if misses := r.misses(); len(misses) > 0 {
			err = errors.New(strings.Join(misses, "; "))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}
