package sdk

import "encoding/json"

// Chunk is one step of an answer: [Text], [Reasoning], [ToolCall], [Refusal], [Citation],
// [Image], [Usage], [Finish] or [ProviderData]. The set is closed.
type Chunk interface{ isChunk() }

// MaxChunk bounds one chunk as it crosses to the host, in bytes. Emitting a larger one fails,
// whatever the plugin runs in.
const MaxChunk = 32 << 20

// Text is a piece of the answer's text, UTF-8. Pieces may end anywhere between two characters.
type Text string

// Reasoning is a piece of the model's thinking. A signature closes a block of it.
type Reasoning struct {
	Text      string
	Signature string
}

// ToolCall is a fragment of a call to one of the request's tools. ID and Name come with a call's
// first fragment, Arguments concatenate per Index into one JSON document. Fragments of different
// calls may interleave.
//
// A call is whole when a fragment has said End. It may be left out: a Finish whose Reason is none of
// [FinishLength] and [FinishContentFilter] says it of all calls. Where it is one of them the answer was
// cut, and a call without End may be, too: it must not be carried out.
type ToolCall struct {
	Index     int
	ID        string
	Name      string
	Arguments string
	End       bool // the call is whole
}

// Refusal is a piece of the text with which a model declines.
type Refusal string

// Citation names a source of the answer.
type Citation struct {
	URL    string
	Title  string
	Text   string // the words cited
	Source string // document id or index, when there is no URL
	Start  int    // where it applies in the answer's text, in bytes; 0,0 when not known
	End    int
}

// Image is an image in the answer: its bytes or its URL.
type Image struct {
	MediaType string
	Data      []byte
	URL       string
}

// Usage counts the tokens of the whole answer so far, so a later Usage replaces an earlier one. It may
// be told before the first words of an answer, and again whenever more is known. One that tells
// nothing new is a sign of life: the host's limit of silence begins anew with each chunk.
type Usage struct {
	Input      int // all that the model was given, CacheRead and CacheWrite included
	Output     int // all that it gave, Reasoning included
	Reasoning  int
	CacheRead  int // read from the upstream's cache
	CacheWrite int // written to it
}

// Finish tells why the model stopped. It does not end the answer: returning from Generate does.
type Finish struct {
	Reason FinishReason
	Raw    string // as the upstream called it
}

// ProviderData is opaque to the host, which gives it back verbatim in the next turn as a
// [ProviderDataPart].
type ProviderData struct {
	Type string
	Data json.RawMessage
}

func (Text) isChunk()         {}
func (Reasoning) isChunk()    {}
func (ToolCall) isChunk()     {}
func (Refusal) isChunk()      {}
func (Citation) isChunk()     {}
func (Image) isChunk()        {}
func (Usage) isChunk()        {}
func (Finish) isChunk()       {}
func (ProviderData) isChunk() {}

// FinishReason is why a model stopped.
type FinishReason string

// The finish reasons. An upstream's own word goes into Finish.Raw.
const (
	FinishStop          FinishReason = "stop"           // the model was done
	FinishStopSequence  FinishReason = "stop_sequence"  // one of Request.Stop appeared
	FinishLength        FinishReason = "length"         // token limit
	FinishToolCalls     FinishReason = "tool_calls"     // waits for the results of its calls
	FinishContentFilter FinishReason = "content_filter" // cut by a filter
	FinishRefusal       FinishReason = "refusal"        // the model declined
	FinishOther         FinishReason = "other"
)

// Kinds of chunks on the wires: the field numbers of message Chunk in provider.proto, and the
// first argument of the guest's emit.
const (
	KindText         uint32 = 1
	KindReasoning    uint32 = 2
	KindToolCall     uint32 = 3
	KindRefusal      uint32 = 4
	KindCitation     uint32 = 5
	KindImage        uint32 = 6
	KindUsage        uint32 = 7
	KindFinish       uint32 = 8
	KindProviderData uint32 = 9
)
