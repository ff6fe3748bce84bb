//go:build linux

package sandbox

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

func discard(sdk.Chunk) error { return nil }

// BenchmarkJob is a whole job with one chunk: instance, call, and the end of it.
func BenchmarkJob(b *testing.B) {
	b.Run("go", func(b *testing.B) {
		p, _ := load(b, guestManifest(b, manifest.Operator{}))
		gen := p.Provider().Generate
		req := ask("many", "1")
		for b.Loop() {
			if err := gen(b.Context(), req, discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("wat", func(b *testing.B) {
		p, _ := load(b, installed(b, attackModule(b), "memory: 64MiB"))
		for b.Loop() {
			if _, err := p.invoke(b.Context(), "sluice_generate", nil, discard); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkInstantiate is a pristine instance and its end.
func BenchmarkInstantiate(b *testing.B) {
	p, _ := load(b, guestManifest(b, manifest.Operator{}))
	c, release := p.newCall(b.Context(), nil, nil)
	defer release()
	for b.Loop() {
		in, err := p.instantiate(c)
		if err != nil {
			b.Fatal(err)
		}
		in.mod.Close(b.Context())
	}
}

// BenchmarkEmit is one chunk over the boundary, from a Go guest.
func BenchmarkEmit(b *testing.B) {
	p, _ := load(b, guestManifest(b, manifest.Operator{Limits: manifest.Limits{}}))
	const n = 100_000
	req := ask("many", strconv.Itoa(n))
	for b.Loop() {
		if err := p.Provider().Generate(b.Context(), req, discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/chunk")
}

// BenchmarkJSON is ordinary work in a Go guest: a chunk of JSON decoded.
func BenchmarkJSON(b *testing.B) {
	p, _ := load(b, guestManifest(b, manifest.Operator{}))
	const n = 2000
	req := ask("work", strconv.Itoa(n))
	for b.Loop() {
		if err := p.Provider().Generate(b.Context(), req, discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/decode")
}

// BenchmarkHostile shows how late after its deadline hostile code ends, and how
// long the garbage collector waits for it.
func BenchmarkHostile(b *testing.B) {
	p, _ := load(b, installed(b, attackModule(b), "memory: 64MiB, output: 4GiB, cpu: 24h"))
	const deadline = 200 * time.Millisecond
	for _, export := range []string{"spin", "spin_table", "fib", "mutual", "fill", "copy", "grow", "random", "writev", "emit_flood", "overflow"} {
		b.Run(export, func(b *testing.B) {
			var late, pause time.Duration
			var cpu int64
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), deadline)
				done := make(chan struct{})
				go func() {
					defer close(done)
					c, release := p.newCall(ctx, nil, discard)
					defer release()
					p.run(c, export)
					end, _ := ctx.Deadline()
					late = max(late, time.Since(end))
					cpu = c.fuel
				}()
				for running := true; running; {
					start := time.Now()
					runtime.GC()
					pause = max(pause, time.Since(start))
					select {
					case <-done:
						running = false
					case <-time.After(5 * time.Millisecond):
					}
				}
				cancel()
			}
			b.ReportMetric(float64(late.Microseconds())/1000, "ms-late-max")
			b.ReportMetric(float64(pause.Microseconds())/1000, "ms-gc-max")
			b.ReportMetric(float64(cpu)/1e6, "Mfuel")
		})
	}
}

// BenchmarkStreams holds many instances at once and shows what each costs.
func BenchmarkStreams(b *testing.B) {
	p, _ := load(b, guestManifest(b, manifest.Operator{}))
	for _, n := range []int{1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				before := residentKB(b)
				release, started, done := make(chan struct{}), make(chan struct{}, n), make(chan error, n)
				for range n {
					go func() {
						done <- p.Provider().Generate(b.Context(), ask("many", "2"), func(sdk.Chunk) error {
							select {
							case started <- struct{}{}:
							default:
							}
							<-release
							return nil
						})
					}()
				}
				for range n {
					<-started
				}
				b.ReportMetric(float64(residentKB(b)-before)/float64(n), "KB/stream")
				close(release)
				var errs []error
				for range n {
					errs = append(errs, <-done)
				}
				if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
					b.Fatal(errs[i])
				}
			}
		})
	}
}
