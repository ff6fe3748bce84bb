package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// tally is what came of the answers so far.
type tally struct {
	mu                            sync.Mutex
	whole                         int
	failed, again, cut, otherwise int // dropped, by how
	versions                      map[string]int
	first                         string // of what went wrong
}

func (t *tally) dropped() int { return t.failed + t.again + t.cut + t.otherwise }

// measure streams answers and swaps the plugin until the time is over.
func measure(ctx context.Context, rdb redis.UniversalClient, v *versions, reload chan<- struct{}) error {
	store := job.NewStore(rdb, job.Options{TTL: time.Minute})
	tickets := job.NewQueue(rdb)
	t := &tally{versions: map[string]int{}}
	// Those that ask stop first: what was asked is answered.
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	var clients sync.WaitGroup
	defer clients.Wait()
	for range *streams {
		clients.Go(func() {
			for asking.Err() == nil {
				t.add(ask(ctx, store, tickets))
			}
		})
	}
	warm, stop := context.WithTimeout(ctx, min(*every, *lasting/5))
	<-warm.Done()
	stop()
	print := func(when string) {
		runtime.GC()
		host, plugins, n := memory()
		fmt.Printf("%-9s host %4d MiB, %d plugin processes %4d MiB, %d goroutines\n", when, host>>20, n, plugins>>20, runtime.NumGoroutine())
	}
	print("start")
	end := time.NewTimer(*lasting)
	defer end.Stop()
	tick := time.NewTicker(*every)
	defer tick.Stop()
	swaps := 0
	for over := false; !over; {
		select {
		case <-ctx.Done():
			return nil
		case <-end.C:
			over = true
		case <-tick.C:
			if err := v.swap(); err != nil {
				return err
			}
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			swaps++
		}
	}
	print("end")
	stopAsking()
	clients.Wait()
	print("after")
	fmt.Printf("%d swaps under %d streams: %d whole answers, %d dropped (%d failed, %d at another attempt, %d broke off, %d with another text), by %d versions\n",
		swaps, *streams, t.whole, t.dropped(), t.failed, t.again, t.cut, t.otherwise, len(t.versions))
	if t.dropped() > 0 {
		return fmt.Errorf("%d answers were dropped; the first: %s", t.dropped(), t.first)
	}
	return nil
}

// answer is what a client saw of one job.
type answer struct {
	last    job.Frame
	version string
	text    string
	err     error
}

func ask(ctx context.Context, store *job.Store, tickets *job.Queue) answer {
	j := job.Job{
		ID: job.NewID(), User: "bench", Query: "word", Models: []string{"echo"},
		Params: fmt.Appendf(nil, `{"options":{"tokens":%d,"delay_ms":%d}}`, *tokens, *delay),
	}
	if _, _, err := store.Create(ctx, j); err != nil {
		return answer{err: err}
	}
	if err := tickets.Enqueue(ctx, job.Ticket{Job: j.ID, Attempt: 1}, "", 0); err != nil {
		return answer{err: err}
	}
	var a answer
	var frames []job.Frame
	for f, err := range store.Follow(ctx, j.ID, 0) {
		if err != nil {
			return answer{err: err}
		}
		frames, a.last = append(frames, f), f
		if f.Event == job.EventStart {
			var start job.Start
			if err := json.Unmarshal(f.Data, &start); err != nil {
				return answer{err: err}
			}
			a.version = start.PluginDigest
		}
	}
	a.text, a.err = job.Text(frames)
	return a
}

func (t *tally) add(a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := strings.TrimSuffix(strings.Repeat("word ", *tokens), " ")
	wrong := ""
	switch {
	case a.err != nil:
		t.cut++
		wrong = a.err.Error()
	case a.last.Event != job.EventComplete:
		t.failed++
		wrong = string(a.last.Raw)
	case a.last.Attempt != 1:
		t.again++
		wrong = string(a.last.Raw)
	case a.text != want:
		t.otherwise++
		wrong = fmt.Sprintf("%q", a.text)
	default:
		t.whole++
		t.versions[a.version]++
	}
	if t.first == "" {
		t.first = wrong
	}
}

// memory is what this process and those below it that are no Redis have in memory, in bytes.
func memory() (own, below int64, processes int) {
	own = resident(os.Getpid())
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return own, 0, 0
	}
	for _, file := range children {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && !strings.Contains(string(name), "-server") {
				below += resident(pid)
				processes++
			}
		}
	}
	return own, below, processes
}

func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
