package main

import (
	"bytes"
	"encoding/json"

	"github.com/sluicehq/sluice/sdk"
)

// stream turns the events of one answer into chunks.
type stream struct {
	emit      sdk.Emit
	finished  bool // a finish_reason or [DONE] was there
	malformed sdk.Malformed
	calls     []toolCall
	chunk     chunk // scratch
}

// toolCall remembers how the upstream numbers a call; the position in stream.calls is ours.
type toolCall struct {
	index int
	id    string
}

// chunk is chat.completion.chunk as far as it matters.
type chunk struct {
	Choices []struct {
		Index        int     `json:"index"`
		Delta        delta   `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage          `json:"usage"`
	Error json.RawMessage `json:"error"`
}

type delta struct {
	Content          json.RawMessage `json:"content"` // a string, or with Mistral a list of parts
	Refusal          string          `json:"refusal"`
	ReasoningContent string          `json:"reasoning_content"` // DeepSeek, vLLM
	Reasoning        json.RawMessage `json:"reasoning"`         // OpenRouter, Groq: a string
	ToolCalls        []struct {
		Index    *int   `json:"index"`
		ID       string `json:"id"`
		Function struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"` // a string; a few servers send the object
		} `json:"function"`
	} `json:"tool_calls"`
	FunctionCall *function `json:"function_call"` // before tool_calls there were these
}

type usage struct {
	Prompt        int `json:"prompt_tokens"`
	Completion    int `json:"completion_tokens"`
	PromptDetails struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// event takes one server-sent event.
func (s *stream) event(ev sdk.Event) error {
	data := bytes.TrimSpace(ev.Data)
	if len(data) == 0 {
		return nil
	}
	if string(data) == "[DONE]" {
		s.finished = true
		return sdk.ErrDone
	}
	if text, ok := plainDelta(data); ok {
		if len(text) == 0 {
			return nil
		}
		return s.emit(sdk.Text(text))
	}
	s.chunk = chunk{}
	if json.Unmarshal(data, &s.chunk) != nil {
		return s.malformed.Pass(data, "chunks")
	}
	if e := s.chunk.Error; len(e) > 0 && string(e) != "null" {
		return sdk.StatusError(0, nil, data)
	}
	for i := range s.chunk.Choices {
		c := &s.chunk.Choices[i]
		if c.Index != 0 {
			continue // more than one answer was never asked for
		}
		if err := s.delta(&c.Delta); err != nil {
			return err
		}
		if c.FinishReason != nil && *c.FinishReason != "" {
			s.finished = true
			if *c.FinishReason == "error" { // Mistral: the answer broke off
				return sdk.Errorf(sdk.Truncated, "upstream ended the answer with an error")
			}
			if err := s.emit(sdk.Finish{Reason: finishReason(*c.FinishReason), Raw: *c.FinishReason}); err != nil {
				return err
			}
		}
	}
	if u := s.chunk.Usage; u != nil {
		return s.emit(sdk.Usage{Input: u.Prompt, Output: u.Completion, Reasoning: u.CompletionDetails.Reasoning, CacheRead: u.PromptDetails.Cached})
	}
	return nil
}

func (s *stream) delta(d *delta) error {
	thinking := d.ReasoningContent
	if thinking == "" {
		thinking = stringOf(d.Reasoning)
	}
	if thinking != "" {
		if err := s.emit(sdk.Reasoning{Text: thinking}); err != nil {
			return err
		}
	}
	if err := s.content(d.Content); err != nil {
		return err
	}
	if d.Refusal != "" {
		if err := s.emit(sdk.Refusal(d.Refusal)); err != nil {
			return err
		}
	}
	if f := d.FunctionCall; f != nil {
		c := sdk.ToolCall{Index: s.call(0, ""), Name: f.Name, Arguments: f.Arguments}
		if err := s.emit(c); err != nil {
			return err
		}
	}
	for i, t := range d.ToolCalls {
		index := i
		if t.Index != nil {
			index = *t.Index
		}
		args := stringOf(t.Function.Arguments)
		if args == "" && len(t.Function.Arguments) > 0 && t.Function.Arguments[0] == '{' {
			args = string(t.Function.Arguments)
		}
		c := sdk.ToolCall{Index: s.call(index, t.ID), ID: t.ID, Name: t.Function.Name, Arguments: args}
		if err := s.emit(c); err != nil {
			return err
		}
	}
	return nil
}

// content takes the text of a delta: a string, or a list of parts of type text and thinking.
func (s *stream) content(raw json.RawMessage) error {
	if len(raw) == 0 || raw[0] != '[' {
		if text := stringOf(raw); text != "" {
			return s.emit(sdk.Text(text))
		}
		return nil
	}
	var parts []struct {
		Type     string          `json:"type"`
		Text     string          `json:"text"`
		Thinking json.RawMessage `json:"thinking"` // a string, or text parts again
	}
	if json.Unmarshal(raw, &parts) != nil {
		return nil
	}
	for _, p := range parts {
		var err error
		switch {
		case p.Type == "text" && p.Text != "":
			err = s.emit(sdk.Text(p.Text))
		case p.Type == "thinking":
			if text := thinkingOf(p.Thinking); text != "" {
				err = s.emit(sdk.Reasoning{Text: text})
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func thinkingOf(raw json.RawMessage) string {
	text := stringOf(raw)
	if text != "" {
		return text
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) == nil {
		for _, p := range parts {
			text += p.Text
		}
	}
	return text
}

// call is our number for the call that a fragment belongs to. Several servers send every call with
// index 0; there, a new call begins when the id changes.
func (s *stream) call(index int, id string) int {
	for i := len(s.calls) - 1; i >= 0; i-- {
		if s.calls[i].index == index && (id == "" || s.calls[i].id == "" || s.calls[i].id == id) {
			if s.calls[i].id == "" {
				s.calls[i].id = id
			}
			return i
		}
	}
	s.calls = append(s.calls, toolCall{index, id})
	return len(s.calls) - 1
}

// end judges how the stream ended. Where [DONE] is left out, as a few servers do, a finish_reason
// shows that the answer is whole.
func (s *stream) end(err error) error {
	if err == nil && !s.finished {
		return sdk.Unfinished()
	}
	return err
}

func finishReason(raw string) sdk.FinishReason {
	switch raw {
	case "stop":
		return sdk.FinishStop
	case "length", "model_length":
		return sdk.FinishLength
	case "tool_calls", "function_call":
		return sdk.FinishToolCalls
	case "content_filter":
		return sdk.FinishContentFilter
	}
	return sdk.FinishOther
}

func stringOf(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
