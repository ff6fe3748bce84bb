package native

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/sdk"
)

func benchmarked(b *testing.B) (*manifest.Manifest, Options) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	m := fixture(b, "fault", exe)
	run, err := os.MkdirTemp("", "sl")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(run) })
	return m, Options{Log: slog.New(slog.DiscardHandler), CacheDir: storeDir, RunDir: run}
}

// BenchmarkNeighbours is how late the chunks of a plugin come that emits one every 5 ms: alone, and
// beside another one that writes without end, takes memory until it is ended and multiplies.
func BenchmarkNeighbours(b *testing.B) {
	m, o := benchmarked(b)
	m.Limits.Memory = 256 << 20
	var plugins [2]*Plugin
	for i := range plugins {
		p, err := Start(b.Context(), m, o)
		if err != nil {
			b.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Run(context.Background()) }()
		b.Cleanup(func() {
			if err := errors.Join(p.Close(context.Background()), <-ended); err != nil {
				b.Error(err)
			}
		})
		plugins[i] = p
	}
	late := func() time.Duration {
		var gaps []time.Duration
		last := time.Now()
		err := plugins[0].Provider().Generate(b.Context(), prompt("paced"), func(sdk.Chunk) error {
			now := time.Now()
			gaps = append(gaps, now.Sub(last)-pace)
			last = now
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		slices.Sort(gaps)
		return gaps[len(gaps)*99/100]
	}
	var alone, beside time.Duration
	for b.Loop() {
		alone += late()
		ctx, cancel := context.WithCancel(b.Context())
		var attacks sync.WaitGroup
		for _, attack := range []string{"babble", "grow", "multiply 98765.5", "tokens"} {
			attacks.Go(func() {
				for ctx.Err() == nil {
					_ = plugins[1].Provider().Generate(ctx, prompt(attack), func(sdk.Chunk) error { return nil }) // it dies of it
				}
			})
		}
		beside += late()
		cancel()
		attacks.Wait()
	}
	b.ReportMetric(float64(alone.Microseconds())/float64(b.N), "µs-p99-alone")
	b.ReportMetric(float64(beside.Microseconds())/float64(b.N), "µs-p99-beside")
	b.ReportMetric(float64(plugins[1].State().Restarts), "restarts")
}

// BenchmarkStart is from the artifact in the store to the answer to the first call, without a box
// and in the tightest.
func BenchmarkStart(b *testing.B) {
	for _, level := range []box.Level{{}, box.Find()} {
		b.Run("box="+strings.ReplaceAll(level.String(), ", ", "+"), func(b *testing.B) {
			m, o := benchmarked(b)
			o.Box = &level
			o.setDefaults()
			p, err := Start(b.Context(), m, o)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close(ended())
			for b.Loop() {
				proc, err := p.launch(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				proc.end(o.StopTimeout)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkChunks is one stream of small chunks, flat out, both processes together.
func BenchmarkChunks(b *testing.B) {
	m, o := benchmarked(b)
	p, err := Start(b.Context(), m, o)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(ended())
	n, want := 0, b.N
	b.ReportAllocs()
	b.ResetTimer()
	err = p.Provider().Generate(b.Context(), prompt("tokens"), func(sdk.Chunk) error {
		if n++; n == want {
			return errClosed
		}
		return nil
	})
	if n != want {
		b.Fatal(n, err)
	}
}

// BenchmarkCall is a whole generation of one chunk.
func BenchmarkCall(b *testing.B) {
	m, o := benchmarked(b)
	p, err := Start(b.Context(), m, o)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(ended())
	generate := p.Provider().Generate
	for b.Loop() {
		if err := generate(b.Context(), prompt("pid"), func(sdk.Chunk) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
