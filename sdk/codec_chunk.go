package sdk

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// EncodeChunk appends the payload of a chunk to dst and returns its kind: the field number in
// message Chunk of provider.proto. The payload of Text and Refusal is the text itself, of the
// others the sub-message. Kind 0 stands for a nil chunk.
func EncodeChunk(dst []byte, c Chunk) (kind uint32, payload []byte) {
	switch c := c.(type) {
	case Text:
		return KindText, append(dst, c...)
	case Refusal:
		return KindRefusal, append(dst, c...)
	case Reasoning:
		return KindReasoning, putReasoning(dst, c)
	case ToolCall:
		return KindToolCall, putToolCall(dst, c)
	case Citation:
		dst = putString(dst, 1, c.URL)
		dst = putString(dst, 2, c.Title)
		dst = putString(dst, 3, c.Text)
		dst = putString(dst, 4, c.Source)
		dst = putInt(dst, 5, c.Start)
		return KindCitation, putInt(dst, 6, c.End)
	case Image:
		return KindImage, putImage(dst, ImagePart{MediaType: c.MediaType, Data: c.Data, URL: c.URL})
	case Usage:
		dst = putInt(dst, 1, c.Input)
		dst = putInt(dst, 2, c.Output)
		dst = putInt(dst, 3, c.Reasoning)
		dst = putInt(dst, 4, c.CacheRead)
		return KindUsage, putInt(dst, 5, c.CacheWrite)
	case Finish:
		return KindFinish, putString(putString(dst, 1, c.Reason), 2, c.Raw)
	case ProviderData:
		return KindProviderData, putProviderData(dst, c)
	}
	return 0, dst
}

// DecodeChunk decodes what EncodeChunk wrote. It keeps nothing of payload. Text that is not
// UTF-8 is repaired. A kind from a later version is an error that says so.
func DecodeChunk(kind uint32, payload []byte) (Chunk, error) {
	switch kind {
	case KindText:
		return Text(validText(payload)), nil
	case KindRefusal:
		return Refusal(validText(payload)), nil
	case KindReasoning:
		var c Reasoning
		err := readReasoning(&c, payload)
		return c, reading("reasoning", err)
	case KindToolCall:
		var c ToolCall
		err := readToolCall(&c, payload)
		return c, reading("tool call", err)
	case KindCitation:
		var c Citation
		err := readCitation(&c, payload)
		return c, reading("citation", err)
	case KindImage:
		var p ImagePart
		err := readImage(&p, payload)
		return Image{MediaType: p.MediaType, Data: p.Data, URL: p.URL}, reading("image", err)
	case KindUsage:
		var c Usage
		err := readUsage(&c, payload)
		return c, reading("usage", err)
	case KindFinish:
		var c Finish
		err := readFinish(&c, payload)
		return c, reading("finish", err)
	case KindProviderData:
		var c ProviderData
		err := readProviderData(&c, payload)
		return c, reading("provider data", err)
	}
	return nil, &unknownChunkError{kind}
}

// unknownChunkError is the answer to a chunk of a kind this version doesn't know.
type unknownChunkError struct{ kind uint32 }

func (e *unknownChunkError) Error() string { return fmt.Sprintf("unknown kind of chunk: %d", e.kind) }

func validText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

func putReasoning(b []byte, c Reasoning) []byte {
	return putString(putString(b, 1, c.Text), 2, c.Signature)
}

func readReasoning(c *Reasoning, b []byte) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&c.Text, f)
		case f.is(2, wireBytes):
			err = setText(&c.Signature, f)
		}
		return err
	})
}

func putToolCall(b []byte, c ToolCall) []byte {
	b = putInt(b, 1, c.Index)
	b = putString(b, 2, c.ID)
	b = putString(b, 3, c.Name)
	b = putString(b, 4, c.Arguments)
	return putBool(b, 5, c.End)
}

func readToolCall(c *ToolCall, b []byte) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireVarint):
			c.Index = int(f.bits)
		case f.is(2, wireBytes):
			err = setText(&c.ID, f)
		case f.is(3, wireBytes):
			err = setText(&c.Name, f)
		case f.is(4, wireBytes):
			err = setText(&c.Arguments, f)
		case f.is(5, wireVarint):
			c.End = f.bits != 0
		}
		return err
	})
}

func readCitation(c *Citation, b []byte) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&c.URL, f)
		case f.is(2, wireBytes):
			err = setText(&c.Title, f)
		case f.is(3, wireBytes):
			err = setText(&c.Text, f)
		case f.is(4, wireBytes):
			err = setText(&c.Source, f)
		case f.is(5, wireVarint):
			c.Start = int(f.bits)
		case f.is(6, wireVarint):
			c.End = int(f.bits)
		}
		return err
	})
}

func putImage(b []byte, p ImagePart) []byte {
	b = putString(b, 1, p.MediaType)
	b = putBytes(b, 2, p.Data)
	b = putString(b, 3, p.URL)
	return putString(b, 4, p.Detail)
}

func readImage(p *ImagePart, b []byte) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&p.MediaType, f)
		case f.is(2, wireBytes):
			p.Data = f.bytes()
		case f.is(3, wireBytes):
			err = setText(&p.URL, f)
		case f.is(4, wireBytes):
			err = setText(&p.Detail, f)
		}
		return err
	})
}

func readUsage(c *Usage, b []byte) error {
	return eachField(b, func(f field) error {
		switch {
		case f.is(1, wireVarint):
			c.Input = int(f.bits)
		case f.is(2, wireVarint):
			c.Output = int(f.bits)
		case f.is(3, wireVarint):
			c.Reasoning = int(f.bits)
		case f.is(4, wireVarint):
			c.CacheRead = int(f.bits)
		case f.is(5, wireVarint):
			c.CacheWrite = int(f.bits)
		}
		return nil
	})
}

func readFinish(c *Finish, b []byte) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&c.Reason, f)
		case f.is(2, wireBytes):
			err = setText(&c.Raw, f)
		}
		return err
	})
}

func putProviderData(b []byte, c ProviderData) []byte {
	return putBytes(putString(b, 1, c.Type), 2, c.Data)
}

func readProviderData(c *ProviderData, b []byte) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&c.Type, f)
		case f.is(2, wireBytes):
			c.Data = f.bytes()
		}
		return err
	})
}

// DecodeBatch calls f with the chunks of a Batch of provider.proto. Chunks of a kind from a later
// version are left out. It keeps nothing of b.
func DecodeBatch(b []byte, f func(Chunk) error) error {
	return eachField(b, func(fd field) error {
		if !fd.is(1, wireBytes) {
			return nil
		}
		c, err := decodeOneof(fd.data)
		if err != nil {
			return reading("chunk", err)
		}
		if c == nil {
			return nil
		}
		return f(c)
	})
}

// decodeOneof reads a message Chunk: of several members the last one counts.
func decodeOneof(b []byte) (c Chunk, err error) {
	err = eachField(b, func(fd field) error {
		if fd.typ != wireBytes || fd.num > int(KindProviderData) {
			return nil
		}
		c, err = DecodeChunk(uint32(fd.num), fd.data)
		return err
	})
	return c, err
}
