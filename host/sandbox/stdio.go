package sandbox

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"unicode"

	"github.com/sluicehq/sluice/proto/guest"
)

const (
	maxStdio = 1 << 20 // bytes that one call may print
	maxFirst = 512     // bytes remembered for the error of a guest that dies: of the first it printed
	maxLast  = 1 << 10 // and of the last; a Go guest's panic comes before a long trace
)

var errStdioFull = errors.New("the call has printed more than 1 MiB")

// stdio turns what a guest prints into log lines and remembers some of it.
type stdio struct {
	ctx     context.Context
	log     *plainLog
	written int
	first   []byte
	last    []byte
	lines   map[slog.Level][]byte // not finished
}

// write takes what was printed at a level. It fails once the call is over or
// has printed too much: a guest may name the same megabytes again and again.
func (s *stdio) write(level slog.Level, p []byte) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.written+len(p) > maxStdio {
		return errStdioFull
	}
	s.written += len(p)
	s.remember(p)
	if s.lines == nil {
		s.lines = map[slog.Level][]byte{}
	}
	line := s.lines[level]
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		line = append(line, part[:min(len(part), guest.MaxLogLine-len(line))]...)
		if i < 0 {
			break
		}
		s.print(level, line)
		line, p = line[:0], p[i+1:]
	}
	s.lines[level] = line
	return nil
}

func (s *stdio) remember(p []byte) {
	n := min(len(p), maxFirst-len(s.first))
	s.first = append(s.first, p[:n]...)
	p = p[n:]
	s.last = append(s.last, p[max(0, len(p)-maxLast):]...)
	s.last = s.last[max(0, len(s.last)-maxLast):]
}

func (s *stdio) print(level slog.Level, line []byte) {
	s.log.line(level, strings.ToValidUTF8(string(line), "\uFFFD"))
}

// flush logs lines that were not finished.
func (s *stdio) flush() {
	for level, line := range s.lines {
		if len(line) > 0 {
			s.print(level, line)
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
	return strings.Join(strings.Fields(legible(text)), " ")
}

// legible is a text that comes from a guest without what a terminal would obey: people read it there.
func legible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
