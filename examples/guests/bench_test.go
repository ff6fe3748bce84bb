package guests

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/sdk"
)

func question(model, prompt string, options map[string]any) *sdk.Request {
	req := &sdk.Request{
		JobID: "bench", Attempt: 1, Model: model,
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(prompt)}}},
		Options:  map[string]json.RawMessage{"delay_ms": json.RawMessage("0")},
	}
	for name, v := range options {
		req.Options[name] = sdk.JSON(v)
	}
	return req
}

func discard(sdk.Chunk) error { return nil }

// BenchmarkEmit is one chunk of 20 bytes, from the guest's loop to the host's
// callback.
func BenchmarkEmit(b *testing.B) {
	for _, l := range languages {
		b.Run(l.name, func(b *testing.B) {
			p := l.load(b)
			const n = 200_000
			req := question(p.Name, strings.Repeat(" abcdefghijklmnopqrs", 100), map[string]any{"tokens": n})
			for b.Loop() {
				if err := p.Generate(b.Context(), req, discard); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/chunk")
		})
	}
}

// BenchmarkJob is a whole job with one word to say: a pristine instance, the
// request read, three chunks, and the end of it.
func BenchmarkJob(b *testing.B) {
	for _, l := range languages {
		b.Run(l.name, func(b *testing.B) {
			p := l.load(b)
			req := question(p.Name, "yes", nil)
			for b.Loop() {
				if err := p.Generate(b.Context(), req, discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
