package main

import (
	"encoding/json"
	"strconv"

	"github.com/sluicehq/sluice/sdk"
)

// openBlock is a content block under way. Several may be, in a server that isn't Anthropic's.
type openBlock struct {
	index     int
	kind      string
	call      int             // of tool_use: our number for it
	input     json.RawMessage // of a tool's block: as it was when it began
	json      []byte          // and as it came in pieces
	signature string          // of thinking
	from      int             // of text: bytes said before it
	citations []sdk.Citation
	whole     json.RawMessage // of a block that is kept as it is; nil once it can't be
}

// contentBlock is what a block begins with.
type contentBlock struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	Signature string          `json:"signature"`
	Input     json.RawMessage `json:"input"`
}

// citation has a URL when the source is a page of the web, else a source or the index of a document.
type citation struct {
	CitedText     string `json:"cited_text"`
	URL           string `json:"url"`
	Title         string `json:"title"`
	Source        string `json:"source"`
	DocumentTitle string `json:"document_title"`
	DocumentIndex *int   `json:"document_index"`
}

// block is the block under way of that number, nil when there is none.
func (s *stream) block(index int) *openBlock {
	for _, b := range s.open {
		if b.index == index {
			return b
		}
	}
	return nil
}

func (s *stream) begin(index int, raw json.RawMessage) error {
	if err := s.stop(s.block(index)); err != nil {
		return err
	}
	if err := s.endBare(false); err != nil {
		return err
	}
	var c contentBlock
	_ = json.Unmarshal(raw, &c) // a block of a later version may have members of any shape
	if c.Type == "" {
		return nil
	}
	b := &openBlock{index: index, kind: c.Type, from: s.said}
	s.open = append(s.open, b)
	switch c.Type {
	case "text":
		return s.text(c.Text)
	case "thinking":
		b.signature = c.Signature
		return s.think(c.Thinking)
	case "tool_use":
		b.call, b.input = s.calls, c.Input
		s.calls++
		return s.say(sdk.ToolCall{Index: b.call, ID: c.ID, Name: c.Name})
	}
	b.whole = raw
	return nil
}

// delta takes a piece of b, or of a block whose beginning never came.
func (s *stream) delta(b *openBlock, d *delta) error {
	switch d.Type {
	case "text_delta":
		return s.text(d.Text)
	case "thinking_delta":
		return s.think(d.Thinking)
	}
	if b == nil {
		return nil
	}
	switch d.Type {
	case "signature_delta":
		b.signature += d.Signature
	case "citations_delta":
		if d.Citation != nil {
			b.citations = append(b.citations, d.Citation.chunk())
		}
	case "input_json_delta":
		b.json = append(b.json, d.PartialJSON...)
		if b.kind == "tool_use" && d.PartialJSON != "" {
			return s.say(sdk.ToolCall{Index: b.call, Arguments: d.PartialJSON})
		}
	default:
		b.whole = nil // it has something that isn't known how to add
	}
	return nil
}

// stop ends b, if there is one.
func (s *stream) stop(b *openBlock) error {
	if b == nil {
		return nil
	}
	for i, o := range s.open {
		if o == b {
			s.open = append(s.open[:i], s.open[i+1:]...)
			break
		}
	}
	switch b.kind {
	case "text":
		for _, c := range b.citations {
			if s.said > b.from {
				c.Start, c.End = b.from, s.said
			}
			if err := s.say(c); err != nil {
				return err
			}
		}
	case "thinking":
		if b.signature != "" {
			return s.say(sdk.Reasoning{Signature: b.signature})
		}
	case "tool_use":
		switch {
		case len(b.json) == 0:
			err := s.endBare(false)
			s.bare = b
			return err
		case json.Valid(b.json):
			return s.say(sdk.ToolCall{Index: b.call, End: true})
		default:
			s.cut = true
		}
	default:
		if data := b.data(); data != nil {
			return s.say(sdk.ProviderData{Type: blockData, Data: data})
		}
	}
	return nil
}

// endBare ends a call whose arguments never came in pieces: those it began with are all, if its
// answer was not cut there.
func (s *stream) endBare(cut bool) error {
	b := s.bare
	s.bare = nil
	if b == nil || cut {
		return nil
	}
	args := string(b.input)
	if args == "" || args == "null" {
		args = "{}"
	}
	return s.say(sdk.ToolCall{Index: b.call, Arguments: args, End: true})
}

// data is the block as it goes back to the upstream, nil when it isn't whole.
func (b *openBlock) data() json.RawMessage {
	if b.whole == nil || len(b.json) == 0 {
		return b.whole
	}
	var members map[string]json.RawMessage
	if !json.Valid(b.json) || json.Unmarshal(b.whole, &members) != nil {
		return nil
	}
	members["input"] = b.json
	return sdk.JSON(members)
}

func (c *citation) chunk() sdk.Citation {
	chunk := sdk.Citation{URL: c.URL, Title: c.Title, Text: c.CitedText, Source: c.Source}
	if chunk.Title == "" {
		chunk.Title = c.DocumentTitle
	}
	if chunk.Source == "" && c.DocumentIndex != nil {
		chunk.Source = strconv.Itoa(*c.DocumentIndex)
	}
	return chunk
}
