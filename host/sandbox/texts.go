package sandbox

import (
	"unsafe"

	"github.com/sluicehq/sluice/sdk"
)

// texts holds the short texts that a guest emitted. Tokens come by the thousand,
// and a piece of memory for each would be much of what they cost. So they share
// memory, of which a stream that says little has little. It is only ever
// appended to, and lives as long as anybody holds one of the texts in it.
type texts []byte

// A text no longer than shortText is kept with others, in pieces that begin
// small and become largestPiece.
const (
	shortText     = 64
	smallestPiece = 64
	largestPiece  = 1 << 10
)

// text copies what a guest emitted.
func (t *texts) text(b []byte) sdk.Text {
	if len(b) == 0 || len(b) > shortText {
		return sdk.Text(b)
	}
	if cap(*t)-len(*t) < len(b) {
		*t = make(texts, 0, min(max(2*cap(*t), smallestPiece), largestPiece))
	}
	*t = append(*t, b...)
	return sdk.Text(unsafe.String(&(*t)[len(*t)-len(b)], len(b)))
}
