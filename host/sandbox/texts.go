package sandbox

import (
	"unsafe"

	"github.com/sluicehq/sluice/sdk"
)

// texts holds the short texts that a guest emitted, and the values that an
// interface points to when a text is in it. Tokens come by the thousand, and
// two pieces of memory each would be most of what they cost. So they share
// memory, of which a stream that says little has little. It is only ever
// appended to, and lives as long as anybody holds one of the chunks in it.
type texts struct {
	bytes  []byte
	chunks []sdk.Text
}

// A text no longer than shortText is kept with others, in pieces that begin
// small and become largestPiece.
const (
	shortText     = 64
	smallestPiece = 64
	largestPiece  = 1 << 10
)

// chunk makes a chunk of what a guest emitted.
func (t *texts) chunk(b []byte) sdk.Chunk {
	if len(b) > shortText {
		return sdk.Text(b)
	}
	if cap(t.bytes)-len(t.bytes) < len(b) {
		t.bytes = make([]byte, 0, min(max(2*cap(t.bytes), smallestPiece), largestPiece))
	}
	if len(t.chunks) == cap(t.chunks) {
		n := largestPiece / int(unsafe.Sizeof(sdk.Text("")))
		t.chunks = make([]sdk.Text, 0, min(max(2*cap(t.chunks), 1), n))
	}
	t.bytes = append(t.bytes, b...)
	t.chunks = append(t.chunks, sdk.Text(unsafe.String(unsafe.SliceData(t.bytes[len(t.bytes)-len(b):]), len(b))))
	return boxed(&t.chunks[len(t.chunks)-1])
}

// boxed is *text in an interface, without the copy that the conversion makes:
// an interface value is a type and a pointer to a value that nobody changes.
func boxed(text *sdk.Text) sdk.Chunk {
	var c sdk.Chunk = sdk.Text("")
	(*[2]unsafe.Pointer)(unsafe.Pointer(&c))[1] = unsafe.Pointer(text)
	return c
}
