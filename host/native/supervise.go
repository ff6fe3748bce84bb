package native

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sluicehq/sluice/proto/provider"
	"github.com/sluicehq/sluice/sdk"
)

const (
	// maxMissed is how many health checks in a row may fail.
	maxMissed = 3
	// crashLoop is how many processes in a row may die young.
	crashLoop = 5
	// maxDraining is how many processes that were replaced a slot may have beside its own: each may
	// take as much memory.
	maxDraining = 3
)

// Run replaces a process of the plugin whenever it dies, falls silent, takes more memory than the
// manifest allows or works on for nobody, until ctx is done or [Plugin.Close] is called. Then it
// ends them all, and returns when everything has ended. While no process is up, calls fail at once
// as Unavailable, with the time until the next start; processes that die young are replaced later
// and later.
func (p *Plugin) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.closed || p.running != nil {
		defer p.mu.Unlock()
		if p.running != nil {
			return errRunning
		}
		return nil
	}
	done := make(chan struct{})
	p.running = done
	p.mu.Unlock()
	defer close(done)
	var supervisors sync.WaitGroup
	for _, s := range p.slots[1:] {
		supervisors.Go(func() { s.supervise(ctx) })
	}
	p.slots[0].supervise(ctx)
	supervisors.Wait()
	p.shutdown(ctx)
	return nil
}

func (s *slot) supervise(ctx context.Context) {
	p := s.plugin
	for {
		proc := s.current()
		if proc == nil {
			return // closed
		}
		err := s.watch(ctx, proc)
		if err == nil {
			return
		}
		if stays := (*overstayError)(nil); errors.As(err, &stays) && s.replace(ctx, err) {
			continue
		}
		wait, mine := s.lose(proc, err)
		if !mine {
			return
		}
		p.log.Error("plugin lost", "error", err, "restart_in", wait)
		proc.end(0)
		if !s.revive(ctx, wait) {
			return
		}
	}
}

// replace starts another process beside the one that is to go.
func (s *slot) replace(ctx context.Context, why error) bool {
	p := s.plugin
	p.log.Warn("plugin process is replaced", "error", why)
	if err := s.start(ctx); err != nil {
		p.log.Error("replace plugin process", "error", err)
		return false
	}
	p.mu.Lock()
	s.replaced++
	p.mu.Unlock()
	return true
}

// revive tries until there is a process again. It gives up when the plugin is to end.
func (s *slot) revive(ctx context.Context, wait time.Duration) bool {
	p := s.plugin
	told := false
	for {
		if s.open() && !told {
			told = true
			p.log.Error("plugin dies in a loop, its circuit is open", "deaths", crashLoop, "retry_in", wait)
		}
		if !p.pause(ctx, wait) {
			return false
		}
		err := s.start(ctx)
		if err == nil {
			return true
		}
		if p.stop.Err() != nil || ctx.Err() != nil {
			return false
		}
		wait = s.failed(err)
		p.log.Error("restart plugin", "error", err, "restart_in", wait)
	}
}

// watch returns why the process has to be replaced, or nil when the plugin is to end.
func (s *slot) watch(ctx context.Context, proc *process) error {
	p := s.plugin
	health := time.NewTicker(p.opts.HealthInterval)
	defer health.Stop()
	usage := time.NewTicker(p.opts.UsageInterval)
	defer usage.Stop()
	if p.groups != nil {
		usage.Stop() // the kernel looks all the time
	}
	over := map[string]time.Time{} // calls that nobody waits for: since when
	told := false
	for missed := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-p.closing: // the calls under way are the last ones of this process
			return nil
		case <-proc.runner.exited:
			return proc.runner.exitError()
		case <-usage.C:
			if err := p.checkUsage(proc.runner.pid()); err != nil {
				return err
			}
			continue
		case <-health.C:
		}
		err := p.ping(ctx, proc)
		if err == nil {
			missed = 0
			err = p.reconcile(ctx, proc, over)
			if stays := (*overstayError)(nil); !errors.As(err, &stays) {
				continue
			}
			if !s.crowded() {
				return err
			}
			if !told {
				told = true
				p.log.Warn("plugin process is not replaced before others have drained", "draining", maxDraining, "error", err)
			}
			continue
		}
		if missed++; missed == maxMissed {
			return fmt.Errorf("it answered no health check: %w", err)
		}
	}
}

// checkUsage looks at what the process and its children take.
func (p *Plugin) checkUsage(pid int) error {
	used := measure(pid)
	if used.memory > p.m.Limits.Memory {
		return fmt.Errorf("it uses %d bytes of memory and may use %d", used.memory, p.m.Limits.Memory)
	}
	if used.tasks > MaxTasks {
		return fmt.Errorf("it runs more than %d processes and threads", MaxTasks)
	}
	return nil
}

func (p *Plugin) ping(ctx context.Context, proc *process) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.HealthTimeout)
	defer cancel()
	resp, err := healthpb.NewHealthClient(proc.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: goplugin.GRPCServiceName})
	if err != nil {
		return err
	}
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		return errors.New("it says that it is not serving")
	}
	return nil
}

// overstayError names calls that a process works on although they have ended for everybody else.
type overstayError struct{ calls []string }

func (e *overstayError) Error() string {
	return "it goes on with calls that were cancelled: " + strings.Join(e.calls[:min(len(e.calls), 5)], ", ")
}

// reconcile asks the process which calls it works on. A handler that ignores its cancellation is
// invisible otherwise, and costs what it costs until the process ends.
func (p *Plugin) reconcile(ctx context.Context, proc *process, over map[string]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.HealthTimeout)
	defer cancel()
	out, err := provider.Call(ctx, proc.conn, provider.Running, nil)
	if status.Code(err) == codes.Unimplemented {
		return nil // built with an older SDK, or none
	}
	if err != nil {
		return err
	}
	keys, err := sdk.DecodeRunning(out)
	if err != nil {
		return err
	}
	p.mu.Lock()
	keys = slices.DeleteFunc(keys, func(key string) bool { return proc.keys[key] > 0 })
	p.mu.Unlock()
	for key := range over {
		if !slices.Contains(keys, key) {
			delete(over, key)
		}
	}
	var stay []string
	now := time.Now()
	for _, key := range keys[:min(len(keys), 1000)] {
		if since, known := over[key]; !known {
			over[key] = now
		} else if now.Sub(since) >= p.opts.Overstay {
			stay = append(stay, key)
		}
	}
	if len(stay) > 0 {
		return &overstayError{stay}
	}
	return nil
}

// backoff is the wait after so many deaths in a row before this one.
func (p *Plugin) backoff(deaths int) time.Duration {
	if deaths == 0 {
		return 0
	}
	d := p.opts.BackoffMin << min(deaths-1, 20)
	if d <= 0 || d > p.opts.BackoffMax || deaths+1 >= crashLoop {
		d = p.opts.BackoffMax
	}
	return d - rand.N(d/5+1) // so that plugins which died together don't start together
}

func (p *Plugin) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-p.closing:
	}
	return false
}
