// Firstchunk measures, at a Socket.IO client, how long START_SEARCH takes to
// the first chunk, and what a chunk costs, for the same provider in three
// places: inside the host's process, as a native plugin and in the sandbox.
//
// It runs a whole Sluice of its own on loopback, on a redis-server if one is
// installed: go run ./bench/firstchunk (after make plugins). PING is measured
// in the same run, to tell a slow machine from a slow Sluice.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/bench/ownredis"
	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/gateway"
	"github.com/sluicehq/sluice/host"
	"github.com/sluicehq/sluice/host/embedded"
	"github.com/sluicehq/sluice/sdk"
)

var (
	plugins = flag.String("plugins", "build/plugins", "folder of the built plugins")
	cache   = flag.String("cache", "", "folder for compiled plugins; empty is a new one")
	rounds  = flag.Int("rounds", 300, "questions per runtime")
	tokens  = flag.Int("tokens", 20_000, "chunks of a long answer")
)

// places are the models asked, by where their provider runs.
var places = []struct{ name, model string }{
	{"in-process", "inprocess"}, {"native", "echo"}, {"sandbox", "echo-sandbox"},
}

func main() { ownredis.Main("firstchunk", slog.LevelWarn, serve) }

// serve runs host and gateway around the measurement.
func serve(ctx context.Context, dir string, instance embedded.Instance, log *slog.Logger) error {
	c := config.Default()
	c.Gateway.Addr = "127.0.0.1:0"
	c.Plugins.Dirs, c.Plugins.CacheDir = []string{*plugins}, cmp.Or(*cache, dir+"/cache")
	c.Plugins.Config = map[string]config.Plugin{"openai": {Disabled: true}}
	rdb := redis.NewUniversalClient(instance.Redis)
	defer rdb.Close()
	life, stop := context.WithCancel(ctx)
	defer stop()
	group, life := errgroup.WithContext(life)
	hostReady, address := make(chan struct{}), make(chan string, 1)
	group.Go(func() error {
		return host.Run(life, host.Options{
			Config: c, Redis: rdb, Log: log, Providers: []sdk.Provider{inprocess}, Ready: func() { close(hostReady) },
		})
	})
	group.Go(func() error {
		return gateway.Run(life, gateway.Options{Config: c.Gateway, Redis: rdb, Log: log, Ready: func(addr string) { address <- addr }})
	})
	group.Go(func() error {
		defer stop()
		var addr string
		for range 2 {
			select {
			case <-hostReady:
				hostReady = nil
			case addr = <-address:
			case <-life.Done():
				return nil
			}
		}
		return measure(life, addr, rdb, instance.Name)
	})
	return group.Wait()
}

// inprocess does what echo does, without a border in between.
var inprocess = sdk.Provider{
	Name: "inprocess", Version: "1.0.0", Models: []sdk.Model{{Name: "inprocess"}},
	Generate: func(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
		var n int
		if _, err := req.Option("tokens", &n); err != nil {
			return err
		}
		for i := range n {
			word := sdk.Text(" word")
			if i == 0 {
				word = "word"
			}
			if err := emit(word); err != nil {
				return err
			}
		}
		return nil
	},
}

// measure asks all places in turn, so that a slow moment of the machine meets each.
func measure(ctx context.Context, addr string, rdb redis.UniversalClient, server string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.close()
	ask := func(model string, tokens int) (answer, error) {
		return c.ask(ctx, map[string]any{"query": "word", "model": model, "params": map[string]any{"delay_ms": 0, "tokens": tokens}})
	}
	first, costs, pings := map[string][]time.Duration{}, map[string]cost{}, []time.Duration(nil)
	for round := range *rounds + 20 {
		for _, p := range places {
			a, err := ask(p.model, 1)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round >= 20 { // the first are to warm up
				first[p.name] = append(first[p.name], a.first)
			}
		}
		began := time.Now()
		if err := rdb.Ping(ctx).Err(); err != nil {
			return err
		}
		pings = append(pings, time.Since(began))
	}
	for range 3 {
		for _, p := range places {
			before := cpuTime()
			a, err := ask(p.model, *tokens)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			one := cost{wall: a.total / time.Duration(*tokens), cpu: (cpuTime() - before) / time.Duration(*tokens), frames: a.frames}
			if best, ok := costs[p.name]; !ok || one.wall < best.wall {
				costs[p.name] = one
			}
		}
	}
	fmt.Printf("%s %s/%s, %d CPUs, %s; %d questions each, answers of %d chunks; PING p50 %v p99 %v\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), server, *rounds, *tokens,
		quantile(pings, 50), quantile(pings, 99))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\tfirst chunk p50\tp99\tper chunk, wall\tper chunk, CPU\tframes")
	for _, p := range places {
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\t%d\n", p.name, quantile(first[p.name], 50), quantile(first[p.name], 99),
			costs[p.name].wall, costs[p.name].cpu, costs[p.name].frames)
	}
	w.Flush()
	fmt.Println("\nFirst chunk: START_SEARCH sent to model:chunk:v1 received, one WebSocket client, idle host.")
	fmt.Println("Per chunk: a long answer as fast as it goes, from question to end, over what the provider emitted;")
	fmt.Println("CPU is that of client, gateway, host and plugin together, without Redis. Best of 3.")
	return nil
}

// cost is what one chunk of a long answer takes.
type cost struct {
	wall, cpu time.Duration
	frames    int
}

func quantile(d []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)].Round(time.Microsecond)
}
