package gateway

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/sluicehq/sluice/proto/job"
)

// Sockets are told of models that have changed, and not of what they were
// greeted with, the first ones included.
func TestNoNewsOfModels(t *testing.T) {
	rdb := memoryRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t.Context(), Options{Config: testConfig(), Redis: rdb, Log: testLog(t)}, openDoor{})
		f := &fakeCensus{models: []job.ModelInfo{{Name: "a"}}}
		c.models = &models{census: f, log: testLog(t)}
		ctx, cancel := context.WithCancel(t.Context())
		defer c.work.Wait()
		defer cancel()
		go c.pushModels(ctx)
		w := &fakeWire{}
		s := c.open(identity{User: anonymous}, w)
		defer s.end("test over")
		sleep(ctx, 3*modelsPush)
		if got := w.of(eventModels); len(got) != 0 {
			t.Errorf("told without a change: %s", got)
		}
		f.mu.Lock()
		f.models = append(f.models, job.ModelInfo{Name: "b"})
		f.mu.Unlock()
		sleep(ctx, 2*modelsPush)
		if got := w.of(eventModels); len(got) != 1 {
			t.Errorf("told %d times of one change", len(got))
		}
	})
}
