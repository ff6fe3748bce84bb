package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Frame is one entry of a job's log: what is published, stored and forwarded byte for byte.
type Frame struct {
	Seq     int64 // 0: not from a log (job:started, a legacy worker)
	From    int64 // first seq it stands for: Seq, or less for merged chunks
	Attempt int64
	Job     string
	Event   string
	Data    []byte // the data object, JSON
	Raw     []byte // the whole frame
}

// Terminal reports whether the frame ends its job.
func (f Frame) Terminal() bool { return terminalState(f.Event) != "" }

var errNotFrame = errors.New("not a frame")

// ParseFrame reads {"event":…,"data":{…},"timestamp":…}. The frame refers to raw and doesn't copy it.
// Data is valid JSON and an object. Legacy messages that are wrapped parse with Seq 0; others are an error.
func ParseFrame(raw []byte) (Frame, error) {
	f, ok := scanFrame(raw)
	if ok && (plainChunk(f) || json.Valid(f.Data)) {
		return f, nil
	}
	var w struct {
		Event string
		Data  json.RawMessage
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return Frame{}, fmt.Errorf("%w: %w", errNotFrame, err)
	}
	if w.Event == "" || len(w.Data) == 0 || w.Data[0] != '{' {
		return Frame{}, fmt.Errorf("%w: no event or no data object", errNotFrame)
	}
	var h struct {
		JobID               any   // legacy workers may send anything
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
	f = Frame{Seq: h.Seq, From: h.Seq, Attempt: h.Attempt, Job: id, Event: w.Event, Data: w.Data, Raw: raw}
	if h.FromSeq > 0 {
		f.From = h.FromSeq
	}
	return f, nil
}

var (
	preEvent   = []byte(`{"event":"`)
	preData    = []byte(`,"data":`)
	preJob     = []byte(`{"jobId":"`)
	preUser    = []byte(`,"userId":"`)
	preAttempt = []byte(`,"attempt":`)
	preSeq     = []byte(`,"seq":`)
	preTime    = []byte(`,"timestamp":`)
	preFrom    = []byte(`,"fromSeq":`)
)

// scanFrame reads what encodeFrame writes, except that Data may not be JSON; everything else is left to
// encoding/json.
func scanFrame(raw []byte) (f Frame, ok bool) {
	rest, ok := bytes.CutPrefix(raw, preEvent)
	if !ok {
		return f, false
	}
	event, rest, ok := plainString(rest)
	if !ok || len(event) == 0 {
		return f, false
	}
	if rest, ok = bytes.CutPrefix(rest, preData); !ok {
		return f, false
	}
	i := len(rest) - 1
	if i < 0 || rest[i] != '}' {
		return f, false
	}
	for i--; i >= 0 && rest[i] >= '0' && rest[i] <= '9'; i-- {
	}
	i++
	digits := rest[i : len(rest)-1]
	if len(digits) == 0 || digits[0] == '0' && len(digits) > 1 || !bytes.HasSuffix(rest[:i], preTime) {
		return f, false
	}
	data := rest[:i-len(preTime)]
	h, ok := bytes.CutPrefix(data, preJob)
	if !ok {
		return f, false
	}
	id, h, ok := plainString(h)
	if !ok {
		return f, false
	}
	if h, ok = bytes.CutPrefix(h, preUser); !ok {
		return f, false
	}
	if _, h, ok = plainString(h); !ok {
		return f, false
	}
	attempt, h, ok := number(h, preAttempt)
	if !ok {
		return f, false
	}
	seq, _, ok := number(h, preSeq)
	if !ok {
		return f, false
	}
	from := seq
	if string(event) == EventChunk && bytes.Contains(data[max(0, len(data)-40):], preFrom) {
		tail := data[bytes.LastIndex(data, preFrom):]
		if from, _, ok = number(tail, preFrom); !ok || from > seq || from < 1 {
			return f, false
		}
	}
	return Frame{Seq: seq, From: from, Attempt: attempt, Job: string(id), Event: eventName(event), Data: data, Raw: raw}, true
}

// plainChunk says that a scanned frame is a chunk of our own encoder, whose data is therefore valid JSON: nearly all
// frames are, and json.Valid takes as long as everything else together.
func plainChunk(f Frame) bool {
	if f.Event != EventChunk {
		return false
	}
	i := bytes.Index(f.Data, preSeq) // scanFrame has read up to here
	_, rest, ok := number(f.Data[max(i, 0):], preSeq)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, preChunk); !ok {
		return false
	}
	if rest, ok = stringEnd(rest); !ok {
		return false
	}
	if _, rest, ok = number(rest, preIndex[1:]); !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, preTotal); !ok {
		return false
	}
	if bytes.HasPrefix(rest, preFrom) {
		if _, rest, ok = number(rest, preFrom); !ok {
			return false
		}
	}
	return string(rest) == "}"
}

// stringEnd returns what follows the closing quote of a JSON string.
func stringEnd(b []byte) (rest []byte, ok bool) {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return b[i+1:], true
		case c < 0x20:
			return nil, false
		case c == '\\':
			if i++; i >= len(b) {
				return nil, false
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			default: // \u, or nonsense: for encoding/json
				return nil, false
			}
		}
	}
	return nil, false
}

// eventName is string(b) without an allocation for the names most frames have.
func eventName(b []byte) string {
	switch string(b) {
	case EventChunk:
		return EventChunk
	case EventDelta:
		return EventDelta
	}
	return string(b)
}

// plainString reads up to the closing quote; a string with an escape or odd bytes isn't plain.
func plainString(b []byte) (s, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == '"':
			return b[:i], b[i+1:], true
		case c == '\\' || c < 0x20 || c >= utf8.RuneSelf:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

func number(b, prefix []byte) (n int64, rest []byte, ok bool) {
	if b, ok = bytes.CutPrefix(b, prefix); !ok {
		return 0, nil, false
	}
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == 0 || i > 18 || i > 1 && b[0] == '0' {
		return 0, nil, false
	}
	n, err := strconv.ParseInt(string(b[:i]), 10, 64)
	return n, b[i:], err == nil
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
