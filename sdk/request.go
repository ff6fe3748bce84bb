package sdk

import (
	"encoding/json"
	"strings"
)

// Request is one generation.
type Request struct {
	JobID   string
	Attempt int64 // counts the executions of the job, from 1
	Model   string

	Messages       []Message
	Tools          []Tool
	ToolChoice     ToolChoice
	ResponseFormat *ResponseFormat // nil: text

	// Sampling. nil and 0 leave it to the provider.
	Temperature *float64
	TopP        *float64
	MaxTokens   int
	Stop        []string
	Seed        *int64

	User     string                     // for the upstream's abuse detection; may be empty
	Settings Settings                   // the operator's settings for this plugin
	Options  map[string]json.RawMessage // provider options of the caller, passed through
	Prefix   string                     // the answer so far, when continuing
}

// Role says who speaks.
type Role string

// The roles of messages.
const (
	RoleSystem    Role = "system"
	RoleDeveloper Role = "developer"
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
	RoleTool      Role = "tool"
)

// Message is one turn of the conversation.
type Message struct {
	Role  Role
	Parts []Part
}

// Text is the text of all text parts.
func (m Message) Text() string {
	if len(m.Parts) == 1 {
		t, _ := m.Parts[0].(TextPart)
		return string(t)
	}
	var b strings.Builder
	for _, p := range m.Parts {
		if t, ok := p.(TextPart); ok {
			b.WriteString(string(t))
		}
	}
	return b.String()
}

// Prompt is the text of the last message of the user.
func (r *Request) Prompt() string {
	for i := len(r.Messages) - 1; i >= 0; i-- {
		if r.Messages[i].Role == RoleUser {
			return r.Messages[i].Text()
		}
	}
	return ""
}

// Option decodes the option name into v and reports whether it was there. A value of another
// type is an [Invalid] error.
func (r *Request) Option(name string, v any) (bool, error) {
	raw, ok := r.Options[name]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, Errorf(Invalid, "option %s: %w", name, err)
	}
	return true, nil
}

// Part is a piece of a message: [TextPart], [ImagePart], [ToolCallPart], [ToolResultPart],
// [ReasoningPart] or [ProviderDataPart]. The set is closed.
type Part interface{ isPart() }

// TextPart is text.
type TextPart string

// ImagePart is an image: its bytes or its URL.
type ImagePart struct {
	MediaType string
	Data      []byte
	URL       string
	Detail    string // low, high or auto; may be empty
}

// ToolCallPart is a whole call the assistant made.
type ToolCallPart struct {
	ID        string
	Name      string
	Arguments string // JSON
}

// ToolResultPart is the result of a call.
type ToolResultPart struct {
	ID      string // of the call
	Name    string
	Content string
	IsError bool
}

// ReasoningPart is thinking of an earlier turn, with the signature that proves it to its maker.
type ReasoningPart struct {
	Text      string
	Signature string
}

// ProviderDataPart is a [ProviderData] of an earlier turn.
type ProviderDataPart struct {
	Type string
	Data json.RawMessage
}

func (TextPart) isPart()         {}
func (ImagePart) isPart()        {}
func (ToolCallPart) isPart()     {}
func (ToolResultPart) isPart()   {}
func (ReasoningPart) isPart()    {}
func (ProviderDataPart) isPart() {}

// Tool is a function the model may call.
type Tool struct {
	Name        string
	Description string
	Parameters  json.RawMessage // JSON schema
	Strict      bool
}

// ToolChoice tells whether, or which, tool must be called.
type ToolChoice struct {
	Mode string // "auto", "none", "required", "tool"; "" leaves it to the provider
	Name string // the tool, with mode "tool"
}

// ResponseFormat asks for structured output.
type ResponseFormat struct {
	Type   string // "text", "json_object", "json_schema"
	Name   string
	Schema json.RawMessage // JSON schema
	Strict bool
}
