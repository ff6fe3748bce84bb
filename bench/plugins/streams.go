package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

// holding starts many streams at once and holds them.
func (b *bench) holding(ctx context.Context) error {
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "%d streams at once\tmemory each\tin all\tthreads\tfirst chunk p50\tp99\ttarget\t\n", b.streams)
	for _, p := range []struct {
		name string
		each int64 // its target
	}{{"steady-sandbox", 150 << 10}, {"steady-native", 0}} {
		started, err := b.start(ctx, p.name, manifest.Operator{})
		if err != nil {
			return err
		}
		err = b.hold(ctx, t, p.name, p.each, started)
		if e := started.close(); err == nil {
			err = e
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (b *bench) hold(ctx context.Context, t *tabwriter.Writer, name string, most int64, p *running) error {
	if err := p.Generate(ctx, ask("many", "100"), discard); err != nil { // what is needed once
		return err
	}
	before := memory(p.pids())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan time.Duration, b.streams)
	began := time.Now()
	var streams sync.WaitGroup
	for range b.streams {
		streams.Go(func() {
			p.Generate(ctx, ask("hold", ""), func(sdk.Chunk) error { // ends when it is cancelled
				first <- time.Since(began)
				return nil
			})
		})
	}
	var all []time.Duration
	for range b.streams {
		select {
		case d := <-first:
			all = append(all, d)
		case <-time.After(time.Minute):
			return fmt.Errorf("%d streams of %d began", len(all), b.streams)
		}
	}
	total := memory(p.pids()) - before
	slices.Sort(all)
	target := ""
	if most > 0 {
		const thousand = 350 << 20
		n := int64(b.streams)
		target = fmt.Sprintf("150 KB each: %s, 350 MB for 1,000: %s", verdict(total/n <= most), verdict(total*1000/n <= thousand))
	}
	fmt.Fprintf(t, "%s\t%d KB\t%d MB\t%d\t%s\t%s\t%s\t\n", name, total/int64(b.streams)>>10, total>>20, pprof.Lookup("threadcreate").Count(),
		all[len(all)/2].Round(time.Millisecond), all[len(all)*99/100].Round(time.Millisecond), target)
	cancel()
	streams.Wait()
	runtime.GC()
	return nil
}
