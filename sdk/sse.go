package sdk

import (
	"bytes"
	"errors"
	"io"
)

// maxLine bounds one line, and one event, of a stream.
const maxLine = 32 << 20

// Event is one server-sent event.
type Event struct {
	Name string // the event field; "" stands for message
	ID   string // the last id seen in the stream
	Data []byte // the data lines, joined with a newline; valid until the callback returns
}

// ReadSSE parses a stream of server-sent events as
// https://html.spec.whatwg.org/multipage/server-sent-events.html has it: any line ending,
// comments, several data lines, a byte order mark; an event without the blank line after it is
// not dispatched. Lines and events over 32 MiB are refused. An error of f ends it and is returned,
// except [ErrDone].
func ReadSSE(r io.Reader, f func(Event) error) error {
	lines := lineReader{r: r}
	var ev Event
	var name []byte
	hasData, first := false, true
	for {
		line, err := lines.next()
		if err == io.EOF {
			return nil // line is the rest, without an end: not a line yet
		}
		if err != nil {
			return err
		}
		if first {
			line, first = bytes.TrimPrefix(line, []byte("\uFEFF")), false
		}
		if len(line) == 0 {
			if hasData {
				if ev.Name != string(name) {
					ev.Name = string(name)
				}
				if err := f(ev); err != nil {
					return unlessDone(err)
				}
			}
			ev.Data, name, hasData = ev.Data[:0], name[:0], false
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) { // "" is a comment
		case "data":
			if hasData {
				ev.Data = append(ev.Data, '\n')
			}
			if len(ev.Data)+len(value) > maxLine {
				return errLong("event")
			}
			ev.Data, hasData = append(ev.Data, value...), true
		case "event":
			name = append(name[:0], value...)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				ev.ID = string(value)
			}
		}
	}
}

// ReadLines calls f with every line that is not empty; the last one needs no line end. Lines over
// 32 MiB are refused. A line is valid until f returns. An error of f ends it and is returned, except
// [ErrDone].
func ReadLines(r io.Reader, f func(line []byte) error) error {
	lines := lineReader{r: r}
	for {
		line, err := lines.next()
		if err != nil && err != io.EOF {
			return err
		}
		if len(line) > 0 {
			if err := f(line); err != nil {
				return unlessDone(err)
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func unlessDone(err error) error {
	if errors.Is(err, ErrDone) {
		return nil
	}
	return err
}

func errLong(what string) error {
	return &Error{Kind: Internal, Fault: Upstream, Message: "upstream sent a longer " + what + " than 32 MiB"}
}

// lineReader splits at LF, CR or CRLF, and hands a line out as soon as its end is there: after a
// CR it doesn't wait to see whether an LF follows.
type lineReader struct {
	r          io.Reader
	buf        []byte
	start, end int // unread bytes
	scanned    int // of them, known to hold no line end
	skipLF     bool
	err        error
}

// next returns a line without its end, valid until the next call. With io.EOF comes what was left.
func (l *lineReader) next() ([]byte, error) {
	for {
		if l.skipLF && l.start < l.end {
			if l.buf[l.start] == '\n' {
				l.start++
			}
			l.skipLF = false
		}
		if i := lineEnd(l.buf[l.start+l.scanned : l.end]); i >= 0 {
			at := l.start + l.scanned + i
			line := l.buf[l.start:at]
			l.skipLF = l.buf[at] == '\r'
			l.start, l.scanned = at+1, 0
			return line, nil
		}
		l.scanned = l.end - l.start
		if l.err != nil {
			rest := l.buf[l.start:l.end]
			l.start, l.scanned = l.end, 0
			return rest, l.err
		}
		if l.scanned > maxLine {
			return nil, errLong("line")
		}
		l.fill()
	}
}

func (l *lineReader) fill() {
	if l.start > 0 {
		l.end = copy(l.buf, l.buf[l.start:l.end])
		l.start = 0
	}
	if l.end == len(l.buf) {
		l.buf = append(l.buf, make([]byte, max(4096, len(l.buf)))...)
	}
	for range 100 { // as bufio does with readers that return nothing
		n, err := l.r.Read(l.buf[l.end:])
		l.end += n
		l.err = err
		if n > 0 || err != nil {
			return
		}
	}
	l.err = io.ErrNoProgress
}

func lineEnd(b []byte) int {
	lf := bytes.IndexByte(b, '\n')
	if lf >= 0 {
		b = b[:lf]
	}
	if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
		return cr
	}
	return lf
}
