package sandbox

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/sdk"
	"golang.org/x/time/rate"
)

// call is one run of one export. Only the goroutine that runs the guest uses it.
//
// It is the context that the engine hands to the host's functions, done when
// the guest is to stop, for whatever reason.
type call struct {
	context.Context
	cancel context.CancelFunc
	plugin *Plugin
	input  []byte
	emit   sdk.Emit // nil where nothing may be emitted

	loading bool  // nothing may be asked of the host
	fuel    int64 // given so far
	budget  int64 // of fuel; 0 for none
	polite  int64 // the fuel after which it makes room for others
	favours int64 // the fuel that the host's work for it was worth, since that was last looked at

	output  [2][]byte
	left    int64      // of the bytes that may be emitted
	emitErr error      // the sink's, ends the call
	fatal   *sdk.Error // a limit crossed, ends the call
	last    *sdk.Error // for last_error

	streams map[int32]*egress.Response
	handle  int32
	stdio   *stdio
	stack   *[]byte // of the function that runs, see stackOf; nil if it isn't known
	deepest int     // that the stack may become
	texts   texts
}

type callKey struct{}

// Value makes the call known to host functions even where the engine, or what
// starts it, has wrapped the context.
func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// callOf is the call that a context belongs to, or nil.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.(*call); ok {
		return c
	}
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// newCall prepares a call whose context ends with ctx and with the plugin.
func (p *Plugin) newCall(ctx context.Context, input []byte, emit sdk.Emit) (*call, func()) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(p.stop, cancel)
	c := &call{
		Context: ctx, cancel: cancel, plugin: p, input: input, emit: emit,
		budget: int64(p.m.Limits.CPU.Seconds() * fuelPerSecond), polite: polite, left: p.m.Limits.Output,
		deepest: slack * int(stackLimit(p.m)), stdio: &stdio{ctx: ctx, log: p.log},
	}
	return c, func() {
		unhook()
		cancel()
		for _, s := range c.streams {
			s.Body.Close()
		}
		c.stdio.flush()
	}
}

func (c *call) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.Done():
	}
}

// stopWith ends the call for crossing a limit.
func (c *call) stopWith(e *sdk.Error) {
	if c.fatal == nil {
		c.fatal = e
	}
	c.cancel()
}

// plainLog passes a guest's lines on, at a bounded rate.
type plainLog struct {
	log     *slog.Logger
	limit   *rate.Limiter
	dropped atomic.Int64
}

// logMessage is the fixed message of a guest's lines.
const logMessage = "plugin log"

func newPlainLog(log *slog.Logger) *plainLog {
	return &plainLog{log: log, limit: rate.NewLimiter(50, 200)}
}

func (l *plainLog) line(level slog.Level, text string) {
	if !l.limit.Allow() {
		l.dropped.Add(1)
		return
	}
	if n := l.dropped.Swap(0); n > 0 {
		l.log.Warn("plugin log lines dropped", "lines", n)
	}
	l.log.Log(context.Background(), level, logMessage, "text", text)
}
