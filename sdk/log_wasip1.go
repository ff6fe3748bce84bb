package sdk

import (
	"bytes"
	"log/slog"
	"unsafe"
)

//go:wasmimport sluice_v1 log
func importLog(level uint32, p unsafe.Pointer, n uint32) int32

// Logger writes to the host's log, where the lines carry the provider's name. Never log prompts,
// answers or secrets.
func Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// logWriter hands the lines to the host, which adds the time itself.
type logWriter struct{}

func (logWriter) Write(line []byte) (int, error) {
	level := uint32(1)
	for i, name := range []string{"level=DEBUG ", "level=INFO ", "level=WARN ", "level=ERROR "} {
		if bytes.Contains(line, []byte(name)) {
			level = uint32(i)
			break
		}
	}
	text := bytes.TrimSuffix(line, []byte("\n"))
	if _, after, ok := bytes.Cut(text, []byte("msg=")); ok {
		text = after
	}
	importLog(level, pointer(text), uint32(len(text)))
	return len(line), nil
}
