package sdk

import (
	"encoding/binary"
	"encoding/json"
	"math"
)

// MarshalBinary encodes the request as a Request of provider.proto.
func (r *Request) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 512)
	b = putString(b, 1, r.JobID)
	b = putInt(b, 2, r.Attempt)
	b = putString(b, 3, r.Model)
	for _, m := range r.Messages {
		b = putMessage(b, 4, func(b []byte) []byte {
			b = putString(b, 1, m.Role)
			for _, p := range m.Parts {
				b = putMessage(b, 2, func(b []byte) []byte { return putPart(b, p) })
			}
			return b
		})
	}
	for _, t := range r.Tools {
		b = putMessage(b, 5, func(b []byte) []byte {
			b = putString(b, 1, t.Name)
			b = putString(b, 2, t.Description)
			b = putBytes(b, 3, t.Parameters)
			return putBool(b, 4, t.Strict)
		})
	}
	if c := r.ToolChoice; c != (ToolChoice{}) {
		b = putMessage(b, 6, func(b []byte) []byte { return putString(putString(b, 1, c.Mode), 2, c.Name) })
	}
	if f := r.ResponseFormat; f != nil {
		b = putMessage(b, 7, func(b []byte) []byte {
			b = putString(b, 1, f.Type)
			b = putString(b, 2, f.Name)
			b = putBytes(b, 3, f.Schema)
			return putBool(b, 4, f.Strict)
		})
	}
	b = putDouble(b, 8, r.Temperature)
	b = putDouble(b, 9, r.TopP)
	b = putInt(b, 10, r.MaxTokens)
	for _, s := range r.Stop {
		b = putStringAlways(b, 11, s)
	}
	if r.Seed != nil {
		b = binary.AppendUvarint(putTag(b, 12, wireVarint), uint64(*r.Seed))
	}
	b = putString(b, 13, r.User)
	b = putBytes(b, 14, r.Settings)
	b = putOptions(b, 15, r.Options)
	return putString(b, 16, r.Prefix), nil
}

func putPart(b []byte, p Part) []byte {
	switch p := p.(type) {
	case TextPart:
		return putStringAlways(b, 1, p)
	case ImagePart:
		return putMessage(b, 2, func(b []byte) []byte { return putImage(b, p) })
	case ToolCallPart:
		return putMessage(b, 3, func(b []byte) []byte {
			return putToolCall(b, ToolCall{ID: p.ID, Name: p.Name, Arguments: p.Arguments})
		})
	case ToolResultPart:
		return putMessage(b, 4, func(b []byte) []byte {
			b = putString(b, 1, p.ID)
			b = putString(b, 2, p.Name)
			b = putString(b, 3, p.Content)
			return putBool(b, 4, p.IsError)
		})
	case ReasoningPart:
		return putMessage(b, 5, func(b []byte) []byte { return putReasoning(b, Reasoning(p)) })
	case ProviderDataPart:
		return putMessage(b, 6, func(b []byte) []byte { return putProviderData(b, ProviderData(p)) })
	}
	return b
}

// UnmarshalBinary decodes what MarshalBinary wrote. It keeps nothing of b. Parts of a kind from a
// later version are left out.
func (r *Request) UnmarshalBinary(b []byte) error {
	*r = Request{}
	return reading("request", eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&r.JobID, f)
		case f.is(2, wireVarint):
			r.Attempt = int64(f.bits)
		case f.is(3, wireBytes):
			err = setText(&r.Model, f)
		case f.is(4, wireBytes):
			err = addMessage(&r.Messages, f)
		case f.is(5, wireBytes):
			err = addTool(&r.Tools, f)
		case f.is(6, wireBytes):
			err = readToolChoice(&r.ToolChoice, f)
		case f.is(7, wireBytes):
			if r.ResponseFormat == nil {
				r.ResponseFormat = &ResponseFormat{}
			}
			err = readResponseFormat(r.ResponseFormat, f)
		case f.is(8, wireI64):
			r.Temperature = ptr(math.Float64frombits(f.bits))
		case f.is(9, wireI64):
			r.TopP = ptr(math.Float64frombits(f.bits))
		case f.is(10, wireVarint):
			r.MaxTokens = int(f.bits)
		case f.is(11, wireBytes):
			var s string
			err = setText(&s, f)
			r.Stop = append(r.Stop, s)
		case f.is(12, wireVarint):
			r.Seed = ptr(int64(f.bits))
		case f.is(13, wireBytes):
			err = setText(&r.User, f)
		case f.is(14, wireBytes):
			r.Settings = f.bytes()
		case f.is(15, wireBytes):
			err = addOption(&r.Options, f)
		case f.is(16, wireBytes):
			err = setText(&r.Prefix, f)
		}
		return err
	}))
}

func ptr[T any](v T) *T { return &v }

func addMessage(messages *[]Message, f field) error {
	var m Message
	err := eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&m.Role, f)
		case f.is(2, wireBytes):
			var p Part
			if p, err = readPart(f.data); p != nil {
				m.Parts = append(m.Parts, p)
			}
		}
		return err
	})
	*messages = append(*messages, m)
	return err
}

// readPart reads a oneof: the last member wins, and parts of one member merge.
func readPart(b []byte) (part Part, err error) {
	err = eachField(b, func(f field) (err error) {
		if f.typ != wireBytes {
			return nil
		}
		switch f.num {
		case 1:
			var p TextPart
			err = setText(&p, f)
			part = p
		case 2:
			p, _ := part.(ImagePart)
			err = readImage(&p, f.data)
			part = p
		case 3:
			p, _ := part.(ToolCallPart)
			c := ToolCall{ID: p.ID, Name: p.Name, Arguments: p.Arguments}
			err = readToolCall(&c, f.data)
			part = ToolCallPart{ID: c.ID, Name: c.Name, Arguments: c.Arguments}
		case 4:
			p, _ := part.(ToolResultPart)
			err = readToolResult(&p, f)
			part = p
		case 5:
			p, _ := part.(ReasoningPart)
			err = readReasoning((*Reasoning)(&p), f.data)
			part = p
		case 6:
			p, _ := part.(ProviderDataPart)
			err = readProviderData((*ProviderData)(&p), f.data)
			part = p
		}
		return err
	})
	return part, err
}

func readToolResult(p *ToolResultPart, f field) error {
	return eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&p.ID, f)
		case f.is(2, wireBytes):
			err = setText(&p.Name, f)
		case f.is(3, wireBytes):
			err = setText(&p.Content, f)
		case f.is(4, wireVarint):
			p.IsError = f.bits != 0
		}
		return err
	})
}

func addTool(tools *[]Tool, f field) error {
	var t Tool
	err := eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&t.Name, f)
		case f.is(2, wireBytes):
			err = setText(&t.Description, f)
		case f.is(3, wireBytes):
			t.Parameters = f.bytes()
		case f.is(4, wireVarint):
			t.Strict = f.bits != 0
		}
		return err
	})
	*tools = append(*tools, t)
	return err
}

func readToolChoice(c *ToolChoice, f field) error {
	return eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&c.Mode, f)
		case f.is(2, wireBytes):
			err = setText(&c.Name, f)
		}
		return err
	})
}

func readResponseFormat(r *ResponseFormat, f field) error {
	return eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&r.Type, f)
		case f.is(2, wireBytes):
			err = setText(&r.Name, f)
		case f.is(3, wireBytes):
			r.Schema = f.bytes()
		case f.is(4, wireVarint):
			r.Strict = f.bits != 0
		}
		return err
	})
}

func addOption(options *map[string]json.RawMessage, f field) error {
	var name string
	value := json.RawMessage{}
	err := eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&name, f)
		case f.is(2, wireBytes):
			value = f.bytes()
		}
		return err
	})
	if *options == nil {
		*options = map[string]json.RawMessage{}
	}
	(*options)[name] = value
	return err
}
