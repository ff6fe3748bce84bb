package sdk

import "io"

// Event is one server-sent event.
type Event struct {
	Name string // the event field; "" stands for message
	ID   string // the last id seen in the stream
	Data []byte // the data lines, joined with a newline
}

// ReadSSE parses a stream of server-sent events.
func ReadSSE(r io.Reader, f func(Event) error) error { return nil }

// ReadLines calls f with every line that is not empty.
func ReadLines(r io.Reader, f func(line []byte) error) error { return nil }
