package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/sluicehq/sluice/proto/guest"
)

const (
	maxStdio = 1 << 20 // bytes that one call may print
	maxFirst = 512     // bytes remembered for the error of a guest that dies: of the first it printed
	maxLast  = 1 << 10 // and of the last; a Go guest's panic comes before a long trace
)

var errStdioFull = errors.New("the call has printed more than 1 MiB")

// stdio turns what a guest prints into log lines and remembers the end of it.
type stdio struct {
	ctx     context.Context
	log     *plainLog
	written int
	first   []byte
	last    []byte
	writers [2]*lineWriter
}

func (s *stdio) writer(level slog.Level) io.Writer {
	w := &lineWriter{s: s, level: level}
	if level == slog.LevelInfo {
		s.writers[0] = w
	} else {
		s.writers[1] = w
	}
	return w
}

// flush logs lines that were not finished.
func (s *stdio) flush() {
	for _, w := range s.writers {
		if w != nil && len(w.line) > 0 {
			w.end()
		}
	}
}

// excerpt is the beginning and the end of what was printed, on one line.
func (s *stdio) excerpt() string {
	text := string(s.first)
	if len(s.last) > 0 {
		if s.written > len(s.first)+len(s.last) {
			text += " … "
		}
		text += string(s.last)
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
}

// lineWriter fails once the call is over or has printed too much: a guest may
// name the same megabytes in one write a million times over.
type lineWriter struct {
	s     *stdio
	level slog.Level
	line  []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	s := w.s
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.written+len(p) > maxStdio {
		return 0, errStdioFull
	}
	s.written += len(p)
	s.remember(p)
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		w.line = append(w.line, part[:min(len(part), guest.MaxLogLine-len(w.line))]...)
		if i < 0 {
			break
		}
		w.end()
		p = p[i+1:]
	}
	return n, nil
}

func (s *stdio) remember(p []byte) {
	n := min(len(p), maxFirst-len(s.first))
	s.first = append(s.first, p[:n]...)
	p = p[n:]
	s.last = append(s.last, p[max(0, len(p)-maxLast):]...)
	s.last = s.last[max(0, len(s.last)-maxLast):]
}

func (w *lineWriter) end() {
	w.s.log.line(w.level, strings.ToValidUTF8(string(w.line), "\uFFFD"))
	w.line = w.line[:0]
}
