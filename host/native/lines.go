package native

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/time/rate"
)

const (
	maxLogLine = 8 << 10 // bytes of a line that are kept
	tailSize   = 4 << 10
)

// lines puts what a process writes into the host's log: JSON of slog or hclog as records, anything
// else as text. It is bounded: long lines are cut, and lines beyond the rate are counted only. The
// last of what was written is kept for the obituary.
type lines struct {
	log *slog.Logger

	mu      sync.Mutex
	limit   *rate.Limiter
	dropped int
	last    []byte // raw
}

func newLines(log *slog.Logger) *lines {
	return &lines{log: log, limit: rate.NewLimiter(200, 1000)}
}

// tail is the last of the standard error, 4 KB at most.
func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(legible(string(l.last)))
}

// legible is a text that comes from a plugin without what a terminal would obey: people read it there.
func legible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// clip bounds a text that comes from a plugin and goes into a log line.
func clip(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// read logs lines until r ends.
func (l *lines) read(stream string, r io.Reader) {
	in := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			l.line(stream, line)
		}
		for err == bufio.ErrBufferFull { // the rest of a long line
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// writer is for output that comes in pieces.
func (l *lines) writer(stream string) io.Writer { return &lineWriter{lines: l, stream: stream} }

type lineWriter struct {
	lines   *lines
	stream  string
	pending []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.pending = append(w.pending, p...)
	for {
		i := bytes.IndexByte(w.pending, '\n')
		switch {
		case i >= 0:
			w.lines.line(w.stream, w.pending[:i+1])
			w.pending = w.pending[i+1:]
		case len(w.pending) > maxLogLine:
			w.lines.line(w.stream, w.pending)
			w.pending = nil
		default:
			return len(p), nil
		}
	}
}

func (l *lines) line(stream string, line []byte) {
	l.mu.Lock()
	if stream == "stderr" {
		l.last = append(l.last, line[max(0, len(line)-tailSize):]...)
		if over := len(l.last) - tailSize; over > 0 {
			l.last = append(l.last[:0], l.last[over:]...)
		}
	}
	dropped := l.dropped
	if !l.limit.Allow() {
		l.dropped++
		l.mu.Unlock()
		return
	}
	l.dropped = 0
	l.mu.Unlock()
	if dropped > 0 {
		l.log.Warn("plugin writes too much, lines were dropped", "lines", dropped)
	}
	line = bytes.TrimSpace(line[:min(len(line), maxLogLine)])
	if len(line) == 0 {
		return
	}
	level, msg, attrs, ok := record(line)
	if !ok {
		l.log.Info("plugin output", "stream", stream, "text", strings.ToValidUTF8(string(line), "\uFFFD"))
		return
	}
	l.log.LogAttrs(context.Background(), level, msg, attrs...)
}

// record reads a line of slog's JSON handler, or of hclog's.
func record(line []byte) (level slog.Level, msg string, attrs []slog.Attr, ok bool) {
	if line[0] != '{' {
		return 0, "", nil, false
	}
	var doc map[string]any
	if json.Unmarshal(line, &doc) != nil {
		return 0, "", nil, false
	}
	take := func(names ...string) string {
		for _, name := range names {
			if s, ok := doc[name].(string); ok {
				delete(doc, name)
				return s
			}
		}
		return ""
	}
	msg = take("msg", "@message", "message")
	switch text := take("level", "@level"); strings.ToUpper(text) {
	case "":
		return 0, "", nil, false
	case "TRACE":
		level = slog.LevelDebug
	default:
		if level.UnmarshalText([]byte(text)) != nil {
			level = slog.LevelInfo
		}
	}
	take("time", "@timestamp")
	for _, name := range []string{slog.TimeKey, slog.LevelKey, slog.MessageKey, "provider"} {
		delete(doc, name) // ours, whatever it is
	}
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		switch v := doc[name].(type) {
		case string, bool, float64, nil:
			attrs = append(attrs, slog.Any(name, v))
		default:
			b, err := json.Marshal(v)
			if err != nil {
				b = []byte(fmt.Sprint(v))
			}
			attrs = append(attrs, slog.String(name, string(b)))
		}
	}
	return level, msg, attrs, true
}
