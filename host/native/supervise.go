package native

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// maxMissed is how many health checks in a row may fail.
const maxMissed = 3

// Run replaces the plugin's process whenever it dies, falls silent or takes more memory than its
// manifest allows, until ctx is done or [Plugin.Close] is called. Then it ends the process, and
// returns when everything has ended. While no process is up, calls fail at once as Unavailable,
// with the time until the next start; processes that die young are replaced later and later.
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
	p.supervise(ctx)
	p.shutdown(ctx)
	return nil
}

func (p *Plugin) supervise(ctx context.Context) {
	young := 0 // deaths in a row
	for {
		p.mu.Lock()
		proc := p.proc
		p.mu.Unlock()
		if proc == nil {
			return // closed
		}
		err := p.watch(ctx, proc)
		if err == nil {
			return
		}
		if time.Since(proc.began) >= p.opts.BackoffReset {
			young = 0
		}
		wait := p.backoff(young)
		if !p.down(proc, wait) {
			return
		}
		p.log.Error("plugin lost", "err", err, "restart_in", wait)
		proc.end(0)
		for {
			if !p.pause(ctx, wait) {
				return
			}
			young++
			err := p.startProcess(ctx)
			if err == nil {
				break
			}
			if p.stop.Err() != nil || ctx.Err() != nil {
				return
			}
			wait = p.backoff(young)
			p.down(nil, wait)
			p.log.Error("restart plugin", "err", err, "restart_in", wait)
		}
	}
}

// watch returns why the process has to be replaced, or nil when the plugin is to end.
func (p *Plugin) watch(ctx context.Context, proc *process) error {
	tick := time.NewTicker(p.opts.HealthInterval)
	defer tick.Stop()
	for missed := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-p.closing: // the calls under way are the last ones of this process
			return nil
		case <-proc.runner.exited:
			return proc.runner.exitError()
		case <-tick.C:
		}
		if used, err := memory(proc.runner.pid()); err == nil && used > p.m.Limits.Memory {
			return fmt.Errorf("it uses %d bytes of memory and may use %d", used, p.m.Limits.Memory)
		}
		err := p.ping(ctx, proc)
		if err == nil {
			missed = 0
			continue
		}
		if missed++; missed == maxMissed {
			return fmt.Errorf("it answered no health check: %w", err)
		}
	}
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

// memory is the resident size of a process in bytes.
func memory(pid int) (int64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, errors.New("statm is malformed")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// down takes the process out of service, if it still is the plugin's.
func (p *Plugin) down(proc *process, wait time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retryAt = time.Now().Add(wait)
	if proc == nil {
		return true
	}
	if p.proc != proc {
		return false // shutdown has it
	}
	p.proc = nil
	p.restarts++
	return true
}

func (p *Plugin) backoff(young int) time.Duration {
	if young == 0 {
		return 0
	}
	d := p.opts.BackoffMin << min(young-1, 20)
	if d <= 0 || d > p.opts.BackoffMax {
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
