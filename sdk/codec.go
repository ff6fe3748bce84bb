package sdk

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
)

// MarshalBinary encodes the error as an Error of provider.proto, without its cause.
func (e *Error) MarshalBinary() ([]byte, error) {
	var b []byte
	b = putString(b, 1, e.Kind)
	b = putString(b, 2, e.Fault)
	b = putString(b, 3, truncate(e.Message, maxMessage))
	b = putInt(b, 4, (e.Wait + time.Millisecond - 1).Milliseconds())
	b = putInt(b, 5, int32(e.Status))
	b = putString(b, 6, truncate(e.Code, maxMessage))
	return b, nil
}

// maxMessage bounds error texts: they travel in headers.
const maxMessage = 4096

func truncate(s string, max int) string {
	if len(s) > max {
		return s[:max-len("…")] + "…" // a rune cut in half is made valid by the encoder
	}
	return s
}

// UnmarshalBinary decodes what MarshalBinary wrote. A kind from a later version reads as
// Internal.
func (e *Error) UnmarshalBinary(b []byte) error {
	*e = Error{}
	err := eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&e.Kind, f)
		case f.is(2, wireBytes):
			err = setText(&e.Fault, f)
		case f.is(3, wireBytes):
			err = setText(&e.Message, f)
		case f.is(4, wireVarint):
			e.Wait = wait(int64(f.bits))
		case f.is(5, wireVarint):
			e.Status = int(int32(f.bits))
		case f.is(6, wireBytes):
			err = setText(&e.Code, f)
		}
		return err
	})
	switch e.Kind {
	case Invalid, Denied, Limited, Unavailable, Truncated, Refused, Cancelled, Internal:
	default:
		e.Kind = Internal
	}
	switch e.Fault {
	case Caller, Upstream, Plugin, Host:
	default:
		e.Fault = e.Kind.fault()
	}
	return reading("error", err)
}

// wait reads milliseconds that a plugin sent: never negative, and short enough to be counted.
func wait(ms int64) time.Duration {
	const most = int64(time.Duration(1<<63-1) / time.Millisecond)
	return time.Duration(min(max(ms, 0), most)) * time.Millisecond
}

// MarshalBinary encodes the description as a Description of provider.proto.
func (d *Description) MarshalBinary() ([]byte, error) {
	var b []byte
	b = putString(b, 1, d.Name)
	b = putString(b, 2, d.Version)
	b = putString(b, 3, d.SDK)
	b = putModels(b, 4, d.Models)
	b = putBool(b, 5, d.Check)
	b = putBool(b, 6, d.CountTokens)
	b = putBool(b, 7, d.ListModels)
	b = putBool(b, 8, d.Resume)
	return b, nil
}

// UnmarshalBinary decodes what MarshalBinary wrote.
func (d *Description) UnmarshalBinary(b []byte) error {
	*d = Description{}
	return reading("description", eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&d.Name, f)
		case f.is(2, wireBytes):
			err = setText(&d.Version, f)
		case f.is(3, wireBytes):
			err = setText(&d.SDK, f)
		case f.is(4, wireBytes):
			err = addModel(&d.Models, f)
		case f.is(5, wireVarint):
			d.Check = f.bits != 0
		case f.is(6, wireVarint):
			d.CountTokens = f.bits != 0
		case f.is(7, wireVarint):
			d.ListModels = f.bits != 0
		case f.is(8, wireVarint):
			d.Resume = f.bits != 0
		}
		return err
	}))
}

// EncodeModels encodes models as a Models of provider.proto.
func EncodeModels(models []Model) []byte { return putModels(nil, 1, models) }

// DecodeModels decodes what EncodeModels wrote.
func DecodeModels(b []byte) (models []Model, err error) {
	err = eachField(b, func(f field) error {
		if f.is(1, wireBytes) {
			return addModel(&models, f)
		}
		return nil
	})
	return models, reading("models", err)
}

func putModels(b []byte, num int, models []Model) []byte {
	for _, m := range models {
		b = putMessage(b, num, func(b []byte) []byte {
			b = putString(b, 1, m.Name)
			b = putBool(b, 2, m.Tools)
			b = putBool(b, 3, m.Vision)
			b = putBool(b, 4, m.JSON)
			b = putBool(b, 5, m.Reasoning)
			b = putBool(b, 6, m.Continue)
			b = putInt(b, 7, m.ContextTokens)
			return putInt(b, 8, m.OutputTokens)
		})
	}
	return b
}

func addModel(models *[]Model, f field) error {
	var m Model
	err := eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&m.Name, f)
		case f.is(2, wireVarint):
			m.Tools = f.bits != 0
		case f.is(3, wireVarint):
			m.Vision = f.bits != 0
		case f.is(4, wireVarint):
			m.JSON = f.bits != 0
		case f.is(5, wireVarint):
			m.Reasoning = f.bits != 0
		case f.is(6, wireVarint):
			m.Continue = f.bits != 0
		case f.is(7, wireVarint):
			m.ContextTokens = int(f.bits)
		case f.is(8, wireVarint):
			m.OutputTokens = int(f.bits)
		}
		return err
	})
	*models = append(*models, m)
	return err
}

// EncodeTokenCount encodes a count as a TokenCount of provider.proto.
func EncodeTokenCount(n int) []byte { return putInt(nil, 1, n) }

// DecodeTokenCount decodes what EncodeTokenCount wrote.
func DecodeTokenCount(b []byte) (n int, err error) {
	err = eachField(b, func(f field) error {
		if f.is(1, wireVarint) {
			n = int(f.bits)
		}
		return nil
	})
	return n, reading("token count", err)
}

// CallKey names the call of a request among all that a process works on.
func CallKey(r *Request) string { return r.JobID + "#" + strconv.FormatInt(r.Attempt, 10) }

// EncodeRunning encodes the keys of calls as Calls of provider.proto.
func EncodeRunning(keys []string) []byte {
	var b []byte
	for _, key := range keys {
		b = putStringAlways(b, 1, key)
	}
	return b
}

// DecodeRunning decodes what EncodeRunning wrote.
func DecodeRunning(b []byte) (keys []string, err error) {
	err = eachField(b, func(f field) error {
		if !f.is(1, wireBytes) {
			return nil
		}
		key, err := f.text()
		keys = append(keys, key)
		return err
	})
	return keys, reading("running calls", err)
}

// MarshalBinary encodes the settings as a Settings of provider.proto.
func (s Settings) MarshalBinary() ([]byte, error) { return putBytes(nil, 1, s), nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (s *Settings) UnmarshalBinary(b []byte) error {
	*s = nil
	return reading("settings", eachField(b, func(f field) error {
		if f.is(1, wireBytes) {
			*s = f.bytes()
		}
		return nil
	}))
}

// MarshalBinary encodes the request's head as an HTTPRequest of provider.proto; Body is not in it.
func (r *HTTPRequest) MarshalBinary() ([]byte, error) {
	var b []byte
	b = putString(b, 1, r.Method)
	b = putString(b, 2, r.URL)
	return putHeader(b, 3, r.Header), nil
}

// UnmarshalBinary decodes what MarshalBinary wrote.
func (r *HTTPRequest) UnmarshalBinary(b []byte) error {
	*r = HTTPRequest{}
	return reading("http request", eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&r.Method, f)
		case f.is(2, wireBytes):
			err = setText(&r.URL, f)
		case f.is(3, wireBytes):
			err = addHeader(&r.Header, f)
		}
		return err
	}))
}

// MarshalBinary encodes status and header as an HTTPHead of provider.proto.
func (r *HTTPResponse) MarshalBinary() ([]byte, error) {
	return putHeader(putInt(nil, 1, int32(r.Status)), 2, r.Header), nil
}

// UnmarshalBinary decodes what MarshalBinary wrote.
func (r *HTTPResponse) UnmarshalBinary(b []byte) error {
	*r = HTTPResponse{}
	return reading("http head", eachField(b, func(f field) (err error) {
		switch {
		case f.is(1, wireVarint):
			r.Status = int(int32(f.bits))
		case f.is(2, wireBytes):
			err = addHeader(&r.Header, f)
		}
		return err
	}))
}

func putHeader(b []byte, num int, h Header) []byte {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		b = putMessage(b, num, func(b []byte) []byte {
			return putString(putString(b, 1, name), 2, h[name])
		})
	}
	return b
}

// addHeader joins the values of a repeated field.
func addHeader(h *Header, f field) error {
	var name, value string
	err := eachField(f.data, func(f field) (err error) {
		switch {
		case f.is(1, wireBytes):
			err = setText(&name, f)
		case f.is(2, wireBytes):
			err = setText(&value, f)
		}
		return err
	})
	if *h == nil {
		*h = Header{}
	}
	if old, ok := (*h)[name]; ok {
		value = old + ", " + value
	}
	(*h)[name] = value
	return err
}

func setText[T ~string](dst *T, f field) error {
	s, err := f.text()
	*dst = T(s)
	return err
}

// putOptions writes a map<string, bytes>, sorted.
func putOptions(b []byte, num int, options map[string]json.RawMessage) []byte {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		b = putMessage(b, num, func(b []byte) []byte {
			return putBytesAlways(putStringAlways(b, 1, name), 2, options[name])
		})
	}
	return b
}
