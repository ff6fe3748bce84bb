package main

import (
	"bytes"
	"unicode/utf8"
)

var (
	plainHead     = []byte(`{"type":"content_block_delta","index":`)
	plainText     = []byte(`,"delta":{"type":"text_delta","text":"`)
	plainThinking = []byte(`,"delta":{"type":"thinking_delta","thinking":"`)
)

// plainDelta finds the text of the event that nearly all events are, a delta of text or of thinking,
// without decoding the JSON:
//
//	{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"text"}}
//
// It says false whenever anything is unusual, and the decoder has a look: an escape in the text,
// another member, another order. Space before the last brace, as Anthropic sends it to hide the
// length of the text, is not. Decoding costs a guest in the sandbox several times what the rest of
// its work on a delta does.
func plainDelta(data []byte) (text []byte, thinking, ok bool) {
	rest, ok := bytes.CutPrefix(data, plainHead)
	if !ok {
		return nil, false, false
	}
	n := 0
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	if n == 0 || n > 9 || n > 1 && rest[0] == '0' {
		return nil, false, false
	}
	rest = rest[n:]
	text, ok = bytes.CutPrefix(rest, plainText)
	if !ok {
		text, thinking = bytes.CutPrefix(rest, plainThinking)
		if !thinking {
			return nil, false, false
		}
	}
	end := bytes.IndexByte(text, '"')
	if end < 0 {
		return nil, false, false
	}
	text, rest = text[:end], text[end:]
	for _, c := range text {
		if c == '\\' || c < ' ' {
			return nil, false, false
		}
	}
	rest, ok = bytes.CutPrefix(rest, []byte(`"}`))
	ok = ok && string(bytes.TrimLeft(rest, " ")) == "}" && utf8.Valid(text)
	return text, thinking, ok
}
