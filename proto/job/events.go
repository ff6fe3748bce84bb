package job

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Event names as clients and channels see them.
const (
	EventStarted   = "job:started:v1"
	EventStart     = "model:start:v1"
	EventChunk     = "model:chunk:v1"
	EventDelta     = "model:delta:v1"
	EventComplete  = "model:complete:v1"
	EventError     = "model:error:v1"
	EventProgress  = "task:progress:v1"
	EventCancelled = "task:cancelled"
)

// Event is one of *Started, *Start, *Chunk, *Delta, *Complete, *Error, *Progress, *Cancelled.
// All but *Started belong to a job's log and get their Head from Append.
type Event interface {
	Name() string
	head() *Head // nil: not logged
}

// Head is the part all logged events share; Append fills it.
type Head struct {
	JobID   string `json:"jobId"`
	UserID  string `json:"userId"`
	Attempt int64  `json:"attempt"`
	Seq     int64  `json:"seq"`
}

// Started: accepted and queued. Published to the owner's channel by Create, not logged.
type Started struct {
	JobID string `json:"jobId"`
	Query string `json:"query"`
	Model string `json:"model"`
	// Created is when, in Unix ms: a tab that was opened later asks for the job itself, if it wants it.
	Created int64 `json:"created,omitempty"`
}

// Start: an attempt begins. Reset tells the client to drop the text of earlier attempts.
type Start struct {
	Head
	Provider     string `json:"provider"`
	PluginDigest string `json:"pluginDigest,omitempty"` // SHA-256 of the plugin's artifact; none when it is part of the host
	Model        string `json:"model"`
	Reset        bool   `json:"reset"`
}

// Chunk is answer text. Append fills Index, which counts within the attempt from 0; total is always null.
type Chunk struct {
	Head
	Chunk string `json:"chunk"`
	Index int64  `json:"index"`
	Total *int64 `json:"total"`
}

// Delta is everything that is not answer text. Body is encoded as a JSON object and its members stand beside
// kind; nil for none. A body may not have members called jobId, userId, attempt, seq or kind.
type Delta struct {
	Head
	Kind string `json:"kind"`
	Body any    `json:"-"`
}

// Complete is the terminal frame of an answer that is whole. Finish fills Text and Digest when empty.
type Complete struct {
	Head
	Text         string   `json:"text"`
	Tokens       int64    `json:"tokens"`
	Duration     int64    `json:"duration"` // ms since the job started
	FinishReason string   `json:"finishReason"`
	Usage        *Usage   `json:"usage"`
	Provider     string   `json:"provider"`
	Model        string   `json:"model"`
	Timings      *Timings `json:"timings"`
	Digest       string   `json:"digest"` // SHA-256 of Text, hex
}

// Error is the terminal frame of a job that failed for good.
type Error struct {
	Head
	Code      string `json:"code"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"` // asking again may succeed
	Fault     string `json:"fault"`     // caller, upstream, plugin or host
}

// Progress of a job; Progress runs from 0 to 1.
type Progress struct {
	Head
	Progress float64 `json:"progress"`
	Status   string  `json:"status"`
	Message  string  `json:"message"`
	// Spared says of a failure that it counts for none: nobody could be asked.
	Spared bool `json:"spared,omitempty"`
}

// Cancelled is the terminal frame and receipt of a cancel. Text is what the log holds; Finish fills it.
type Cancelled struct {
	Head
	Text   string `json:"text"`
	Tokens int64  `json:"tokens"`
	Usage  *Usage `json:"usage"`
}

// Usage in tokens.
type Usage struct {
	Input      int64 `json:"input"`
	Output     int64 `json:"output"`
	Reasoning  int64 `json:"reasoning,omitempty"`
	CacheRead  int64 `json:"cacheRead,omitempty"`
	CacheWrite int64 `json:"cacheWrite,omitempty"`
	// Doubtful: the provider told counts that can't be; these are the most that can.
	Doubtful bool `json:"doubtful,omitempty"`
}

// Timings of the last attempt in ms.
type Timings struct {
	Queued     int64 `json:"queued"`     // from created to the attempt's begin
	FirstChunk int64 `json:"firstChunk"` // from the attempt's begin to its first chunk
	Total      int64 `json:"total"`      // from the attempt's begin to its end
}

func (*Started) Name() string   { return EventStarted }
func (*Start) Name() string     { return EventStart }
func (*Chunk) Name() string     { return EventChunk }
func (*Delta) Name() string     { return EventDelta }
func (*Complete) Name() string  { return EventComplete }
func (*Error) Name() string     { return EventError }
func (*Progress) Name() string  { return EventProgress }
func (*Cancelled) Name() string { return EventCancelled }

func (*Started) head() *Head     { return nil }
func (e *Start) head() *Head     { return &e.Head }
func (e *Chunk) head() *Head     { return &e.Head }
func (e *Delta) head() *Head     { return &e.Head }
func (e *Complete) head() *Head  { return &e.Head }
func (e *Error) head() *Head     { return &e.Head }
func (e *Progress) head() *Head  { return &e.Head }
func (e *Cancelled) head() *Head { return &e.Head }

// terminalState is the state a terminal event ends its job in, "" for events that aren't terminal.
func terminalState(event string) State {
	switch event {
	case EventComplete:
		return StateComplete
	case EventError:
		return StateFailed
	case EventCancelled:
		return StateCancelled
	}
	return ""
}

// generalChannel is where a frame is published for everybody, "" for nowhere.
func generalChannel(event string) string {
	switch event {
	case EventStart, EventChunk, EventDelta:
		return ChunkChannel
	case EventComplete, EventError, EventCancelled:
		return CompleteChannel
	case EventProgress:
		return ProgressChannel
	}
	return ""
}

// encodeFrame encodes an event as a frame, once: {"event":…,"data":{…},"timestamp":ms}.
func encodeFrame(e Event, ms int64) ([]byte, error) {
	if c, ok := e.(*Chunk); ok && c.Total == nil {
		return appendChunk(nil, c, 0, ms), nil
	}
	name := e.Name()
	b := make([]byte, 0, 256)
	b = append(b, `{"event":"`...)
	b = append(b, name...)
	b = append(b, `","data":`...)
	var err error
	if d, ok := e.(*Delta); ok {
		b, err = appendDelta(b, d)
	} else {
		b, err = appendJSON(b, e)
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", errEncode, name, err)
	}
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendInt(b, ms, 10)
	return append(b, '}'), nil
}

// appendChunk writes a chunk frame by hand: the same bytes as encoding/json without HTML escaping.
// from > 0 adds fromSeq: the frame stands for all chunks from there to its seq.
func appendChunk(b []byte, c *Chunk, from, ms int64) []byte {
	if b == nil {
		b = make([]byte, 0, 176+len(c.JobID)+len(c.UserID)+len(c.Chunk)+len(c.Chunk)/8)
	}
	b = append(b, `{"event":"`+EventChunk+`","data":{"jobId":`...)
	b = appendString(b, c.JobID)
	b = append(b, `,"userId":`...)
	b = appendString(b, c.UserID)
	b = append(b, `,"attempt":`...)
	b = strconv.AppendInt(b, c.Attempt, 10)
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, c.Seq, 10)
	b = append(b, `,"chunk":`...)
	b = appendString(b, c.Chunk)
	b = append(b, `,"index":`...)
	b = strconv.AppendInt(b, c.Index, 10)
	b = append(b, `,"total":null`...)
	if from > 0 {
		b = append(b, `,"fromSeq":`...)
		b = strconv.AppendInt(b, from, 10)
	}
	b = append(b, `},"timestamp":`...)
	b = strconv.AppendInt(b, ms, 10)
	return append(b, '}')
}

func appendDelta(b []byte, d *Delta) ([]byte, error) {
	b, err := appendJSON(b, d) // {…,"kind":"…"}
	if err != nil || d.Body == nil {
		return b, err
	}
	body, err := appendJSON(nil, d.Body)
	if err != nil {
		return nil, err
	}
	if len(body) < 2 || body[0] != '{' {
		return nil, fmt.Errorf("body of a %q delta is not an object", d.Kind)
	}
	if len(body) == 2 {
		return b, nil
	}
	b[len(b)-1] = ','
	return append(b, body[1:]...), nil
}

// appendJSON is encoding/json without HTML escaping and without the newline, and with U+FFFD for what isn't UTF-8
// in raw JSON that v holds: browsers end a connection that sends it.
func appendJSON(b []byte, v any) ([]byte, error) {
	before := len(b)
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
	if !utf8.Valid(b[before:]) {
		b = append(b[:before], bytes.ToValidUTF8(b[before:], []byte("\uFFFD"))...)
	}
	return b, nil
}
