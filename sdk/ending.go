package sdk

import "errors"

// ErrDone ends the reading of a stream from within: the callback of [PostSSE], [PostLines], [ReadSSE]
// or [ReadLines] returns it when nothing that matters comes any more, and they then return nil.
var ErrDone = errors.New("sdk: done")

// Unfinished is the error for a stream that has ended without saying, in the way of its dialect, that
// the answer is whole: [Truncated], and the [Upstream]'s fault.
func Unfinished() *Error {
	return Errorf(Truncated, "upstream closed the stream before the answer was whole")
}

// Malformed counts the events of one stream that can't be read. Some servers and proxies put stray
// lines between their events, and a broken one may have said nothing that matters; a second would
// make holes in the answer.
type Malformed int

// Pass lets a stream go on after an event that can't be read, or ends it: the second one that begins
// like a JSON object is [Truncated]. The error calls the events what, such as "chunks".
func (m *Malformed) Pass(data []byte, what string) error {
	if len(data) == 0 || data[0] != '{' {
		return nil
	}
	if *m++; *m > 1 {
		return Errorf(Truncated, "upstream sent %d %s that are not the JSON they should be", *m, what)
	}
	return nil
}
