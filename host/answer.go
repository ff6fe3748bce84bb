package host

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// answer keeps account of the chunks of one attempt. Safe for concurrent use.
type answer struct {
	limit  int64 // bytes of output; 0 is none
	hidden int64 // tokens that may be counted beyond what was said; 0 is hiddenTokens

	mu      sync.Mutex
	first   time.Time  // of the first chunk that isn't silent
	texts   int64      // pieces of text
	output  int64      // bytes
	silent  int64      // bytes of chunks that say nothing, which could come without end
	usage   *sdk.Usage // the highest counts told
	doubt   bool       // whether one was told that can't be
	finish  sdk.Finish
	refused error // why a chunk was not accepted
}

// take enters a chunk into the account. It fails for one that can't be accepted.
func (a *answer) take(c sdk.Chunk) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first.IsZero() && !silent(c) {
		a.first = time.Now()
	}
	switch c := c.(type) {
	case sdk.Text:
		if c != "" {
			a.texts++
		}
	case sdk.Usage:
		if err := a.count(c); err != nil {
			return err
		}
	case sdk.Finish:
		a.finish = sdk.Finish{Reason: reasonOf(c)}
	case sdk.ToolCall:
		if c.Index < 0 || c.Index >= maxCalls {
			return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: fmt.Sprintf(
				"the plugin tells of a tool call that can't be: its index is %d; count the calls of an answer from 0, up to %d", c.Index, maxCalls)}
		}
	case sdk.ProviderData:
		if len(c.Data) > 0 && !json.Valid(c.Data) {
			return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: "provider data is not JSON"}
		}
	}
	a.output += payload(c)
	if silent(c) {
		a.silent += int64(chunkBytes(c))
	}
	if a.limit > 0 && a.output+a.silent > a.limit {
		return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Code: codeOutput, Message: "the answer is longer than the plugin's output limit"}
	}
	return nil
}

// reasonOf is why a model stopped, in one of the words for it.
func reasonOf(c sdk.Finish) sdk.FinishReason {
	switch c.Reason {
	case "", sdk.FinishStop, sdk.FinishStopSequence, sdk.FinishLength, sdk.FinishToolCalls, sdk.FinishContentFilter, sdk.FinishRefusal:
		return c.Reason
	}
	return sdk.FinishOther
}

const (
	// maxTokens is more than any model takes or gives in one answer.
	maxTokens = 1 << 31
	// maxCalls is more than a model calls tools in one answer.
	maxCalls = 1 << 16
	// hiddenTokens is how many a model may have thought without saying so, when
	// it isn't known how many it may give at all.
	hiddenTokens = 1 << 17
)

// count enters what a provider says it has used up. A number that nobody can have
// counted ends the answer: it is added up and paid for. A count that has become
// less than it was is kept as it was, and the usage is marked. The caller holds mu.
func (a *answer) count(c sdk.Usage) error {
	if a.usage == nil {
		a.usage = &sdk.Usage{}
	}
	for _, f := range []struct {
		name string
		told int
		have *int
	}{
		{"input", c.Input, &a.usage.Input}, {"output", c.Output, &a.usage.Output}, {"reasoning", c.Reasoning, &a.usage.Reasoning},
		{"cacheRead", c.CacheRead, &a.usage.CacheRead}, {"cacheWrite", c.CacheWrite, &a.usage.CacheWrite},
	} {
		if f.told < 0 || int64(f.told) > maxTokens {
			return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: fmt.Sprintf(
				"the plugin tells a usage that can't be: %s is %d; emit a number of tokens from 0 to %d", f.name, f.told, maxTokens)}
		}
		a.doubt = a.doubt || f.told < *f.have
		*f.have = max(*f.have, f.told)
	}
	return nil
}

// refuse notes that a chunk was not accepted: the answer can't be whole any
// more, whatever the provider returns.
func (a *answer) refuse(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused == nil {
		a.refused = err
	}
	return err
}

// refusal is the first error refuse was told, if any.
func (a *answer) refusal() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// tokens is what the provider counted as its output, else the number of pieces
// of text it sent.
func (a *answer) tokens() int64 {
	if u, _ := a.counted(); u != nil && u.Output > 0 {
		return int64(u.Output)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.texts
}

// firstAt is when the first chunk came that makes a frame, zero before it.
func (a *answer) firstAt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.first
}

// reason is why the model stopped.
func (a *answer) reason() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.finish.Reason == "" {
		return string(sdk.FinishStop)
	}
	return string(a.finish.Reason)
}

// spent is the usage as clients see it, nil when the provider told none.
func (a *answer) spent() *job.Usage {
	u, doubt := a.counted()
	if u == nil {
		return nil
	}
	return &job.Usage{
		Doubtful: doubt, Input: int64(u.Input), Output: int64(u.Output), Reasoning: int64(u.Reasoning),
		CacheRead: int64(u.CacheRead), CacheWrite: int64(u.CacheWrite),
	}
}

// counted is the usage the provider told, nil for none, and whether it is to be
// doubted. No token is shorter than a byte: a model that counts more of them than
// it has said bytes has thought in silence, but not without end. Beyond that the
// figures are cut to what can have been.
func (a *answer) counted() (u *sdk.Usage, doubt bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.usage == nil {
		return nil, false
	}
	sum, doubt := *a.usage, a.doubt
	most := a.hidden
	if most <= 0 {
		most = hiddenTokens
	}
	most += a.output
	if int64(sum.Output) > most {
		sum.Output, doubt = int(most), true
	}
	if sum.Reasoning > sum.Output { // which includes it
		sum.Reasoning, doubt = sum.Output, true
	}
	return &sum, doubt
}

// silent reports whether a chunk makes no frame of its own.
func silent(c sdk.Chunk) bool {
	switch c := c.(type) {
	case sdk.Text:
		return c == ""
	case sdk.Usage, sdk.Finish:
		return true
	}
	return false
}

// Bodies of model:delta:v1, by kind.
type (
	reasoningDelta struct { // kind "reasoning"
		Text      string `json:"text"`
		Signature string `json:"signature,omitempty"`
	}
	toolCallDelta struct { // kind "tool_call"
		Index     int    `json:"index"`
		ID        string `json:"id,omitempty"`
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"`
		End       bool   `json:"end,omitempty"`
	}
	refusalDelta struct { // kind "refusal"
		Text string `json:"text"`
	}
	citationDelta struct { // kind "citation"
		URL    string `json:"url,omitempty"`
		Title  string `json:"title,omitempty"`
		Text   string `json:"text,omitempty"`
		Source string `json:"source,omitempty"`
		Start  int    `json:"start"`
		End    int    `json:"end"`
	}
	imageDelta struct { // kind "image"
		MediaType string `json:"mediaType,omitempty"`
		Data      []byte `json:"data,omitempty"` // base64
		URL       string `json:"url,omitempty"`
	}
	providerDataDelta struct { // kind "provider_data"
		Type string          `json:"type"`
		Data json.RawMessage `json:"data,omitempty"`
	}
)

// eventOf is the frame of a chunk that isn't silent.
func eventOf(c sdk.Chunk) job.Event {
	switch c := c.(type) {
	case sdk.Text:
		return &job.Chunk{Chunk: string(c)}
	case sdk.Reasoning:
		return &job.Delta{Kind: "reasoning", Body: reasoningDelta{c.Text, c.Signature}}
	case sdk.ToolCall:
		return &job.Delta{Kind: "tool_call", Body: toolCallDelta{c.Index, c.ID, c.Name, c.Arguments, c.End}}
	case sdk.Refusal:
		return &job.Delta{Kind: "refusal", Body: refusalDelta{string(c)}}
	case sdk.Citation:
		return &job.Delta{Kind: "citation", Body: citationDelta{c.URL, c.Title, c.Text, c.Source, c.Start, c.End}}
	case sdk.Image:
		return &job.Delta{Kind: "image", Body: imageDelta{c.MediaType, c.Data, c.URL}}
	case sdk.ProviderData:
		return &job.Delta{Kind: "provider_data", Body: providerDataDelta{c.Type, c.Data}}
	}
	panic("host: a chunk without a frame was queued")
}
