//go:build !wasip1

package sdk

import (
	"log/slog"
	"os"
)

// stderr is the process's own, whatever os.Stderr becomes.
var logger = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))

// Logger writes to the host's log, where the lines carry the provider's name. In a native plugin
// it is also the default of log/slog. Never log prompts, answers or secrets.
func Logger() *slog.Logger { return logger }
