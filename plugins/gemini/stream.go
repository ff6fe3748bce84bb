package main

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// stream turns the events of one answer into chunks.
type stream struct {
	emit      sdk.Emit
	job       string
	finish    sdk.Finish // the last one told; the zero value before
	spoken    bool       // there was more than thinking
	calls     int
	usage     usage
	told      sdk.Usage
	malformed sdk.Malformed
	response  response // scratch
}

// response is GenerateContentResponse, which each event is, as far as it matters.
type response struct {
	Candidates []struct {
		Index   int `json:"index"`
		Content struct {
			Parts []part `json:"parts"`
		} `json:"content"`
		FinishReason string `json:"finishReason"`
	} `json:"candidates"`
	PromptFeedback struct {
		BlockReason string `json:"blockReason"`
	} `json:"promptFeedback"`
	Usage *usage          `json:"usageMetadata"`
	Error json.RawMessage `json:"error"`
}

// usage is of the answer so far, in every event anew.
type usage struct {
	Prompt     int `json:"promptTokenCount"`
	Tools      int `json:"toolUsePromptTokenCount"` // what the upstream's own tools brought
	Candidates int `json:"candidatesTokenCount"`
	Thoughts   int `json:"thoughtsTokenCount"`
	Cached     int `json:"cachedContentTokenCount"`
}

// event takes one server-sent event.
func (s *stream) event(ev sdk.Event) error {
	data := bytes.TrimSpace(ev.Data)
	if len(data) == 0 {
		return nil
	}
	counted := s.usage // a count that an event leaves out stays what it was
	s.response = response{Usage: &counted}
	if json.Unmarshal(data, &s.response) != nil {
		return s.malformed.Pass(data, "responses")
	}
	if e := s.response.Error; len(e) > 0 && string(e) != "null" {
		return sdk.StatusError(0, nil, data)
	}
	s.usage = counted
	finish := ""
	for i := range s.response.Candidates {
		c := &s.response.Candidates[i]
		if c.Index != 0 {
			continue // more than one answer was never asked for
		}
		for j := range c.Content.Parts {
			if err := s.part(&c.Content.Parts[j]); err != nil {
				return err
			}
		}
		finish = c.FinishReason
	}
	if err := s.count(); err != nil {
		return err
	}
	if blocked := s.response.PromptFeedback.BlockReason; blocked != "" && len(s.response.Candidates) == 0 {
		return refusal("upstream declined the prompt", blocked)
	}
	return s.stop(finish)
}

// part emits a piece of the answer, and the signature it came with. Pieces of other kinds, such as code
// that the upstream ran, are left out.
func (s *stream) part(p *part) error {
	at := signature{Thought: p.Thought, Signature: p.ThoughtSignature}
	var c sdk.Chunk
	switch {
	case p.FunctionCall != nil:
		call := s.call(p.FunctionCall)
		at = signature{Call: call.ID, Signature: p.ThoughtSignature}
		c = call
	case p.InlineData != nil && p.Thought: // a sketch
		return nil
	case p.InlineData != nil:
		if !strings.HasPrefix(p.InlineData.MimeType, "image/") {
			return sdk.Errorf(sdk.Invalid, "the answer holds %s; of what isn't text, only images can be taken", p.InlineData.MimeType)
		}
		c = sdk.Image{MediaType: p.InlineData.MimeType, Data: p.InlineData.Data}
	case p.Text == nil:
		return nil
	case *p.Text == "": // only a signature, perhaps
	case p.Thought:
		c = sdk.Reasoning{Text: *p.Text}
	default:
		c = sdk.Text(*p.Text)
	}
	if c != nil {
		s.spoken = s.spoken || !p.Thought
		if err := s.emit(c); err != nil {
			return err
		}
	}
	if at.Signature == "" {
		return nil
	}
	return s.emit(sdk.ProviderData{Type: signatureType, Data: sdk.JSON(at)})
}

// call is a function call, which always comes whole. Not all models give their calls ids.
func (s *stream) call(f *functionCall) sdk.ToolCall {
	c := sdk.ToolCall{Index: s.calls, ID: f.ID, Name: f.Name, Arguments: string(f.Args), End: true}
	if c.ID == "" {
		c.ID = ourID(s.job, s.calls)
	}
	if c.Arguments == "" || c.Arguments == "null" {
		c.Arguments = "{}"
	}
	s.calls++
	return c
}

// idPrefix marks the ids of calls that are ours.
const idPrefix = "unnamed_"

// ourID is an id for a job's n-th call. No other job of the conversation has the same, and it is short:
// the conversation may go on with a provider that takes no long ones.
func ourID(job string, n int) string {
	h := fnv.New64a()
	h.Write([]byte(job))
	return idPrefix + strconv.FormatUint(h.Sum64(), 36) + "_" + strconv.Itoa(n)
}

// theirID is the id that the API knows a call by, "" if it gave it none.
func theirID(id string) string {
	if strings.HasPrefix(id, idPrefix) {
		return ""
	}
	return id
}

// count tells the usage when it is another than the one told before.
func (s *stream) count() error {
	u := sdk.Usage{
		Input: s.usage.Prompt + s.usage.Tools, Output: s.usage.Candidates + s.usage.Thoughts,
		Reasoning: s.usage.Thoughts, CacheRead: s.usage.Cached,
	}
	if u == s.told {
		return nil
	}
	s.told = u
	return s.emit(u)
}

// stop takes a candidate's finish reason. Where nothing was said before a filter struck, that is no
// answer but a refusal.
func (s *stream) stop(raw string) error {
	if raw == "" || raw == "FINISH_REASON_UNSPECIFIED" {
		return nil
	}
	if kind, ok := broken[raw]; ok {
		e := sdk.Errorf(kind, "upstream ended the answer with %s", raw)
		e.Code = raw
		return e
	}
	reason, ok := finishReasons[raw]
	switch {
	case !ok:
		reason = sdk.FinishOther
	case reason == sdk.FinishStop && s.calls > 0:
		reason = sdk.FinishToolCalls
	case reason == sdk.FinishContentFilter && !s.spoken:
		return refusal("upstream declined to answer", raw)
	}
	f := sdk.Finish{Reason: reason, Raw: raw}
	if f == s.finish {
		return nil // some models said it in every event
	}
	s.finish = f
	return s.emit(f)
}

// finishReasons are those of an answer that is whole, or as whole as it gets.
var finishReasons = map[string]sdk.FinishReason{
	"STOP":                     sdk.FinishStop, // for a stop sequence and before tool results, too
	"MAX_TOKENS":               sdk.FinishLength,
	"SAFETY":                   sdk.FinishContentFilter,
	"RECITATION":               sdk.FinishContentFilter,
	"LANGUAGE":                 sdk.FinishContentFilter,
	"BLOCKLIST":                sdk.FinishContentFilter,
	"PROHIBITED_CONTENT":       sdk.FinishContentFilter,
	"SPII":                     sdk.FinishContentFilter,
	"IMAGE_SAFETY":             sdk.FinishContentFilter,
	"IMAGE_PROHIBITED_CONTENT": sdk.FinishContentFilter,
	"IMAGE_RECITATION":         sdk.FinishContentFilter,
}

// broken are the finish reasons that are errors. The model's slips may not happen again.
var broken = map[string]sdk.Kind{
	"MALFORMED_FUNCTION_CALL":   sdk.Truncated,
	"MALFORMED_RESPONSE":        sdk.Truncated,
	"UNEXPECTED_TOOL_CALL":      sdk.Truncated,
	"TOO_MANY_TOOL_CALLS":       sdk.Truncated,
	"MISSING_THOUGHT_SIGNATURE": sdk.Invalid,
}

func refusal(what, code string) error {
	return &sdk.Error{Kind: sdk.Refused, Fault: sdk.Caller, Message: what + ": " + code, Code: code}
}

// end judges how the stream ended. There is no terminal marker: a finish reason shows that the answer
// is whole.
func (s *stream) end(err error) error {
	if err == nil && s.finish.Reason == "" {
		return sdk.Unfinished()
	}
	return err
}
