package sandbox

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/sdk"
	"golang.org/x/time/rate"
)

// call is one run of one export. Only the goroutine that runs the guest uses it.
type call struct {
	ctx    context.Context // done when the guest is to stop, for whatever reason
	cancel context.CancelFunc
	plugin *Plugin
	input  []byte
	emit   sdk.Emit // nil where nothing may be emitted

	loading bool  // nothing may be asked of the host
	fuel    int64 // given so far
	budget  int64 // of fuel; 0 for none

	output  [2][]byte
	emitted int64
	emitErr error      // the sink's, ends the call
	fatal   *sdk.Error // a limit crossed, ends the call
	last    *sdk.Error // for last_error

	streams map[int32]*egress.Response
	handle  int32
	stdio   *stdio
	stack   *[]byte // of the function that runs, see stackOf; nil if it isn't known
	texts   []byte  // holds short texts that were emitted; only ever appended to
}

type callKey struct{}

// newCall prepares a call whose context ends with ctx and with the plugin.
func (p *Plugin) newCall(ctx context.Context, input []byte, emit sdk.Emit) (*call, func()) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(p.stop, cancel)
	c := &call{cancel: cancel, plugin: p, input: input, emit: emit}
	c.budget = int64(p.m.Limits.CPU.Seconds() * fuelPerSecond)
	c.ctx = context.WithValue(ctx, callKey{}, c)
	c.stdio = &stdio{ctx: ctx, log: p.log}
	return c, func() {
		unhook()
		cancel()
		for _, s := range c.streams {
			s.Body.Close()
		}
		c.stdio.flush()
	}
}

// Short texts share memory: tokens come by the thousand, and a piece of memory
// each is most of what they would cost.
const (
	shortText   = 64
	sharedTexts = 1 << 10
)

// text copies what a guest emitted.
func (c *call) text(b []byte) string {
	if len(b) == 0 || len(b) > shortText {
		return string(b)
	}
	if cap(c.texts)-len(c.texts) < len(b) {
		c.texts = make([]byte, 0, sharedTexts)
	}
	c.texts = append(c.texts, b...)
	return unsafe.String(&c.texts[len(c.texts)-len(b)], len(b))
}

func (c *call) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
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
