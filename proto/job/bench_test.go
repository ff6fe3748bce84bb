package job

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
)

func benchStore(b *testing.B, general bool) *Store {
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: startServer(b).socket, PoolSize: 64})
	b.Cleanup(func() { rdb.Close() })
	return NewStore(rdb, Options{General: general})
}

// BenchmarkAppend is one fenced append of one chunk, log and publication, on a redis-server: one stream, and many at once.
func BenchmarkAppend(b *testing.B) {
	for _, general := range []bool{false, true} {
		b.Run(fmt.Sprintf("one stream/general=%v", general), func(b *testing.B) {
			s := benchStore(b, general)
			a := begin(b, s, create(b, s, Job{}), "h")
			for b.Loop() {
				must(b, a.Append(b.Context(), &Chunk{Chunk: " some tokens of text"}))
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
	b.Run("32 streams", func(b *testing.B) {
		s := benchStore(b, true)
		b.SetParallelism(16)
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			a := begin(b, s, create(b, s, Job{}), fmt.Sprint("h", n.Add(1)))
			for pb.Next() {
				must(b, a.Append(b.Context(), &Chunk{Chunk: " some tokens of text"}))
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	})
}

func BenchmarkEncodeChunk(b *testing.B) {
	c := &Chunk{Head: Head{JobID: NewID(), UserID: "ann", Attempt: 1, Seq: 1}, Chunk: strings.Repeat("some text, ", 8)}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			appendChunk(nil, c, 0, 1)
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			appendJSON(nil, c)
		}
	})
}

func BenchmarkParseFrame(b *testing.B) {
	raw := appendChunk(nil, &Chunk{Head: Head{JobID: NewID(), UserID: "ann", Attempt: 1, Seq: 1}, Chunk: strings.Repeat("some text, ", 8)}, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseFrame(raw); err != nil {
			b.Fatal(err)
		}
	}
}
