package host

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// BenchmarkEmit is what a chunk costs the plugin.
func BenchmarkEmit(b *testing.B) {
	const most = 1 << 30
	sink := sinkFunc(func(...job.Event) error { return nil })
	s := newStream(sink, 25*time.Millisecond, 1<<20, semaphore.NewWeighted(most), most, nil)
	done := make(chan error, 1)
	go func() { done <- s.run(context.Background()) }()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.emit(ctx, sdk.Text(" token")); err != nil {
			b.Fatal(err)
		}
	}
	s.close()
	<-done
}

// BenchmarkFirstChunk is the time from the acceptance of a job to its first
// chunk on the job's channel, with a provider in this process.
func BenchmarkFirstChunk(b *testing.B) {
	w := newWorld(b, startServer(b).addr)
	w.host(tuned(nil), provider("fake", saying(sdk.Text("x"))))
	sub := w.rdb.PSubscribe(b.Context(), job.Channel("*"))
	defer sub.Close()
	if _, err := sub.Receive(b.Context()); err != nil {
		b.Fatal(err)
	}
	messages := sub.Channel()
	for b.Loop() {
		w.create(job.Job{})
		for m := range messages {
			if f, err := job.ParseFrame([]byte(m.Payload)); err == nil && f.Event == job.EventChunk {
				break
			}
		}
		b.StopTimer()
		for m := range messages {
			if f, err := job.ParseFrame([]byte(m.Payload)); err == nil && f.Terminal() {
				break
			}
		}
		b.StartTimer()
	}
}

// BenchmarkRetryAfter measures how late a job is tried again after the wait that
// its provider told, with many of them waiting at once.
func BenchmarkRetryAfter(b *testing.B) {
	w := newWorld(b, startServer(b).addr)
	const wait = 300 * time.Millisecond
	var mu sync.Mutex
	due := map[string]time.Time{}
	var late []time.Duration
	w.host(tuned(nil), provider("fake", func(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
		mu.Lock()
		defer mu.Unlock()
		at, again := due[req.JobID]
		if !again {
			due[req.JobID] = time.Now().Add(wait)
			return &sdk.Error{Kind: sdk.Limited, Wait: wait}
		}
		late = append(late, time.Since(at))
		return emit(sdk.Text("now"))
	}))
	for b.Loop() {
		var ids []string
		for range 50 {
			ids = append(ids, w.create(job.Job{}))
		}
		for _, id := range ids {
			w.follow(id, 0)
		}
	}
	slices.Sort(late)
	if late[0] < 0 {
		b.Errorf("a job was tried again %s early", -late[0])
	}
	b.ReportMetric(float64(late[len(late)/2].Microseconds())/1000, "p50-ms-late")
	b.ReportMetric(float64(late[(len(late)-1)*99/100].Microseconds())/1000, "p99-ms-late")
}
