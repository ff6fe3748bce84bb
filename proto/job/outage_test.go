package job

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// persist is called until it succeeds or fails for good, as a host does.
func persist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !Retryable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestOutage kills Redis with kill -9 in the middle of streams and starts it again, with its data and without:
// every watcher sees every frame once, in order, to the end.
func TestOutage(t *testing.T) {
	for name, args := range map[string][]string{
		"data kept":         {"--appendonly", "yes", "--appendfsync", "always"},
		"data kept in part": {"--appendonly", "yes", "--appendfsync", "everysec"}, // a write waits for a sync under way
		"data lost":         {},
	} {
		t.Run(name, func(t *testing.T) {
			srv := startServer(t, args...)
			rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: srv.socket, MaxRetries: -1})
			t.Cleanup(func() { rdb.Close() })
			s := NewStore(rdb, Options{})
			tail := startTail(t, s, TailOptions{Merge: -1, Lost: time.Hour})
			const jobs, chunks = 8, 300
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()

			half := make(chan struct{}, jobs)
			goOn := make(chan struct{})
			var wg sync.WaitGroup
			for range jobs {
				k := create(t, s, Job{})
				snk := newSink(t, 0)
				tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
				wg.Go(func() {
					a := begin(t, s, k, "h")
					must(t, a.Append(ctx, &Start{}))
					for i := range chunks {
						if i == chunks/3 {
							half <- struct{}{}
						}
						if i == chunks*2/3 {
							<-goOn
						}
						e := []Event{chunk(fmt.Sprint(i, " "))}
						must(t, persist(ctx, func() error {
							err := a.Append(ctx, e...)
							e = nil // taken
							return err
						}))
					}
					must(t, persist(ctx, func() error { return a.Finish(ctx, &Complete{}) }))
					got := snk.wait()
					if n := len(got); n != chunks+2 {
						t.Errorf("%d frames", n)
					}
					var c Complete
					must(t, json.Unmarshal(got[len(got)-1].Data, &c))
					if text := textOf(t, got); c.Text != text || c.Digest != Digest(text) {
						t.Errorf("complete says %q, frames %q", c.Text, text)
					}
					logOf(t, s, k.Job)
				})
				if name == "data kept" {
					wg.Go(func() {
						next := int64(1)
						for f, err := range s.Follow(ctx, k.Job, 0) {
							must(t, err)
							if f.Seq != next {
								t.Errorf("follow: %d, want %d", f.Seq, next)
							}
							next = f.Seq + 1
						}
						if next != chunks+3 {
							t.Errorf("follow ended before %d", next)
						}
					})
				}
			}
			for range jobs {
				<-half
			}
			srv.kill()
			close(goOn)
			select { // an absence that everybody notices
			case <-time.After(700 * time.Millisecond):
			case <-ctx.Done():
			}
			srv.start()
			wg.Wait()
		})
	}
}

// A Tail that is started before Redis is there, and a job that ends while the Tail hears nothing.
func TestTailStartsWithoutRedis(t *testing.T) {
	srv := startServer(t, "--appendonly", "yes", "--appendfsync", "always") // everysec may hold back a write
	rdb := srv.client(t)
	s := NewStore(rdb, Options{})
	k := create(t, s, Job{})
	a := begin(t, s, k, "h")
	must(t, a.Append(t.Context(), &Start{}, chunk("x")))
	must(t, a.Finish(t.Context(), &Complete{}))
	srv.kill()
	tail := startTail(t, s, TailOptions{})
	snk := newSink(t, 0)
	tail.Watch(k.Job, 0, WatchFunc(snk.deliver), 0)
	srv.start()
	if got := events(snk.wait()); got != "start chunk complete" {
		t.Fatal(got)
	}
}

// Redis is full: appends are refused as retryable, and go through when there is room.
func TestOutOfMemory(t *testing.T) {
	srv := startServer(t, "--maxmemory-policy", "noeviction")
	rdb := srv.client(t)
	s := NewStore(rdb, Options{})
	ctx := t.Context()
	k := create(t, s, Job{})
	a := begin(t, s, k, "h")
	must(t, a.Append(ctx, &Start{}))
	must(t, rdb.ConfigSet(ctx, "maxmemory", "1").Err())
	if err := a.Append(ctx, chunk("a")); !Retryable(err) {
		t.Fatal(err)
	}
	if _, _, err := s.Create(ctx, Job{ID: NewID(), User: "u"}); !Retryable(err) {
		t.Fatal(err)
	}
	must(t, rdb.ConfigSet(ctx, "maxmemory", "0").Err())
	must(t, a.Append(ctx, chunk("b")))
	must(t, a.Finish(ctx, &Complete{}))
	if frames, _ := logOf(t, s, k.Job); textOf(t, frames) != "ab" {
		t.Fatal(textOf(t, frames))
	}
}
