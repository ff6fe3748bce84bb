package native

import (
	"log/slog"
	"os"
	"testing"

	"github.com/sluicehq/sluice/host/manifest"
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

// BenchmarkStart is from the artifact in the store to the answer to the first call.
func BenchmarkStart(b *testing.B) {
	m, o := benchmarked(b)
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
