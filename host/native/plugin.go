// Package native runs native plugins: child processes that serve the provider protocol over gRPC
// on a unix socket in a private directory.
//
// A plugin runs from a store addressed by content, so what was checked is what runs; it sees only
// the environment its manifest names; it lives in a process group of its own, which dies with it
// and with the host; it is restarted when it dies or falls silent.
package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/provider"
	"github.com/sluicehq/sluice/sdk"
)

// Options say how plugins are run. Log and CacheDir are required.
type Options struct {
	Log      *slog.Logger
	CacheDir string       // the store is in it
	RunDir   string       // for sockets; short, on a local disk; see [DefaultRunDir]
	Egress   *egress.Gate // nil: the plugin gets no way out of the host's giving

	StartTimeout time.Duration // default 10 s
	StopTimeout  time.Duration // from asking a process to end to killing it; default 2 s

	HealthInterval time.Duration // default 5 s
	HealthTimeout  time.Duration // default 10 s; three in a row, and the process is replaced

	// The wait before the nth restart in a row is BackoffMin·2ⁿ, at most BackoffMax; the first is
	// at once. A process that lived for BackoffReset starts the count anew.
	BackoffMin, BackoffMax, BackoffReset time.Duration // default 250 ms, 30 s, 60 s

	LookupEnv func(string) (string, bool) // default os.LookupEnv
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.StartTimeout, 10 * time.Second}, {&o.StopTimeout, 2 * time.Second},
		{&o.HealthInterval, 5 * time.Second}, {&o.HealthTimeout, 10 * time.Second},
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

// Plugin is a native plugin and the process that serves it at the moment. It is safe for
// concurrent use.
type Plugin struct {
	m    *manifest.Manifest
	opts Options
	log  *slog.Logger
	path string  // of the artifact in the store
	dir  *runDir // of this plugin's sockets
	desc sdk.Description

	stop       context.Context // ends the egress gate and starts under way
	cancelStop context.CancelFunc
	gateEnded  chan struct{}
	closing    chan struct{} // closed when no call is taken any more

	life sync.Mutex // held while a process is started, and for the last stop

	mu       sync.Mutex
	proc     *process  // nil: none at the moment
	retryAt  time.Time // when there will be one
	restarts int
	closed   bool
	calls    int
	idle     chan struct{} // closed when closed and calls == 0
	running  chan struct{} // closed when Run has returned; nil before it is called
}

// Start checks the plugin's artifact, starts its process and asks it what it is. [Plugin.Run] keeps
// it alive, Run or [Plugin.Close] end it.
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
		gateEnded: make(chan struct{}), closing: make(chan struct{}), idle: make(chan struct{}),
	}
	if p.path, err = keep(opts.CacheDir, m); err != nil {
		return nil, err
	}
	if p.dir, err = newRunDir(opts.RunDir); err != nil {
		return nil, err
	}
	p.stop, p.cancelStop = context.WithCancel(context.WithoutCancel(ctx))
	p.openGate()
	defer func() {
		if err != nil {
			p.shutdown(ended())
		}
	}()
	if err := p.startProcess(ctx); err != nil {
		return nil, err
	}
	p.desc = p.proc.desc
	return p, nil
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
			p.log.Error("egress gate of a plugin ended", "err", err)
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
	Up       bool
	PID      int // 0 when it is not up
	Restarts int // since Start
	Calls    int // under way
	RetryAt  time.Time
}

// State is how the plugin fares now.
func (p *Plugin) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{Restarts: p.restarts, Calls: p.calls, RetryAt: p.retryAt}
	if p.proc != nil {
		s.Up, s.PID = true, p.proc.runner.pid()
	}
	return s
}

// Close takes no more calls, waits for those under way until ctx is done, then ends the process
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
	p.life.Lock()
	defer p.life.Unlock()
	p.mu.Lock()
	proc := p.proc
	p.proc = nil
	p.mu.Unlock()
	if proc != nil {
		proc.end(p.opts.StopTimeout)
	}
	<-p.gateEnded
	p.dir.remove()
}

var (
	errClosed  = &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Host, Message: "the plugin has been closed"}
	errRunning = errors.New("the plugin is running already")
)

// enter takes the process for a call.
func (p *Plugin) enter() (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if p.proc == nil || p.proc.runner.hasExited() {
		return nil, &sdk.Error{
			Kind: sdk.Unavailable, Fault: sdk.Plugin, Wait: max(time.Until(p.retryAt), 0),
			Message: fmt.Sprintf("plugin %s is being restarted", p.m.Name),
		}
	}
	p.calls++
	return p.proc, nil
}

func (p *Plugin) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	if p.calls == 0 && p.closed {
		close(p.idle)
	}
}
