package host

import (
	"strings"
	"unicode/utf8"

	"github.com/sluicehq/sluice/sdk"
)

// chunkBytes is what a chunk counts for in the bounds of a stream: its payload
// and a flat amount for what holds it.
func chunkBytes(c sdk.Chunk) int {
	switch c := c.(type) {
	case sdk.Text:
		return 16 + len(c)
	case sdk.Refusal:
		return 16 + len(c)
	case sdk.Reasoning:
		return 32 + len(c.Text) + len(c.Signature)
	case sdk.ToolCall:
		return 96 + len(c.ID) + len(c.Name) + len(c.Arguments)
	case sdk.Citation:
		return 160 + len(c.URL) + len(c.Title) + len(c.Text) + len(c.Source)
	case sdk.Image:
		return 128 + len(c.Data) + len(c.URL) + len(c.MediaType)
	case sdk.ProviderData:
		return 96 + len(c.Type) + len(c.Data)
	}
	return 64
}

// payload is the part of chunkBytes that counts as output.
func payload(c sdk.Chunk) int64 {
	switch c := c.(type) {
	case sdk.Usage, sdk.Finish:
		return 0
	default:
		return int64(chunkBytes(c))
	}
}

// mergeable reports whether b may be appended to a so that a reader of the
// merged chunk sees what a reader of both would.
func mergeable(a, b sdk.Chunk) bool {
	switch a := a.(type) {
	case sdk.Text:
		_, ok := b.(sdk.Text)
		return ok
	case sdk.Refusal:
		_, ok := b.(sdk.Refusal)
		return ok
	case sdk.Reasoning: // a signature closes a block
		b, ok := b.(sdk.Reasoning)
		return ok && a.Signature == "" && b.Signature == ""
	case sdk.ToolCall: // fragments of one call; its id and name come first, its end last
		b, ok := b.(sdk.ToolCall)
		return ok && a.Index == b.Index && !a.End && !b.End && b.ID == "" && b.Name == ""
	}
	return false
}

// textOf is the part of a mergeable chunk that grows.
func textOf(c sdk.Chunk) string {
	switch c := c.(type) {
	case sdk.Text:
		return string(c)
	case sdk.Refusal:
		return string(c)
	case sdk.Reasoning:
		return c.Text
	case sdk.ToolCall:
		return c.Arguments
	}
	return ""
}

// withText is c with the part that grows replaced.
func withText(c sdk.Chunk, text string) sdk.Chunk {
	switch c := c.(type) {
	case sdk.Text:
		return sdk.Text(text)
	case sdk.Refusal:
		return sdk.Refusal(text)
	case sdk.Reasoning:
		c.Text = text
		return c
	case sdk.ToolCall:
		c.Arguments = text
		return c
	}
	return c
}

// runes makes the pieces of a text end between two characters: the bytes of a
// character that a piece cuts are kept for the next one, and bytes that are no
// character are replaced, so that the text survives JSON as it is. The zero
// value is ready.
type runes struct{ cut string }

func (r *runes) whole(piece string) string {
	s := r.cut + piece
	r.cut = ""
	// A character has at most four bytes: a cut one begins in the last three.
	for i := 1; i <= min(utf8.UTFMax-1, len(s)); i++ {
		if tail := s[len(s)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRuneInString(tail) {
				r.cut, s = tail, s[:len(s)-i]
			}
			break
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// rest is what was kept and never became a character.
func (r *runes) rest() string {
	if r.cut == "" {
		return ""
	}
	r.cut = ""
	return "\uFFFD"
}
