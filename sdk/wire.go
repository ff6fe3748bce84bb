package sdk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// The protobuf encoding, as far as provider.proto uses it. It is written by hand because a
// sandboxed plugin can't afford the generated code: reflection alone is megabytes of module.
// See https://protobuf.dev/programming-guides/encoding/.

const (
	wireVarint = 0
	wireI64    = 1
	wireBytes  = 2
	wireI32    = 5
)

var errWire = errors.New("malformed protobuf message")

func putTag(b []byte, num, typ int) []byte {
	return binary.AppendUvarint(b, uint64(num)<<3|uint64(typ))
}

// putInt leaves out 0, as do the functions below with their zero values.
func putInt[T ~int | ~int32 | ~int64](b []byte, num int, v T) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(putTag(b, num, wireVarint), uint64(v))
}

func putBool(b []byte, num int, v bool) []byte {
	if !v {
		return b
	}
	return append(putTag(b, num, wireVarint), 1)
}

// putString makes the text valid UTF-8, which receivers insist on.
func putString[T ~string](b []byte, num int, v T) []byte {
	if v == "" {
		return b
	}
	return putStringAlways(b, num, v)
}

func putStringAlways[T ~string](b []byte, num int, v T) []byte {
	s := string(v)
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	b = binary.AppendUvarint(putTag(b, num, wireBytes), uint64(len(s)))
	return append(b, s...)
}

func putBytes[T ~[]byte](b []byte, num int, v T) []byte {
	if len(v) == 0 {
		return b
	}
	return putBytesAlways(b, num, v)
}

func putBytesAlways[T ~[]byte](b []byte, num int, v T) []byte {
	b = binary.AppendUvarint(putTag(b, num, wireBytes), uint64(len(v)))
	return append(b, v...)
}

// putMessage writes what enc appends as a sub-message, empty or not.
func putMessage(b []byte, num int, enc func(b []byte) []byte) []byte {
	b = append(putTag(b, num, wireBytes), 0)
	start := len(b)
	b = enc(b)
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	var size [binary.MaxVarintLen64]byte
	s := binary.PutUvarint(size[:], uint64(n))
	b = append(b, size[:s-1]...)
	copy(b[start-1+s:], b[start:start+n])
	copy(b[start-1:], size[:s])
	return b
}

func putDouble(b []byte, num int, v *float64) []byte {
	if v == nil {
		return b
	}
	return binary.LittleEndian.AppendUint64(putTag(b, num, wireI64), math.Float64bits(*v))
}

// field is one field of a message that is being read.
type field struct {
	num  int
	typ  int
	bits uint64 // varint, I64, I32
	data []byte // wireBytes
}

// is reports whether the field has this number and type. A known number with another type is
// treated like an unknown field: ignored.
func (f field) is(num, typ int) bool { return f.num == num && f.typ == typ }

func (f field) text() (string, error) {
	if !utf8.Valid(f.data) {
		return "", errWire
	}
	return string(f.data), nil
}

func (f field) bytes() []byte { return append([]byte{}, f.data...) }

// eachField calls f with the fields of a message.
func eachField(b []byte, f func(field) error) error {
	for len(b) > 0 {
		fd, n, err := readField(b, 0)
		if err != nil {
			return err
		}
		b = b[n:]
		if err := f(fd); err != nil {
			return err
		}
	}
	return nil
}

const maxGroupDepth = 64

func readField(b []byte, depth int) (fd field, n int, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return fd, 0, errWire
	}
	fd.num, fd.typ = int(tag>>3), int(tag&7)
	rest := b[n:]
	switch fd.typ {
	case wireVarint:
		v, m := binary.Uvarint(rest)
		if m <= 0 {
			return fd, 0, errWire
		}
		fd.bits = v
		return fd, n + m, nil
	case wireI64:
		if len(rest) < 8 {
			return fd, 0, errWire
		}
		fd.bits = binary.LittleEndian.Uint64(rest)
		return fd, n + 8, nil
	case wireI32:
		if len(rest) < 4 {
			return fd, 0, errWire
		}
		fd.bits = uint64(binary.LittleEndian.Uint32(rest))
		return fd, n + 4, nil
	case wireBytes:
		size, m := binary.Uvarint(rest)
		if m <= 0 || size > uint64(len(rest)-m) {
			return fd, 0, errWire
		}
		fd.data = rest[m : m+int(size)]
		return fd, n + m + int(size), nil
	case 3: // a group: nothing we know has one, so it is skipped
		m, err := skipGroup(rest, fd.num, depth+1)
		return fd, n + m, err
	}
	return fd, 0, errWire
}

func skipGroup(b []byte, num, depth int) (int, error) {
	if depth > maxGroupDepth {
		return 0, errWire
	}
	for at := 0; at < len(b); {
		tag, n := binary.Uvarint(b[at:])
		if n > 0 && tag == uint64(num)<<3|4 {
			return at + n, nil
		}
		_, n, err := readField(b[at:], depth)
		if err != nil {
			return 0, err
		}
		at += n
	}
	return 0, errWire
}

// reading says which message could not be read.
func reading(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("decode %s: %w", what, err)
}
