package main

import (
	"bytes"
	"unicode/utf8"
)

// plainDelta finds the text of the event that nearly all events are, a chunk whose delta holds text
// and nothing else, without decoding the JSON:
//
//	{…"choices":[{"index":0,"delta":{"content":"text"},"logprobs":null,"finish_reason":null}]…}
//
// It says false whenever anything is unusual, and the decoder has a look: an escape in the text,
// another member in the delta, a finish reason, usage, an error. Decoding costs a guest in the
// sandbox several times what the rest of its work on a chunk does.
func plainDelta(data []byte) (text []byte, ok bool) {
	if len(data) == 0 || data[0] != '{' || data[len(data)-1] != '}' {
		return nil, false
	}
	head, rest, ok := bytes.Cut(data, []byte(`"choices":[{"index":0,"delta":{`))
	if !ok || !plainHead(head) {
		return nil, false
	}
	rest = bytes.TrimPrefix(rest, []byte(`"role":"assistant",`))
	rest, ok = bytes.CutPrefix(rest, []byte(`"content":"`))
	if !ok {
		return nil, false
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return nil, false
	}
	text, rest = rest[:end], rest[end:]
	for _, c := range text {
		if c == '\\' || c < ' ' {
			return nil, false
		}
	}
	for _, tail := range plainTails {
		after, found := bytes.CutPrefix(rest, tail)
		if found && plainRest(after[:len(after)-1]) && utf8.Valid(text) {
			return text, true
		}
	}
	return nil, false
}

// plainTails close the delta, its choice and the list of choices.
var plainTails = [][]byte{
	[]byte(`"},"logprobs":null,"finish_reason":null}]`),
	[]byte(`"},"finish_reason":null}]`),
	[]byte(`"},"finish_reason":null,"logprobs":null}]`),
	[]byte(`"},"logprobs":null,"finish_reason":null,"matched_stop":null}]`),
	[]byte(`"}}]`),
}

// plainHead reports whether b, the object up to its choices, holds only members that don't matter.
func plainHead(b []byte) bool {
	b, ok := bytes.CutPrefix(b, []byte("{"))
	for ok && len(b) > 0 {
		if b, ok = plainMember(b); ok {
			b, ok = bytes.CutPrefix(b, []byte(","))
		}
	}
	return ok
}

// plainRest does so for the object after its choices.
func plainRest(b []byte) bool {
	ok := true
	for ok && len(b) > 0 {
		if b, ok = bytes.CutPrefix(b, []byte(",")); ok {
			b, ok = plainMember(b)
		}
	}
	return ok
}

// plainMember cuts a member off that doesn't matter: a string, a whole number or null, not called
// choices, and not called error or usage unless it is null.
func plainMember(b []byte) (rest []byte, ok bool) {
	name, b, ok := plainString(b)
	if !ok {
		return nil, false
	}
	if b, ok = bytes.CutPrefix(b, []byte(":")); !ok || len(b) == 0 {
		return nil, false
	}
	if named(name, "choices") { // again: the decoder takes the last
		return nil, false
	}
	if rest, null := bytes.CutPrefix(b, []byte("null")); null {
		return rest, true
	}
	if named(name, "error") || named(name, "usage") {
		return nil, false
	}
	if b[0] == '"' {
		_, rest, ok = plainString(b)
		return rest, ok
	}
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return b[n:], n == 1 || n > 1 && b[0] != '0'
}

// named compares as the decoder does, without regard to case.
func named(name []byte, want string) bool { return bytes.EqualFold(name, []byte(want)) }

// plainString cuts a string without escapes off the front of b.
func plainString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return b[1:i], b[i+1:], true
		case c == '\\' || c < ' ':
			return nil, nil, false
		}
	}
	return nil, nil, false
}
