package sdk

// MarshalBinary encodes the request as a Request of provider.proto.
func (r *Request) MarshalBinary() ([]byte, error) { return nil, nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (r *Request) UnmarshalBinary(b []byte) error { return nil }

// MarshalBinary encodes the error as an Error of provider.proto, without its cause.
func (e *Error) MarshalBinary() ([]byte, error) { return nil, nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (e *Error) UnmarshalBinary(b []byte) error { return nil }

// MarshalBinary encodes the description as a Description of provider.proto.
func (d *Description) MarshalBinary() ([]byte, error) { return nil, nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (d *Description) UnmarshalBinary(b []byte) error { return nil }

// MarshalBinary encodes the request's head as an HTTPRequest of provider.proto; Body is not in it.
func (r *HTTPRequest) MarshalBinary() ([]byte, error) { return nil, nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (r *HTTPRequest) UnmarshalBinary(b []byte) error { return nil }

// MarshalBinary encodes status and header as an HTTPHead of provider.proto.
func (r *HTTPResponse) MarshalBinary() ([]byte, error) { return nil, nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (r *HTTPResponse) UnmarshalBinary(b []byte) error { return nil }

// MarshalBinary encodes the settings as a Settings of provider.proto.
func (s Settings) MarshalBinary() ([]byte, error) { return nil, nil }

// UnmarshalBinary decodes what MarshalBinary wrote.
func (s *Settings) UnmarshalBinary(b []byte) error { return nil }

// EncodeModels encodes models as a Models of provider.proto.
func EncodeModels(models []Model) []byte { return nil }

// DecodeModels decodes what EncodeModels wrote.
func DecodeModels(b []byte) ([]Model, error) { return nil, nil }

// EncodeTokenCount encodes a count as a TokenCount of provider.proto.
func EncodeTokenCount(n int) []byte { return nil }

// DecodeTokenCount decodes what EncodeTokenCount wrote.
func DecodeTokenCount(b []byte) (int, error) { return 0, nil }

// EncodeChunk appends the payload of a chunk to dst and returns its kind: the field number in
// message Chunk of provider.proto. The payload of Text and Refusal is the text itself, of the
// others the sub-message.
func EncodeChunk(dst []byte, c Chunk) (kind uint32, payload []byte) { return 0, nil }

// DecodeChunk decodes what EncodeChunk wrote. It keeps nothing of payload.
func DecodeChunk(kind uint32, payload []byte) (Chunk, error) { return nil, nil }
