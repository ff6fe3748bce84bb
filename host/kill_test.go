package host

import (
	"context"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

var startedPID = regexp.MustCompile(`msg="plugin process started".* pid=(\d+)`)

// The process of a native plugin is killed under a hundred streams: each of its
// jobs is run again and completes, those of another plugin go on, and there is a
// process again.
func TestPluginIsKilledUnderStreams(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	place(t, filepath.Join(root, "echo"), echoManifest, echoProgram(t))
	const streams = 100
	proceed := make(chan struct{})
	w := newWorld(t, startServer(t).addr)
	h := w.host(tuned(func(c *config.Config) {
		c.Plugins.Dirs = []string{root}
		c.Host.Concurrency = 3 * streams
	}), provider("other", func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
		if err := emit(sdk.Text("a")); err != nil {
			return err
		}
		select {
		case <-proceed:
		case <-ctx.Done():
			return ctx.Err()
		}
		return emit(sdk.Text("b"))
	}))
	var ours, others []string
	for range streams {
		ours = append(ours, w.create(job.Job{Models: []string{"echo"}, Query: "one two three", Params: json.RawMessage(`{"options":{"tokens":100,"delay_ms":20}}`)}))
		others = append(others, w.create(job.Job{Models: []string{"m"}}))
	}
	for _, id := range append(ours[:streams:streams], others...) {
		w.waitFor(id, "a chunk", isEvent(job.EventChunk))
	}
	h.mu.Lock()
	found := startedPID.FindStringSubmatch(h.logs.String())
	h.mu.Unlock()
	if found == nil {
		t.Fatal("the log names no process")
	}
	pid, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is another process", func() bool { return h.logged("plugin process started") == 2 })
	t.Logf("another process after %v", time.Since(killed).Round(time.Millisecond))
	close(proceed)
	var mu sync.Mutex
	attempts := map[int64]int{}
	var reading sync.WaitGroup
	for _, id := range ours {
		reading.Go(func() {
			c := w.follow(id, 0).complete()
			mu.Lock()
			defer mu.Unlock()
			attempts[c.Attempt]++
		})
	}
	for _, id := range others {
		reading.Go(func() {
			if c := w.follow(id, 0).complete(); c.Attempt != 1 || c.Text != "ab" {
				t.Errorf("a job of the other plugin: attempt %d, %q", c.Attempt, c.Text)
			}
		})
	}
	reading.Wait()
	t.Logf("%d jobs of the killed process completed, by attempt: %v", streams, attempts)
	if attempts[2] == 0 {
		t.Error("no job was run again: the kill came too late")
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
}
