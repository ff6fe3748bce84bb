package host

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// answer keeps account of the chunks of one attempt. Safe for concurrent use.
type answer struct {
	limit int64 // bytes of output; 0 is none

	mu      sync.Mutex
	first   time.Time // of the first chunk
	texts   int64     // pieces of text
	output  int64     // bytes
	usage   *sdk.Usage
	finish  sdk.Finish
	refused error // why a chunk was not accepted
}

// take enters a chunk into the account. It fails for one that can't be accepted.
func (a *answer) take(c sdk.Chunk) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first.IsZero() {
		a.first = time.Now()
	}
	switch c := c.(type) {
	case sdk.Text:
		if c != "" {
			a.texts++
		}
	case sdk.Usage:
		a.usage = &c
	case sdk.Finish:
		a.finish = c
	case sdk.ProviderData:
		if len(c.Data) > 0 && !json.Valid(c.Data) {
			return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: "provider data is not JSON"}
		}
	}
	a.output += payload(c)
	if a.limit > 0 && a.output > a.limit {
		return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Code: codeOutput, Message: "the answer is longer than the plugin's output limit"}
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
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.usage != nil && a.usage.Output > 0 {
		return int64(a.usage.Output)
	}
	return a.texts
}

// firstAt is when the first chunk came, zero before it.
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
	u := a.counted()
	if u == nil {
		return nil
	}
	return &job.Usage{
		Input: int64(u.Input), Output: int64(u.Output), Reasoning: int64(u.Reasoning),
		CacheRead: int64(u.CacheRead), CacheWrite: int64(u.CacheWrite),
	}
}

// counted is the usage the provider told, nil for none.
func (a *answer) counted() *sdk.Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.usage
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
