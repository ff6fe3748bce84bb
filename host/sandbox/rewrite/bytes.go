package rewrite

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// malformed is what the reader panics with; the exported functions turn it
// into an error.
type malformed struct{ error }

func bad(format string, args ...any) { panic(malformed{fmt.Errorf(format, args...)}) }

// catch turns a malformed panic into the function's error.
func catch(err *error) {
	switch e := recover().(type) {
	case nil:
	case malformed:
		*err = e.error
	default:
		panic(e)
	}
}

var errShort = errors.New("ends early")

// reader decodes a module's bytes. It panics with malformed.
type reader struct {
	b []byte
	p int
}

func (r *reader) more() bool { return r.p < len(r.b) }

func (r *reader) u8() byte {
	if r.p >= len(r.b) {
		panic(malformed{errShort})
	}
	c := r.b[r.p]
	r.p++
	return c
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b)-r.p {
		panic(malformed{errShort})
	}
	b := r.b[r.p : r.p+n : r.p+n]
	r.p += n
	return b
}

// uleb reads an unsigned number of at most bits bits, in any of its encodings
// that the specification allows.
func (r *reader) uleb(bits uint) uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		c := r.u8()
		if left := bits - shift; left < 7 && c&0x7f>>left != 0 {
			bad("has a number of more than %d bits", bits)
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
		if shift+7 >= bits {
			bad("has a number of more than %d bits", bits)
		}
	}
}

func (r *reader) u32() uint32 { return uint32(r.uleb(32)) }

// sleb reads a signed number of at most bits bits.
func (r *reader) sleb(bits uint) int64 {
	var v int64
	for shift := uint(0); ; shift += 7 {
		c := r.u8()
		if left := bits - shift; left < 7 {
			// What doesn't fit must repeat the sign.
			if top := int8(c<<1) >> left; top != 0 && top != -1 || c >= 0x80 {
				bad("has a number of more than %d bits", bits)
			}
		}
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if used := shift + 7; used < 64 && c&0x40 != 0 {
				v |= -1 << used
			}
			return v
		}
		if shift+7 >= bits {
			bad("has a number of more than %d bits", bits)
		}
	}
}

// count reads the length of a vector whose items take at least one byte each.
func (r *reader) count() int {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)-r.p) {
		panic(malformed{errShort})
	}
	return int(n)
}

func (r *reader) name() string {
	b := r.bytes(int(r.u32()))
	if !utf8.Valid(b) {
		bad("has a name that is not UTF-8")
	}
	return string(b)
}

func (r *reader) end(what string) {
	if r.more() {
		bad("has %d bytes after its %s", len(r.b)-r.p, what)
	}
}

// Numbers are always written in their shortest form.

func putU(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func putU32(b []byte, v uint32) []byte { return putU(b, uint64(v)) }

func putS(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func putBytes(b, data []byte) []byte { return append(putU(b, uint64(len(data))), data...) }

func putName(b []byte, s string) []byte { return append(putU(b, uint64(len(s))), s...) }
