package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

var discard = slog.New(slog.DiscardHandler)

func TestStopLetsStreamsFinish(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		running, release := make(chan bool), make(chan bool)
		h := w.host(tuned(nil), provider("fake", func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
			if err := emit(sdk.Text("first ")); err != nil {
				return err
			}
			running <- true
			select {
			case <-release:
				return emit(sdk.Text("last"))
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
		id := w.create(job.Job{})
		<-running
		h.stop()
		later := w.create(job.Job{}) // for whoever comes next
		close(release)
		if c := w.follow(id, 0).complete(); c.Text != "first last" || c.Attempt != 1 {
			t.Errorf("complete is %+v", c)
		}
		if err := h.end(); err != nil {
			t.Errorf("host ended with %v", err)
		}
		hosts, err := job.NewHosts(w.store, discard, job.HostsOptions{}).List(t.Context())
		if err != nil || len(hosts) != 0 {
			t.Errorf("after the end %v are announced, error %v", hosts, err)
		}
		w.host(tuned(nil), provider("fake", saying(sdk.Text("next host"))))
		w.follow(later, 0).complete()
	})
}

func TestStopHandsOverWhatIsLeft(t *testing.T) {
	onEachRedis(t, func(t *testing.T, addr string) {
		w := newWorld(t, addr)
		s := newStuck(sdk.Text("half an answer"))
		cfg := tuned(func(c *config.Config) {
			c.Host.Grace = 0
			c.Host.MaxAttempts = 1 // a hand-over is no failure
		})
		first := w.host(cfg, provider("fake", s.generate))
		ids := make([]string, 5)
		for i := range ids {
			ids[i] = w.create(job.Job{})
			<-s.waiting
		}
		second := w.host(cfg, provider("fake", saying(sdk.Text("a whole answer"))))
		if err := first.end(); err != nil {
			t.Errorf("host ended with %v", err)
		}
		for range ids {
			if cause := <-s.stopped; !errors.Is(cause, errStopping) {
				t.Errorf("generation was stopped with %v", cause)
			}
		}
		for _, id := range ids {
			l := w.follow(id, 0)
			if c := l.complete(); c.Text != "a whole answer" || c.Attempt != 2 {
				t.Errorf("complete is %+v", c)
			}
			if strings.Contains(l.names(), "retrying") {
				t.Errorf("a hand-over was told as a failure: %s", l)
			}
		}
		first.wantOutcomes(map[string]int{"handed_over": 5})
		second.wantOutcomes(map[string]int{"complete": 5})
	})
}

// A rolling restart under load: hosts come and go, nothing is lost.
func TestRollingRestart(t *testing.T) {
	w := newWorld(t, startServer(t).addr)
	generate := func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
		for i := range 50 {
			if err := emit(sdk.Text(fmt.Sprint(i, " "))); err != nil {
				return err
			}
			if !sleep(ctx, 4*time.Millisecond) {
				return context.Cause(ctx)
			}
		}
		return nil
	}
	cfg := tuned(func(c *config.Config) {
		c.Host.Grace = 50 * time.Millisecond
		c.Host.MaxAttempts = 1
		c.Host.Concurrency = 20
	})
	hosts := []*hosting{w.host(cfg, provider("fake", generate)), w.host(cfg, provider("fake", generate))}
	var mu sync.Mutex
	var wg sync.WaitGroup
	again := 0
	for range 8 {
		wg.Go(func() {
			for range 12 {
				id := w.create(job.Job{})
				l := w.follow(id, 0)
				if n := countedText(t, l.complete().Text); n != 50 {
					t.Errorf("%d words", n)
				}
				mu.Lock()
				if l.last().Attempt > 1 {
					again++
				}
				mu.Unlock()
			}
		})
	}
	for i := range 4 {
		fresh := w.host(cfg, provider("fake", generate))
		if err := hosts[i%2].end(); err != nil {
			t.Errorf("host ended with %v", err)
		}
		hosts[i%2] = fresh
	}
	wg.Wait()
	t.Logf("%d jobs were handed over", again)
}
