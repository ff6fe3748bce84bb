// Echo answers with the prompt, word by word: a provider to see Sluice work without a key, to
// test against, and to copy from. The same request always gets the same answer.
//
// Provider options (params.options of a request):
//
//	delay_ms   pause before each token; default the setting delay_ms, or 30
//	burst      tokens between two pauses; default 1
//	tokens     length of the answer: the prompt is repeated, or cut
//	reasoning  true or a text: thinks aloud first
//	tool_call  true, a name, or {"name", "arguments"}: calls a tool after the text
//	refusal    true or a text: declines instead of answering
//	usage      false: doesn't count tokens
//	error      {"kind", "after", "message", "fault", "wait_ms", "status", "code"}: fails after so
//	           many tokens
//	cut        {"after"}: breaks off after so many tokens, as a lost connection would
//	stall      {"after"}: falls silent after so many tokens, until it is cancelled
package main

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

var provider = sdk.Provider{
	Name:        "echo",
	Version:     "1.0.0",
	Models:      []sdk.Model{{Name: "echo*", Tools: true, Reasoning: true, Continue: true}},
	Generate:    generate,
	Resume:      resume,
	Check:       check,
	CountTokens: countTokens,
}

func init() { sdk.Register(provider) }

func main() { sdk.Main() }

const (
	defaultDelay = 30 // ms
	maxTokens    = 1_000_000
)

func check(_ context.Context, s sdk.Settings) error {
	if s.Float("delay_ms", defaultDelay) < 0 {
		return sdk.Errorf(sdk.Invalid, "setting delay_ms is negative")
	}
	return nil
}

func countTokens(_ context.Context, req *sdk.Request) (int, error) { return inputTokens(req), nil }

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	return answer(ctx, req, emit, false)
}

// resume goes on after req.Prefix, when that is how this answer begins.
func resume(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	return answer(ctx, req, emit, true)
}

func answer(ctx context.Context, req *sdk.Request, emit sdk.Emit, resumed bool) error {
	o, err := readOptions(req)
	if err != nil {
		return err
	}
	a := &echo{ctx: ctx, emit: emit, options: o}
	whole, finish := answerTokens(req, o)
	prefix := ""
	if resumed {
		prefix = req.Prefix
	}
	text, err := whole.after(prefix)
	if err != nil {
		return err
	}
	if thought := o.Reasoning.text("The user wants to hear it again."); thought != "" && !resumed {
		for _, t := range split(thought) {
			if err := a.step(sdk.Reasoning{Text: t}); err != nil {
				return err
			}
			a.usage.Reasoning++
		}
		if err := emit(sdk.Reasoning{Signature: "echo"}); err != nil {
			return err
		}
	}
	if refusal := o.Refusal.text("I would rather not repeat that."); refusal != "" {
		for _, t := range split(refusal) {
			if err := a.step(sdk.Refusal(t)); err != nil {
				return err
			}
		}
		return a.finish(req, sdk.Finish{Reason: sdk.FinishRefusal, Raw: "refusal"})
	}
	for t := range text {
		if err := a.fault(); err != nil {
			return err
		}
		if err := a.step(sdk.Text(t)); err != nil {
			return err
		}
		a.spoken++
	}
	if err := a.fault(); err != nil {
		return err
	}
	if o.ToolCall.Name != "" {
		if err := a.callTool(o.ToolCall); err != nil {
			return err
		}
		finish = sdk.Finish{Reason: sdk.FinishToolCalls, Raw: "tool_calls"}
	}
	return a.finish(req, finish)
}

// echo is one answer under way.
type echo struct {
	ctx     context.Context
	emit    sdk.Emit
	options options
	steps   int
	spoken  int // tokens of text
	usage   sdk.Usage
}

// step emits a token at its time.
func (a *echo) step(c sdk.Chunk) error {
	if a.steps%a.options.Burst == 0 {
		if err := sdk.Sleep(a.ctx, time.Duration(a.options.DelayMS*float64(time.Millisecond))); err != nil {
			return err
		}
	}
	a.steps++
	a.usage.Output++
	return a.emit(c)
}

// fault is the misbehaviour asked for at this point, if any.
func (a *echo) fault() error {
	o := a.options
	switch {
	case o.Error != nil && a.spoken == o.Error.After:
		return o.Error.make()
	case o.Cut != nil && a.spoken == o.Cut.After:
		return sdk.Errorf(sdk.Truncated, "cut after %d tokens, as asked", a.spoken)
	case o.Stall != nil && a.spoken == o.Stall.After:
		for {
			if err := sdk.Sleep(a.ctx, time.Hour); err != nil {
				return err
			}
		}
	}
	return nil
}

// callTool streams a call as upstreams do: the name first, then the arguments in pieces.
func (a *echo) callTool(call toolCall) error {
	if err := a.step(sdk.ToolCall{ID: "call_1", Name: call.Name}); err != nil {
		return err
	}
	args := string(call.Arguments)
	for len(args) > 0 {
		n := min(8, len(args))
		for n < len(args) && args[n]&0xC0 == 0x80 { // not within a character
			n++
		}
		if err := a.step(sdk.ToolCall{Arguments: args[:n]}); err != nil {
			return err
		}
		args = args[n:]
	}
	return a.emit(sdk.ToolCall{End: true})
}

func (a *echo) finish(req *sdk.Request, f sdk.Finish) error {
	if a.options.Usage {
		a.usage.Input = inputTokens(req)
		if err := a.emit(a.usage); err != nil {
			return err
		}
	}
	return a.emit(f)
}

// answerTokens is the whole answer, and why it ends.
func answerTokens(req *sdk.Request, o options) (script, sdk.Finish) {
	words := split(req.Prompt())
	n := len(words)
	if o.Tokens != nil && n > 0 {
		n = *o.Tokens
	}
	finish := sdk.Finish{Reason: sdk.FinishStop, Raw: "stop"}
	if req.MaxTokens > 0 && n > req.MaxTokens {
		n, finish = req.MaxTokens, sdk.Finish{Reason: sdk.FinishLength, Raw: "length"}
	}
	return script{words, n}, finish
}

// script is a whole answer: n tokens, which are the words again and again. It is never written
// out: the answer may be longer than a sandbox has room for.
type script struct {
	words []string
	n     int
}

func (s script) token(i int) string {
	word := s.words[i%len(s.words)]
	if i > 0 && i%len(s.words) == 0 {
		return " " + word
	}
	return word
}

// after is what of the answer comes after prefix.
func (s script) after(prefix string) (iter.Seq[string], error) {
	begun, part := 0, "" // tokens that prefix has begun, and what it lacks of the last
	for prefix != "" {
		token := ""
		if begun < s.n {
			token = s.token(begun)
		}
		both := min(len(token), len(prefix))
		if both == 0 || token[:both] != prefix[:both] {
			return nil, sdk.Errorf(sdk.Invalid, "the prefix is not the beginning of this answer")
		}
		prefix, part = prefix[both:], token[both:]
		begun++
	}
	return func(yield func(string) bool) {
		if part != "" && !yield(part) {
			return
		}
		for i := begun; i < s.n && yield(s.token(i)); i++ {
		}
	}, nil
}

// split cuts text into words, each with the space before it.
func split(text string) (words []string) {
	const space = " \t\r\n"
	for len(text) > 0 {
		word := strings.TrimLeft(text, space)
		n := strings.IndexAny(word, space)
		if n <= 0 {
			return append(words, text)
		}
		n += len(text) - len(word)
		words, text = append(words, text[:n]), text[n:]
	}
	return words
}

func inputTokens(req *sdk.Request) (n int) {
	for _, m := range req.Messages {
		n += len(split(m.Text()))
	}
	return n
}

// options are the options of a request.
type options struct {
	DelayMS   float64
	Burst     int
	Tokens    *int
	Reasoning said
	Refusal   said
	ToolCall  toolCall
	Usage     bool
	Error     *failure
	Cut       *struct{ After int }
	Stall     *struct{ After int }
}

func readOptions(req *sdk.Request) (options, error) {
	o := options{Usage: true, Burst: 1, DelayMS: req.Settings.Float("delay_ms", defaultDelay)}
	for name, field := range map[string]any{
		"delay_ms": &o.DelayMS, "burst": &o.Burst, "tokens": &o.Tokens, "reasoning": &o.Reasoning,
		"refusal": &o.Refusal, "tool_call": &o.ToolCall, "usage": &o.Usage, "error": &o.Error,
		"cut": &o.Cut, "stall": &o.Stall,
	} {
		if _, err := req.Option(name, field); err != nil {
			return o, err
		}
	}
	if o.Burst < 1 {
		return o, sdk.Errorf(sdk.Invalid, "option burst: %d is less than 1", o.Burst)
	}
	if o.Error != nil && !slices.Contains(kinds, o.Error.Kind) {
		return o, sdk.Errorf(sdk.Invalid, "option error: kind %q is none of %v", o.Error.Kind, kinds)
	}
	if o.Tokens != nil && (*o.Tokens < 0 || *o.Tokens > maxTokens) {
		return o, sdk.Errorf(sdk.Invalid, "option tokens: %d is not from 0 to %d", *o.Tokens, maxTokens)
	}
	return o, nil
}

var kinds = []sdk.Kind{sdk.Invalid, sdk.Denied, sdk.Limited, sdk.Unavailable, sdk.Truncated, sdk.Refused, sdk.Internal}

// said is an option that is a text, or true for a text of echo's own.
type said struct {
	on    bool
	words string
}

func (s *said) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &s.on) == nil {
		return nil
	}
	s.on = true
	return json.Unmarshal(b, &s.words)
}

func (s said) text(own string) string {
	switch {
	case !s.on:
		return ""
	case s.words != "":
		return s.words
	}
	return own
}

// toolCall is the option tool_call.
type toolCall struct {
	Name      string
	Arguments json.RawMessage
}

func (c *toolCall) UnmarshalJSON(b []byte) error {
	type plain toolCall
	var on bool
	switch {
	case json.Unmarshal(b, &on) == nil:
		if on {
			c.Name = "echo"
		}
	case json.Unmarshal(b, &c.Name) == nil:
	default:
		if err := json.Unmarshal(b, (*plain)(c)); err != nil {
			return err
		}
	}
	if len(c.Arguments) == 0 {
		c.Arguments = json.RawMessage(`{"text":"echo"}`)
	}
	return nil
}

// failure is the option error.
type failure struct {
	Kind    sdk.Kind
	After   int
	Message string
	Fault   sdk.Fault
	WaitMS  float64 `json:"wait_ms"`
	Status  int
	Code    string
}

func (f *failure) make() error {
	e := sdk.Errorf(f.Kind, "%s", f.Message)
	if f.Message == "" {
		e.Message = "failed, as asked"
	}
	if f.Fault != "" {
		e.Fault = f.Fault
	}
	e.Wait = time.Duration(f.WaitMS * float64(time.Millisecond))
	e.Status, e.Code = f.Status, f.Code
	return e
}
