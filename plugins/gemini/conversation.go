package main

import (
	"encoding/json"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// content is one turn of a conversation, of the role user or model.
type content struct {
	Role  string `json:"role,omitempty"`
	Parts []part `json:"parts"`

	results bool // it holds results of tools and nothing else
}

// part is a piece of a turn, in requests and in answers.
type part struct {
	Text             *string           `json:"text,omitempty"` // may be "" beside a signature
	InlineData       *blob             `json:"inlineData,omitempty"`
	FileData         *file             `json:"fileData,omitempty"`
	FunctionCall     *functionCall     `json:"functionCall,omitempty"`
	FunctionResponse *functionResponse `json:"functionResponse,omitempty"`
	Thought          bool              `json:"thought,omitempty"`
	ThoughtSignature string            `json:"thoughtSignature,omitempty"`
}

type blob struct {
	MimeType string `json:"mimeType"`
	Data     []byte `json:"data"`
}

type file struct {
	MimeType string `json:"mimeType,omitempty"`
	URI      string `json:"fileUri"`
}

type functionCall struct {
	ID   string          `json:"id,omitempty"`
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
}

type functionResponse struct {
	ID       string `json:"id,omitempty"`
	Name     string `json:"name"`
	Response any    `json:"response"` // an object
}

// signatureType is that of provider data that holds a signature.
const signatureType = "gemini.thought_signature"

// signature is a thoughtSignature on its way to the next turn, where it has to stand at the part it
// came with: a call, or else what the answer said right before.
type signature struct {
	Call      string `json:"call,omitempty"` // id of the call
	Thought   bool   `json:"thought,omitempty"`
	Signature string `json:"signature"`
}

// noSignature stands in for a signature that there never was. Since Gemini 3, the first call of a turn
// is refused without one; for calls that another model made, the API's documentation has this word:
// https://ai.google.dev/gemini-api/docs/thought-signatures.
const noSignature = "skip_thought_signature_validator"

// wantsSignatures reports whether a model is one of those.
func wantsSignatures(model string) bool {
	version, ok := strings.CutPrefix(model, "gemini-")
	return ok && !strings.HasPrefix(version, "1.") && !strings.HasPrefix(version, "2.")
}

// conversation is a request's messages in the making.
type conversation struct {
	system   []part
	contents []content
	names    map[string]string // of the functions that were called, by the ids of the calls
	signed   bool              // calls want signatures
}

// conversationOf translates the messages. Those of the system have one place, before all others; the
// answer so far, if there is one, is the start of a last turn of the model's.
func conversationOf(req *sdk.Request) (*conversation, error) {
	c := &conversation{names: map[string]string{}, signed: wantsSignatures(req.Model)}
	for _, m := range req.Messages {
		if m.Role == sdk.RoleSystem || m.Role == sdk.RoleDeveloper {
			if text := m.Text(); text != "" {
				c.system = append(c.system, part{Text: &text})
			}
			continue
		}
		if err := c.add(m); err != nil {
			return nil, err
		}
	}
	if len(c.contents) == 0 {
		return nil, sdk.Errorf(sdk.Invalid, "the request has no messages besides the system's")
	}
	if req.Prefix != "" {
		c.contents = append(c.contents, content{Role: "model", Parts: []part{{Text: &req.Prefix}}})
	}
	return c, nil
}

// add translates a message. Tool results become turns of their own, whatever message they stand in.
// Reasoning goes back only where a signature proves it; other providers' data have no place here.
func (c *conversation) add(m sdk.Message) error {
	signatures, err := signaturesOf(m)
	if err != nil {
		return err
	}
	turn := content{Role: "user"}
	if m.Role == sdk.RoleAssistant {
		turn.Role = "model"
	}
	thought, called := "", false
	for i, p := range m.Parts {
		switch p := p.(type) {
		case sdk.TextPart:
			if text := string(p); text != "" { // the API refuses empty texts
				turn.Parts = append(turn.Parts, part{Text: &text})
			}
		case sdk.ImagePart:
			turn.Parts = append(turn.Parts, imageOf(p))
		case sdk.ToolCallPart:
			call, err := c.call(p, signatures)
			if err != nil {
				return err
			}
			if call.ThoughtSignature == "" && c.signed && !called {
				call.ThoughtSignature = noSignature
			}
			called = true
			turn.Parts = append(turn.Parts, call)
		case sdk.ToolResultPart:
			if err := c.result(p); err != nil {
				return err
			}
		case sdk.ReasoningPart:
			thought += p.Text
		case sdk.ProviderDataPart:
			switch s := signatures[i]; {
			case s == nil || s.Call != "":
			case s.Thought:
				text := thought
				turn.Parts = append(turn.Parts, part{Text: &text, Thought: true, ThoughtSignature: s.Signature})
				thought = ""
			default:
				turn.sign(s.Signature)
			}
		}
	}
	if len(turn.Parts) > 0 {
		c.contents = append(c.contents, turn)
	}
	return nil
}

// call is a call with the signature that names it, if there is one.
func (c *conversation) call(p sdk.ToolCallPart, signatures map[int]*signature) (part, error) {
	args, ok := objectOf(p.Arguments)
	if !ok && p.Arguments != "" {
		return part{}, sdk.Errorf(sdk.Invalid, "the arguments of the call %q of %q are not a JSON object", p.ID, p.Name)
	}
	c.names[p.ID] = p.Name
	call := part{FunctionCall: &functionCall{ID: theirID(p.ID), Name: p.Name, Args: args}}
	for _, s := range signatures {
		if s.Call != "" && s.Call == p.ID {
			call.ThoughtSignature = s.Signature
		}
	}
	return call, nil
}

// signaturesOf finds the signatures among the parts of a message, by their places.
func signaturesOf(m sdk.Message) (map[int]*signature, error) {
	var found map[int]*signature
	for i, p := range m.Parts {
		data, ok := p.(sdk.ProviderDataPart)
		if !ok || data.Type != signatureType {
			continue
		}
		s := new(signature)
		if err := json.Unmarshal(data.Data, s); err != nil {
			return nil, sdk.Errorf(sdk.Invalid, "provider data of type %s is not what it was", signatureType)
		}
		if found == nil {
			found = map[int]*signature{}
		}
		found[i] = s
	}
	return found, nil
}

// sign puts a signature at what was said last; when nothing was, at an empty text, as answers do that
// have nothing else to put it at.
func (t *content) sign(s string) {
	if n := len(t.Parts); n > 0 {
		if last := &t.Parts[n-1]; last.FunctionCall == nil && last.ThoughtSignature == "" {
			last.ThoughtSignature = s
			return
		}
	}
	t.Parts = append(t.Parts, part{Text: new(string), ThoughtSignature: s})
}

// result adds a tool's result. Those of calls that were made together have to come together.
func (c *conversation) result(p sdk.ToolResultPart) error {
	name := c.names[p.ID]
	if name == "" {
		name = p.Name
	}
	if name == "" {
		return sdk.Errorf(sdk.Invalid, "the tool result %q belongs to no call of the conversation", p.ID)
	}
	if n := len(c.contents); n == 0 || !c.contents[n-1].results {
		c.contents = append(c.contents, content{Role: "user", results: true})
	}
	turn := &c.contents[len(c.contents)-1]
	turn.Parts = append(turn.Parts, part{FunctionResponse: &functionResponse{ID: theirID(p.ID), Name: name, Response: responseOf(p)}})
	return nil
}

// responseOf is a result as an object, with the API's names for what isn't one.
func responseOf(p sdk.ToolResultPart) any {
	if p.IsError {
		return map[string]string{"error": p.Content}
	}
	if object, ok := objectOf(p.Content); ok {
		return object
	}
	return map[string]string{"output": p.Content}
}

// objectOf reports whether text is a JSON object.
func objectOf(text string) (json.RawMessage, bool) {
	text = strings.TrimSpace(text)
	return json.RawMessage(text), strings.HasPrefix(text, "{") && json.Valid([]byte(text))
}

// imageOf leaves URLs to the API, which fetches what is public; Gemini 2.0 and older refuse to, see
// https://ai.google.dev/gemini-api/docs/file-input-methods.
func imageOf(p sdk.ImagePart) part {
	if len(p.Data) == 0 {
		return part{FileData: &file{MimeType: p.MediaType, URI: p.URL}}
	}
	media := p.MediaType
	if media == "" {
		media = "image/png"
	}
	return part{InlineData: &blob{MimeType: media, Data: p.Data}}
}
