package queue

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/hibiken/asynq"
)

// asynqLog carries asynq's log to slog. What asynq finds worth an Info (that it
// starts, that it stops) is a Debug here.
type asynqLog struct{ log *slog.Logger }

var _ asynq.Logger = asynqLog{}

func (l asynqLog) Debug(args ...any) { l.write(slog.LevelDebug, args) }
func (l asynqLog) Info(args ...any)  { l.write(slog.LevelDebug, args) }
func (l asynqLog) Warn(args ...any)  { l.write(slog.LevelWarn, args) }
func (l asynqLog) Error(args ...any) { l.write(slog.LevelError, args) }

// Fatal does not end the process: that is main's to decide.
func (l asynqLog) Fatal(args ...any) { l.write(slog.LevelError, args) }

func (l asynqLog) write(level slog.Level, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "asynq says", "text", strings.TrimSpace(fmt.Sprint(args...)))
	}
}

// level is the least that asynq needs to tell us.
func (l asynqLog) level() asynq.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return asynq.DebugLevel
	}
	return asynq.WarnLevel
}

// health logs when Redis goes and when it comes back, not each failure between.
// Safe for concurrent use.
type health struct {
	log  *slog.Logger
	away atomic.Bool
}

func (h *health) note(err error) {
	if away := err != nil; h.away.CompareAndSwap(!away, away) {
		if away {
			h.log.Warn("redis fails, trying again", "error", err)
		} else {
			h.log.Info("redis answers again")
		}
	}
}
