package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Frame is one entry of a job's log: what is published, stored and forwarded byte for byte.
type Frame struct {
	Seq     int64 // 0: not from a log (job:started, a legacy worker)
	From    int64 // first seq it stands for: Seq, or less for merged chunks
	Attempt int64
	Job     string
	Event   string
	Time    int64  // when it was written, in Unix ms by the writer's clock; 0: it doesn't say
	Data    []byte // the data object, JSON
	Raw     []byte // the whole frame
}

// Terminal reports whether the frame ends its job.
func (f Frame) Terminal() bool { return terminalState(f.Event) != "" }

var errNotFrame = errors.New("not a frame")

// ParseFrame reads {"event":…,"data":{…},"timestamp":…}. The frame refers to raw and doesn't copy it.
// Data is valid JSON and an object. Legacy messages that are wrapped parse with Seq 0; others are an error.
func ParseFrame(raw []byte) (Frame, error) { return parseFrame(raw, "") }

// parseFrame is ParseFrame for a frame that is probably of the job known, whose string it takes then.
func parseFrame(raw []byte, known string) (Frame, error) {
	if f, ok := scanFrame(raw, known); ok {
		return f, nil
	}
	return decodeFrame(raw)
}

// decodeFrame reads a frame in any way in which JSON can be written.
func decodeFrame(raw []byte) (Frame, error) {
	var w struct {
		Event     string
		Data      json.RawMessage
		Timestamp any // as data's jobId: legacy workers may send anything
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return Frame{}, fmt.Errorf("%w: %w", errNotFrame, err)
	}
	if w.Event == "" || len(w.Data) == 0 || w.Data[0] != '{' {
		return Frame{}, fmt.Errorf("%w: no event or no data object", errNotFrame)
	}
	var h struct {
		JobID               any
		Attempt, Seq        int64 `json:",omitempty"`
		FromSeq             int64
		UserID, Index, Text any `json:"-"`
	}
	if err := json.Unmarshal(w.Data, &h); err != nil {
		return Frame{}, fmt.Errorf("%w: %w", errNotFrame, err)
	}
	if h.Seq < 0 || h.Attempt < 0 || h.FromSeq < 0 || h.FromSeq > h.Seq {
		return Frame{}, fmt.Errorf("%w: negative seq or attempt", errNotFrame)
	}
	id, _ := h.JobID.(string)
	at, _ := w.Timestamp.(float64)
	f := Frame{Seq: h.Seq, From: h.Seq, Attempt: h.Attempt, Job: id, Event: w.Event, Time: int64(at), Data: w.Data, Raw: raw}
	if h.FromSeq > 0 {
		f.From = h.FromSeq
	}
	return f, nil
}

var preTime = []byte(`,"timestamp":`)

// scanFrame reads what encodeFrame writes; everything else is left to encoding/json.
func scanFrame(raw []byte, known string) (f Frame, ok bool) {
	s := scanner{b: raw}
	f = s.head(known)
	start := len(raw) - len(s.b) // of what is peculiar to the event
	if f.Event == EventChunk {
		f.From = s.chunk(f.Seq)
		f.Data = raw[s.data : len(raw)-len(s.b)]
		s.skip(`,"timestamp":`)
	} else if i := bytes.LastIndex(s.b, preTime); i >= 0 {
		f.Data, s.b = raw[s.data:start+i], s.b[i+len(preTime):]
		s.failed = s.failed || !json.Valid(f.Data)
	} else {
		return Frame{}, false
	}
	f.Time = s.number()
	s.skip("}")
	f.Raw = raw
	return f, !s.failed && len(s.b) == 0
}

// scanner reads JSON in the one way in which it is written here. What isn't so makes it fail, for good.
type scanner struct {
	b      []byte // not read yet
	data   int    // where the data object begins
	failed bool
}

const (
	chunkHead = `{"event":"` + EventChunk + `","data":`
	eventHead = `{"event":"`
)

// head reads up to seq and leaves From, Data, Time and Raw to be set.
func (s *scanner) head(known string) (f Frame) {
	whole := len(s.b)
	if s.has(chunkHead) {
		f.Event = EventChunk
	} else {
		s.skip(eventHead)
		f.Event = string(s.plain())
		s.skip(`,"data":`)
	}
	s.data = whole - len(s.b)
	s.skip(`{"jobId":"`)
	if id := s.plain(); string(id) == known {
		f.Job = known
	} else {
		f.Job = string(id)
	}
	s.skip(`,"userId":"`)
	s.plain()
	s.skip(`,"attempt":`)
	f.Attempt = s.number()
	s.skip(`,"seq":`)
	f.Seq = s.number()
	f.From = f.Seq
	s.failed = s.failed || f.Event == ""
	return f
}

// chunk reads the rest of a chunk's data and returns the first seq that it stands for.
func (s *scanner) chunk(seq int64) (from int64) {
	s.skip(`,"chunk":"`)
	s.text()
	s.skip(`,"index":`)
	s.number()
	s.skip(`,"total":null`)
	from = seq
	if s.has(`,"fromSeq":`) {
		from = s.number()
		s.failed = s.failed || from > seq || from < 1
	}
	s.skip("}")
	return from
}

// has reads lit if it comes next.
func (s *scanner) has(lit string) bool {
	if len(s.b) < len(lit) || string(s.b[:len(lit)]) != lit {
		return false
	}
	s.b = s.b[len(lit):]
	return true
}

func (s *scanner) skip(lit string) { s.failed = !s.has(lit) || s.failed }

// plain reads a string up to its closing quote; with an escape or odd bytes it isn't plain.
func (s *scanner) plain() []byte {
	for i, c := range s.b {
		switch {
		case c == '"':
			text := s.b[:i]
			s.b = s.b[i+1:]
			return text
		case c == '\\' || c < 0x20 || c >= utf8.RuneSelf:
			s.failed = true
			return nil
		}
	}
	s.failed = true
	return nil
}

// text reads any string up to its closing quote.
func (s *scanner) text() {
	for b, i := s.b, 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			s.b = b[i+1:]
			return
		case c < 0x20:
			s.failed = true
			return
		case c == '\\':
			n := escape(b[i+1:])
			s.failed = s.failed || n == 0
			i += n
		}
	}
	s.failed = true
}

// escape is the length of the escape after a backslash, 0 if it is none.
func escape(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(b) < 5 {
			return 0
		}
		for _, c := range b[1:5] {
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return 0
			}
		}
		return 5
	}
	return 0
}

// number reads a whole number that isn't negative.
func (s *scanner) number() (n int64) {
	i := 0
	for ; i < len(s.b) && s.b[i] >= '0' && s.b[i] <= '9'; i++ {
		n = n*10 + int64(s.b[i]-'0')
	}
	s.failed = s.failed || i == 0 || i > 18 || i > 1 && s.b[0] == '0'
	s.b = s.b[i:]
	return n
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string exactly as encoding/json does with HTML escaping off: invalid UTF-8
// becomes \ufffd, and U+2028 and U+2029 are escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\b':
				b = append(b, '\\', 'b')
			case '\f':
				b = append(b, '\\', 'f')
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029':
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', '2', '0', '2', hexDigits[r&15])
			start = i + n
		}
		i += n
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
