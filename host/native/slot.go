package native

import (
	"context"
	"sync"
	"time"
)

// slot keeps one process of a plugin. Its fields but life are guarded by the plugin's mu.
type slot struct {
	plugin *Plugin
	life   sync.Mutex // held while a process is started, and for the last stop

	proc     *process  // nil: none at the moment
	retryAt  time.Time // when there will be one
	restarts int
	replaced int
	draining int // processes that were replaced and have not ended
	deaths   int // in a row, of processes that did not live for long
	death    error
	diedAt   time.Time
}

// start makes a new process the slot's. Calls may use it when it returns. The process that was
// the slot's until then takes no more calls, and ends when it has none left.
func (s *slot) start(ctx context.Context) error {
	p := s.plugin
	s.life.Lock()
	defer s.life.Unlock()
	if p.stop.Err() != nil {
		return errClosed
	}
	proc, err := p.launch(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	old := s.proc
	s.proc = proc
	close(p.up)
	p.up = make(chan struct{})
	if old != nil {
		s.draining++
		old.retired = true
		if old.calls == 0 {
			close(old.empty)
		}
	}
	p.mu.Unlock()
	if old != nil {
		p.drains.Go(func() {
			p.drain(old)
			p.mu.Lock()
			s.draining--
			p.mu.Unlock()
		})
	}
	p.log.Info("plugin process started", "pid", proc.runner.pid(), "version", proc.desc.Version, "sdk", proc.desc.SDK)
	return nil
}

// drain ends a process that was replaced, once its last call has ended or it has had its time.
func (p *Plugin) drain(proc *process) {
	t := time.NewTimer(p.opts.DrainTimeout)
	defer t.Stop()
	select {
	case <-proc.empty:
	case <-t.C:
	case <-p.stop.Done():
	case <-proc.runner.exited:
	}
	proc.end(p.opts.StopTimeout)
	p.log.Info("plugin process drained", "pid", proc.runner.pid())
}

// stop ends the slot's process for good.
func (s *slot) stop() {
	p := s.plugin
	s.life.Lock()
	defer s.life.Unlock()
	p.mu.Lock()
	proc := s.proc
	s.proc = nil
	p.mu.Unlock()
	if proc != nil {
		proc.end(p.opts.StopTimeout)
	}
}

func (s *slot) current() *process {
	s.plugin.mu.Lock()
	defer s.plugin.mu.Unlock()
	return s.proc
}

// lose takes the process out of service, if it still is the slot's, and returns how long the next
// one is waited for.
func (s *slot) lose(proc *process, death error) (wait time.Duration, mine bool) {
	p := s.plugin
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.proc != proc {
		return 0, false // stop has it
	}
	if time.Since(proc.began) >= p.opts.BackoffReset {
		s.deaths = 0
	}
	wait = p.backoff(s.deaths)
	s.deaths++
	s.proc, s.death, s.diedAt = nil, death, time.Now()
	s.retryAt = s.diedAt.Add(wait)
	s.restarts++
	return wait, true
}

// failed is lose for a process that did not come up.
func (s *slot) failed(death error) time.Duration {
	p := s.plugin
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := p.backoff(s.deaths)
	s.deaths++
	s.death, s.diedAt = death, time.Now()
	s.retryAt = s.diedAt.Add(wait)
	return wait
}

// crowded reports whether so many of the slot's processes drain that there can't be another one.
func (s *slot) crowded() bool {
	s.plugin.mu.Lock()
	defer s.plugin.mu.Unlock()
	return s.draining >= maxDraining
}

// open reports whether the slot's processes die in a loop.
func (s *slot) open() bool {
	s.plugin.mu.Lock()
	defer s.plugin.mu.Unlock()
	return s.deaths >= crashLoop
}
