package main

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// stream turns the events of one answer into chunks.
type stream struct {
	emit      sdk.Emit
	begun     bool // a chunk was emitted
	finished  bool // a stop_reason was there
	whole     bool // the terminal event was there
	malformed sdk.Malformed
	said      int    // bytes of the answer's text
	space     string // what the answer so far ends in: it was cut off, and may be said again
	usage     usage  // as far as it is known
	counted   bool   // something of it is
	open      []*openBlock
	calls     int
	bare      *openBlock // a call that ended without arguments, until it is known whether it was cut
	cut       bool       // the arguments of a call are no JSON
	ev        wireEvent  // scratch
}

// wireEvent is any event, as far as it matters.
type wireEvent struct {
	Type    string `json:"type"`
	Index   int    `json:"index"`
	Message struct {
		Usage json.RawMessage `json:"usage"`
	} `json:"message"`
	Block json.RawMessage `json:"content_block"`
	Delta delta           `json:"delta"`
	Usage json.RawMessage `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// delta is that of a block, or with a StopReason that of the message.
type delta struct {
	Type        string    `json:"type"`
	Text        string    `json:"text"`
	PartialJSON string    `json:"partial_json"`
	Thinking    string    `json:"thinking"`
	Signature   string    `json:"signature"`
	Citation    *citation `json:"citation"`
	StopReason  string    `json:"stop_reason"`
}

// usage counts what was read from the cache and written to it beside the rest of the input, and what
// was thought, where the server says so, within the output.
type usage struct {
	Input      int `json:"input_tokens"`
	Output     int `json:"output_tokens"`
	CacheRead  int `json:"cache_read_input_tokens"`
	CacheWrite int `json:"cache_creation_input_tokens"`
	Details    struct {
		Thinking int `json:"thinking_tokens"`
	} `json:"output_tokens_details"`
}

func newStream(req *sdk.Request, emit sdk.Emit) *stream {
	s := &stream{emit: emit, said: len(req.Prefix)}
	_, s.space = cutPrefix(req.Prefix)
	return s
}

// event takes one server-sent event.
func (s *stream) event(ev sdk.Event) error {
	data := bytes.TrimSpace(ev.Data)
	if ev.Name == "error" {
		return sdk.StatusError(0, nil, data)
	}
	if len(data) == 0 {
		return nil
	}
	if text, thinking, ok := plainDelta(data); ok {
		if thinking {
			return s.think(string(text))
		}
		return s.text(string(text))
	}
	s.ev = wireEvent{}
	err := json.Unmarshal(data, &s.ev)
	if e := s.ev.Error; s.ev.Type == "error" || len(e) > 0 && string(e) != "null" {
		return sdk.StatusError(0, nil, data)
	}
	if err != nil && (s.ev.Type == "" || s.ev.known()) {
		return s.malformed.Pass(data, "events")
	}
	if s.ev.Type == "" {
		s.ev.Type = ev.Name
	}
	switch s.ev.Type {
	case "message_start":
		s.count(s.ev.Message.Usage)
		s.usage.Output = 0 // what is there is only to fill the place
	case "content_block_start":
		return s.begin(s.ev.Index, s.ev.Block)
	case "content_block_delta":
		return s.delta(s.block(s.ev.Index), &s.ev.Delta)
	case "content_block_stop":
		return s.stop(s.block(s.ev.Index))
	case "message_delta":
		s.count(s.ev.Usage)
		if reason := s.ev.Delta.StopReason; reason != "" {
			if err := s.finish(reason); err != nil {
				return err
			}
		}
		return s.tell()
	case "message_stop":
		if err := s.finish(""); err != nil { // there was a reason before, mostly
			return err
		}
		s.whole = true
		return sdk.ErrDone
	case "ping":
		if s.begun {
			return s.tell() // nothing new, but a sign of life
		}
	}
	return nil
}

// known reports whether the event, and the delta in it, are of a type that is read here. Others may
// have members of any shape.
func (e *wireEvent) known() bool {
	switch e.Type {
	case "content_block_delta":
		switch e.Delta.Type {
		case "text_delta", "input_json_delta", "thinking_delta", "signature_delta", "citations_delta":
			return true
		}
		return false
	case "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop", "ping":
		return true
	}
	return false
}

// say emits a chunk of the answer. After the first of them follows what is known of the usage: with any
// chunk before it the host's limit of silence would begin, while the model may think long before it
// says anything, and at the end an answer that is cancelled would have none.
func (s *stream) say(c sdk.Chunk) error {
	if s.finished {
		return nil // there is no more to an answer that has finished
	}
	if err := s.emit(c); err != nil || s.begun {
		return err
	}
	s.begun = true
	return s.tell()
}

func (s *stream) text(text string) error {
	for s.space != "" && text != "" {
		if text[0] != s.space[0] {
			s.space = ""
			break
		}
		text, s.space = text[1:], s.space[1:]
	}
	if text == "" {
		return nil
	}
	s.said += len(text)
	return s.say(sdk.Text(text))
}

func (s *stream) think(text string) error {
	if text == "" {
		return nil
	}
	return s.say(sdk.Reasoning{Text: text})
}

// count takes what an event says of the usage. Counts are of the whole answer so far, and what an
// event leaves out is as it was.
func (s *stream) count(raw json.RawMessage) {
	if len(raw) > 0 && string(raw) != "null" && json.Unmarshal(raw, &s.usage) == nil {
		s.counted = true
	}
}

// tell emits what is known of the usage.
func (s *stream) tell() error {
	if !s.counted {
		return nil
	}
	u := s.usage
	return s.emit(sdk.Usage{
		Input: u.Input + u.CacheRead + u.CacheWrite, Output: u.Output, Reasoning: min(u.Details.Thinking, u.Output),
		CacheRead: u.CacheRead, CacheWrite: u.CacheWrite,
	})
}

// finish takes the reason for which the model stopped. Blocks that the upstream didn't end are over
// then. A call that a limit cut is left without its end; cut for no reason, it makes the answer none.
func (s *stream) finish(raw string) error {
	if s.finished {
		return nil
	}
	reason := finishReason(raw)
	for len(s.open) > 0 {
		if err := s.stop(s.open[0]); err != nil {
			return err
		}
	}
	if err := s.endBare(reason == sdk.FinishLength); err != nil {
		return err
	}
	if s.cut && reason == sdk.FinishToolCalls {
		return sdk.Errorf(sdk.Truncated, "upstream ended a tool call whose arguments are not JSON")
	}
	s.finished = true
	return s.emit(sdk.Finish{Reason: reason, Raw: raw})
}

// end judges how the stream ended. A filter that stops an answer reports it as an
// invalid_request_error, before the answer or within it; its message alone, "Output blocked by content
// filtering policy", tells it from a request that is wrong.
func (s *stream) end(err error) error {
	if err == nil {
		if !s.whole {
			return sdk.Unfinished()
		}
		return nil
	}
	if e := sdk.AsError(err); e.Kind == sdk.Invalid && strings.Contains(e.Message, "content filtering policy") {
		declined := *e
		declined.Kind, declined.Fault = sdk.Refused, sdk.Caller
		return &declined
	}
	return err
}

// finishReason: pause_turn asks for the answer to be given back, so that a tool of the server's can go
// on, which no other reason says.
func finishReason(raw string) sdk.FinishReason {
	switch raw {
	case "end_turn":
		return sdk.FinishStop
	case "stop_sequence":
		return sdk.FinishStopSequence
	case "max_tokens", "model_context_window_exceeded":
		return sdk.FinishLength
	case "tool_use":
		return sdk.FinishToolCalls
	case "refusal":
		return sdk.FinishRefusal
	}
	return sdk.FinishOther
}
