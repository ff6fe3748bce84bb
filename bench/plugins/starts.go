package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
)

// starting measures the load of guests in processes of their own: with an empty
// cache, where they are installed, then from the cache.
func (b *bench) starting(ctx context.Context) error {
	guests := []string{"echo-sandbox", "openai-sandbox"}
	for _, name := range guests {
		if _, err := b.built(ctx, name); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	seen := map[string][][2]time.Duration{} // of each guest: to load it, and the first job
	for range b.starts + 1 {
		cmd := exec.CommandContext(ctx, self, "-child", b.dir)
		cmd.Env = append(os.Environ(), childVariable+"=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		for line := range strings.Lines(string(out)) {
			var name string
			var load, job int64
			if _, err := fmt.Sscan(line, &name, &load, &job); err != nil {
				return fmt.Errorf("start said %q: %w", line, err)
			}
			seen[name] = append(seen[name], [2]time.Duration{time.Duration(load), time.Duration(job)})
		}
	}
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "start of a guest, a new process each\tinstalled\tfrom the cache\tmedian\tfirst job\ttarget from the cache\t\n")
	for _, name := range guests {
		all := seen[name]
		var cached, jobs []time.Duration
		for _, s := range all[1:] {
			cached, jobs = append(cached, s[0]), append(jobs, s[1])
		}
		slices.Sort(cached)
		slices.Sort(jobs)
		fmt.Fprintf(t, "%s\t%v\t%v\t%v\t%v\t%s\t\n", name, all[0][0].Round(time.Millisecond), cached[0].Round(time.Millisecond),
			cached[len(cached)/2].Round(time.Millisecond), jobs[len(jobs)/2].Round(10*time.Microsecond), target{100 * time.Millisecond, "100 ms"}.judge(cached[len(cached)/2]))
	}
	return nil
}

const childVariable = "PLUGINS_CHILD"

// startChild loads the guests below dir one after the other.
func startChild(ctx context.Context, dir string, out io.Writer) error {
	log := slog.New(slog.DiscardHandler)
	rt, err := sandbox.NewRuntime(ctx, sandbox.Options{CacheDir: filepath.Join(dir, "starts"), Log: log})
	if err != nil {
		return err
	}
	defer rt.Close(ctx)
	for _, name := range []string{"echo-sandbox", "openai-sandbox"} {
		began := time.Now()
		m, err := manifest.Load(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		gate, err := egress.New(m, egress.Options{Log: log})
		if err != nil {
			return err
		}
		p, err := rt.Load(ctx, m, gate)
		if err != nil {
			return err
		}
		loaded := time.Now()
		// openai has no upstream here: the job ends where it asks for it.
		req := ask(m.Models[0].Name, "hello")
		req.Options = map[string]json.RawMessage{"delay_ms": json.RawMessage("0")}
		p.Provider().Generate(ctx, req, func(sdk.Chunk) error { return nil })
		fmt.Fprintln(out, name, loaded.Sub(began).Nanoseconds(), time.Since(loaded).Nanoseconds())
		if err := p.Close(ctx); err != nil {
			return err
		}
		gate.Close()
	}
	return nil
}
