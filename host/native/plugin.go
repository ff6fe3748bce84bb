// Package native runs native plugins: child processes that serve the provider protocol over gRPC
// on a unix socket in a private directory.
//
// A plugin runs from a store addressed by content, so what was checked is what runs; it sees only
// the environment its manifest names; it lives in a box, as tight as the kernel can make one (see
// package box), and in a process group of its own, which dies with it and with the host; it is
// restarted when it dies, falls silent, takes too much memory or goes on with work that nobody
// wants any more. A plugin may have several such processes, so that one that dies takes only its
// own share of the calls along.
package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/host/cachedir"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/host/native/cgroup"
	"github.com/sluicehq/sluice/proto/provider"
	"github.com/sluicehq/sluice/sdk"
)

// Options say how plugins are run. Log and CacheDir are required.
type Options struct {
	Log      *slog.Logger
	CacheDir string       // the store is in it
	RunDir   string       // for sockets; short, on a local disk; see [DefaultRunDir]
	Egress   *egress.Gate // nil: the plugin gets no way out of the host's giving

	Box        *box.Level // nil: the tightest that this machine can make
	RequireBox []string   // guarantees of package box without which the plugin isn't started

	StartTimeout time.Duration // default 10 s
	StopTimeout  time.Duration // from asking a process to end to killing it; default 2 s
	DrainTimeout time.Duration // of the calls of a process that was replaced; default 10 min

	HealthInterval time.Duration // default 5 s
	HealthTimeout  time.Duration // default 10 s; three in a row, and the process is replaced
	UsageInterval  time.Duration // between two looks at memory, processes and threads; default 250 ms
	Overstay       time.Duration // work of a call that nobody waits for any more, before the process is replaced; default 10 s

	// The wait before the nth restart in a row is BackoffMin·2ⁿ, at most BackoffMax; the first is
	// at once. A process that lived for BackoffReset starts the count anew. After crashLoop deaths
	// in a row the circuit is open: the wait is BackoffMax, and ends with a single try.
	BackoffMin, BackoffMax, BackoffReset time.Duration // default 250 ms, 30 s, 60 s

	LookupEnv func(string) (string, bool) // default os.LookupEnv
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.StartTimeout, 10 * time.Second}, {&o.StopTimeout, 2 * time.Second}, {&o.DrainTimeout, 10 * time.Minute},
		{&o.HealthInterval, 5 * time.Second}, {&o.HealthTimeout, 10 * time.Second},
		{&o.UsageInterval, 250 * time.Millisecond}, {&o.Overstay, 10 * time.Second},
		{&o.BackoffMin, 250 * time.Millisecond}, {&o.BackoffMax, 30 * time.Second}, {&o.BackoffReset, time.Minute},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.RunDir == "" {
		o.RunDir = DefaultRunDir()
	}
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
}

// Plugin is a native plugin and the processes that serve it at the moment. It is safe for
// concurrent use.
type Plugin struct {
	m    *manifest.Manifest
	opts Options
	log  *slog.Logger
	path string // of the artifact in the store

	stored *cachedir.Hold // on it

	dir  *runDir // of this plugin's sockets
	desc sdk.Description
	box  box.Level

	groups *cgroup.Parent // of the control groups of its processes; nil: they have none

	stop       context.Context // ends the egress gate and starts under way
	cancelStop context.CancelFunc
	gateEnded  chan struct{}
	closing    chan struct{} // closed when no call is taken any more
	drains     sync.WaitGroup

	slots []*slot // as many as there are processes

	mu      sync.Mutex
	up      chan struct{} // closed, and replaced, when a process has come up
	closed  bool
	calls   int
	idle    chan struct{} // closed when closed and calls == 0
	running chan struct{} // closed when Run has returned; nil before it is called
}

// Start checks the plugin's artifact, starts its processes and asks them what they are.
// [Plugin.Run] keeps them alive, Run or [Plugin.Close] end them.
func Start(ctx context.Context, m *manifest.Manifest, opts Options) (*Plugin, error) {
	opts.setDefaults()
	p, err := start(ctx, m, opts)
	if err != nil {
		return nil, fmt.Errorf("start plugin %s: %w", m.Name, err)
	}
	return p, nil
}

func start(ctx context.Context, m *manifest.Manifest, opts Options) (_ *Plugin, err error) {
	if m.Runtime != manifest.Native {
		return nil, fmt.Errorf("its runtime is %s, not %s", m.Runtime, manifest.Native)
	}
	if err := checkProtocol(m.Protocol); err != nil {
		return nil, err
	}
	p := &Plugin{
		m: m, opts: opts, log: opts.Log.With("provider", m.Name),
		gateEnded: make(chan struct{}), closing: make(chan struct{}), idle: make(chan struct{}), up: make(chan struct{}),
	}
	p.findBox()
	if err := p.box.Check(opts.RequireBox); err != nil {
		return nil, err
	}
	if p.path, p.stored, err = keep(opts.CacheDir, m); err != nil {
		return nil, err
	}
	if p.dir, err = newRunDir(opts.RunDir); err != nil {
		p.stored.Release()
		return nil, err
	}
	p.stop, p.cancelStop = context.WithCancel(context.WithoutCancel(ctx))
	p.openGate()
	defer func() {
		if err != nil {
			p.shutdown(ended())
		}
	}()
	for range max(1, m.Limits.Processes) {
		p.slots = append(p.slots, &slot{plugin: p})
	}
	var starting errgroup.Group
	for _, s := range p.slots {
		starting.Go(func() error { return s.start(ctx) })
	}
	if err := starting.Wait(); err != nil {
		return nil, err
	}
	p.desc = p.slots[0].proc.desc
	p.reportBox()
	return p, nil
}

// findBox chooses what the plugin's processes are kept in.
func (p *Plugin) findBox() {
	groups, err := cgroup.Find()
	if err != nil {
		p.log.Debug("no control group for plugins", "reason", err)
	}
	if p.opts.Box != nil {
		p.box = *p.opts.Box
	} else {
		p.box = box.Find()
		p.box.Cgroup = true
	}
	if p.box.Cgroup = p.box.Cgroup && groups != nil; p.box.Cgroup {
		p.groups = groups
	}
}

// reportBox says once what keeps the plugin in.
func (p *Plugin) reportBox() {
	level, held := slog.LevelInfo, p.box.Held()
	for _, confining := range []string{box.Network, box.Files, box.Processes, box.Sockets} {
		if !p.box.Gives(confining) {
			level = slog.LevelWarn
		}
	}
	p.log.Log(context.Background(), level, "plugin is boxed", "guarantees", strings.Join(held, ", "), "box", p.box.String(), "processes", len(p.slots))
}

// checkProtocol says which side is too old.
func checkProtocol(theirs int) error {
	switch {
	case theirs > provider.ProtocolVersion:
		return fmt.Errorf("it speaks protocol %d and this host %d: the host is too old for it, update Sluice", theirs, provider.ProtocolVersion)
	case theirs < provider.ProtocolVersion:
		return fmt.Errorf("it speaks protocol %d and this host %d: the plugin is too old, build it with a newer sdk", theirs, provider.ProtocolVersion)
	}
	return nil
}

// openGate serves the plugin's way out for as long as the plugin exists, whatever its processes
// do.
func (p *Plugin) openGate() {
	if p.opts.Egress == nil {
		close(p.gateEnded)
		return
	}
	go func() {
		defer close(p.gateEnded)
		if err := p.opts.Egress.Serve(p.stop, p.dir.egress); err != nil {
			p.log.Error("egress gate of a plugin ended", "error", err)
		}
	}()
}

// ended is a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Manifest is what the plugin was started with.
func (p *Plugin) Manifest() *manifest.Manifest { return p.m }

// Description is what the plugin says about itself. Name, version and models of [Plugin.Provider]
// are the manifest's, which the operator has seen.
func (p *Plugin) Description() sdk.Description { return p.desc }

// State is how a plugin fares.
type State struct {
	Up       bool // it has a process that answers
	PID      int  // of the first that does, 0 when none does
	Restarts int  // since Start
	Calls    int  // under way
	RetryAt  time.Time
	Open     bool  // its processes died so often in a row that the next try is put off for long
	Death    error // of the last process that was lost, usually an [*ExitError]
	Box      box.Level
	Replaced int   // processes replaced because they went on with work that nobody waited for
	PIDs     []int // of the processes that answer
}

// State is how the plugin fares now.
func (p *Plugin) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := State{Calls: p.calls, Box: p.box}
	var last time.Time
	for _, s := range p.slots {
		st.Restarts += s.restarts
		st.Replaced += s.replaced
		if s.proc != nil {
			st.PIDs = append(st.PIDs, s.proc.runner.pid())
		} else {
			st.Open = st.Open || s.deaths >= crashLoop
			if st.RetryAt.IsZero() || s.retryAt.Before(st.RetryAt) {
				st.RetryAt = s.retryAt
			}
		}
		if s.death != nil && !s.diedAt.Before(last) {
			st.Death, last = s.death, s.diedAt
		}
	}
	if len(st.PIDs) > 0 {
		st.Up, st.PID, st.Open = true, st.PIDs[0], false
	}
	return st
}

// Close takes no more calls, waits for those under way until ctx is done, then ends the processes
// and everything else, Run included.
func (p *Plugin) Close(ctx context.Context) error {
	p.shutdown(ctx)
	p.mu.Lock()
	running := p.running
	p.mu.Unlock()
	if running != nil {
		<-running
	}
	return nil
}

// shutdown is Close without waiting for Run. It may be called more than once; every call returns
// after everything has ended.
func (p *Plugin) shutdown(ctx context.Context) {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.closing)
		if p.calls == 0 {
			close(p.idle)
		}
	}
	p.mu.Unlock()
	select {
	case <-p.idle:
	case <-ctx.Done():
	}
	p.cancelStop() // a start under way gives up
	var ending sync.WaitGroup
	for _, s := range p.slots {
		ending.Go(s.stop)
	}
	ending.Wait()
	p.drains.Wait()
	<-p.gateEnded
	p.dir.remove()
	p.stored.Release()
}

// ErrDown is what a call fails with, beside its *sdk.Error, when there was no process to ask: the
// request has reached nobody, and the error says when there may be one again. It doesn't cross a
// wire, so no plugin can claim it.
var ErrDown = errors.New("no process of the plugin is up")

var (
	errClosed  = &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Host, Message: "the plugin has been closed"}
	errRunning = errors.New("the plugin is running already")
)

// enter takes a process for a call: of those that are up, the one with the fewest. key names the
// call to the plugin, see [provider.Running]; "" has none.
// While none is up but will be soon, the call waits for it: a job that fails meanwhile would have
// used up an attempt for nothing.
func (p *Plugin) enter(ctx context.Context, key string) (*process, error) {
	t := time.NewTimer(restartWait)
	defer t.Stop()
	for {
		proc, up, err := p.tryEnter(key)
		if up == nil {
			return proc, err
		}
		select {
		case <-up:
		case <-p.closing:
		case <-ctx.Done():
			return nil, sdk.AsError(context.Cause(ctx))
		case <-t.C:
			return nil, err
		}
	}
}

// restartWait is how long a call waits for a process that is being started.
const restartWait = 2 * time.Second

// tryEnter is enter without waiting. up is for when to try again; nil says not to.
func (p *Plugin) tryEnter(key string) (_ *process, up <-chan struct{}, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errClosed
	}
	var best *process
	var retryAt time.Time
	open := true
	for _, s := range p.slots {
		switch {
		case s.proc == nil || s.proc.runner.hasExited():
			open = open && s.deaths >= crashLoop
			if retryAt.IsZero() || s.retryAt.Before(retryAt) {
				retryAt = s.retryAt
			}
		case best == nil || s.proc.calls < best.calls:
			best = s.proc
		}
	}
	if best == nil {
		e := &sdk.Error{
			Kind: sdk.Unavailable, Fault: sdk.Plugin, Wait: max(time.Until(retryAt), 0), Err: ErrDown,
			Message: fmt.Sprintf("plugin %s is being restarted", p.m.Name),
		}
		if open {
			e.Message = fmt.Sprintf("plugin %s died %d times in a row and is not tried for a while", p.m.Name, crashLoop)
		}
		if !open && e.Wait < restartWait {
			up = p.up
		}
		return nil, up, e
	}
	p.calls++
	best.calls++
	if key != "" {
		best.keys[key]++
	}
	return best, nil, nil
}

func (p *Plugin) leave(proc *process, key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if key != "" {
		if proc.keys[key]--; proc.keys[key] == 0 {
			delete(proc.keys, key)
		}
	}
	proc.calls--
	if proc.calls == 0 && proc.retired {
		close(proc.empty)
	}
	p.calls--
	if p.calls == 0 && p.closed {
		close(p.idle)
	}
}
