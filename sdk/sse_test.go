package sdk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// readAll renders the events of a stream, and whether it ended in an error.
func readAll(r io.Reader) (events []string, err error) {
	err = ReadSSE(r, func(e Event) error {
		events = append(events, fmt.Sprintf("%s|%s|%s", e.Name, e.ID, e.Data))
		return nil
	})
	return events, err
}

var sseCases = []struct {
	name, stream string
	want         []string
}{
	{"plain", "data: a\n\ndata: b\n\n", []string{"||a", "||b"}},
	{"carriage returns", "data: a\r\rdata: b\r\r", []string{"||a", "||b"}},
	{"both", "data: a\r\n\r\ndata: b\r\n\r\n", []string{"||a", "||b"}},
	{"mixed", "data: a\r\ndata: b\rdata: c\n\r\n\ndata: d\n\r", []string{"||a\nb\nc", "||d"}},
	{"comments", ": hello\n\n:\ndata: a\n: between\ndata: b\n\n: ping\n\n", []string{"||a\nb"}},
	{"names", "event: x\ndata: a\n\ndata: b\n\nevent:y\nevent:z\ndata:c\n\n", []string{"x||a", "||b", "z||c"}},
	{"name without data", "event: x\n\ndata: a\n\n", []string{"||a"}},
	{"ids stay", "id: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: a\x00b\ndata: d\n\n", []string{"|7|a", "|7|b", "||c", "||d"}},
	{"one space is not data", "data:  a\n\ndata:b\n\ndata: \n\n", []string{"|| a", "||b", "||"}},
	{"empty data", "data\n\ndata:\ndata:\n\n", []string{"||", "||\n"}},
	{"unknown fields", "retry: 10\nfoo: bar\ndatas: x\nDATA: y\ndata: a\n\n", []string{"||a"}},
	{"colons in the value", "data: {\"a\":\"b: c\"}\n\n", []string{"||{\"a\":\"b: c\"}"}},
	{"byte order mark", "\uFEFFdata: a\n\ndata: \uFEFFb\n\n", []string{"||a", "||\uFEFFb"}},
	{"mark in the second line is data", "\n\uFEFFdata: a\n\n", nil},
	{"no blank line at the end", "data: a\n\ndata: b\n", []string{"||a"}},
	{"no end of line at the end", "data: a\n\ndata: b", []string{"||a"}},
	{"nothing", "", nil},
	{"blank lines", "\n\n\r\n\r\r", nil},
	{"other scripts", "data: 日本 🙂\n\n", []string{"||日本 🙂"}},
}

func TestSSE(t *testing.T) {
	for _, c := range sseCases {
		t.Run(c.name, func(t *testing.T) {
			want := fmt.Sprintf("%q", c.want)
			check := func(how string, r io.Reader) {
				t.Helper()
				got, err := readAll(r)
				if err != nil || fmt.Sprintf("%q", got) != want {
					t.Errorf("%s: events are %q, %v; want %s", how, got, err, want)
				}
			}
			check("whole", strings.NewReader(c.stream))
			check("byte by byte", iotest.OneByteReader(strings.NewReader(c.stream)))
			check("with the end", iotest.DataErrReader(strings.NewReader(c.stream)))
			for i := range c.stream { // every split
				check(fmt.Sprintf("split at %d", i), io.MultiReader(strings.NewReader(c.stream[:i]), strings.NewReader(c.stream[i:])))
			}
			for i := range c.stream { // every pair of splits, with a read of nothing between
				for j := i; j < len(c.stream); j++ {
					check(fmt.Sprintf("split at %d and %d", i, j), io.MultiReader(
						strings.NewReader(c.stream[:i]), &emptyReads{n: 2}, strings.NewReader(c.stream[i:j]), strings.NewReader(c.stream[j:])))
				}
			}
		})
	}
}

// emptyReads reads nothing a few times before it ends.
type emptyReads struct{ n int }

func (r *emptyReads) Read([]byte) (int, error) {
	if r.n--; r.n < 0 {
		return 0, io.EOF
	}
	return 0, nil
}

// TestSSEDoesNotWait: an event is there as soon as its blank line is, whatever its line ends are.
func TestSSEDoesNotWait(t *testing.T) {
	for _, stream := range []string{"data: a\n\n", "data: a\r\r", "data: a\r\n\r\n", "data: a\r\n\r"} {
		r, w := io.Pipe()
		events := make(chan string)
		done := make(chan error, 1)
		go func() {
			done <- ReadSSE(r, func(e Event) error { events <- string(e.Data); return nil })
		}()
		if _, err := w.Write([]byte(stream)); err != nil {
			t.Fatal(err)
		}
		if got := <-events; got != "a" {
			t.Errorf("%q: data is %q", stream, got)
		}
		w.Close()
		if err := <-done; err != nil {
			t.Errorf("%q: %v", stream, err)
		}
	}
}

func TestSSELimits(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	wantLong := func(name string, r io.Reader) {
		t.Helper()
		n := 0
		err := ReadSSE(r, func(Event) error { n++; return nil })
		if e := AsError(err); e == nil || e.Kind != Internal || e.Fault != Upstream || n != 0 {
			t.Errorf("%s: %d events, error is %v; want none and an Internal of the upstream", name, n, err)
		}
	}
	wantLong("one line", io.MultiReader(strings.NewReader("data: "), strings.NewReader(long), strings.NewReader("\n\n")))
	wantLong("endless line", endless{})
	half := "data: " + long[:maxLine/2] + "\n"
	wantLong("many lines", io.MultiReader(strings.NewReader(half), strings.NewReader(half), strings.NewReader(half)))

	n := 0
	ok := io.MultiReader(strings.NewReader("data: "), strings.NewReader(long[:maxLine-100]), strings.NewReader("\n\n"))
	if err := ReadSSE(ok, func(e Event) error { n += len(e.Data); return nil }); err != nil || n != maxLine-100 {
		t.Errorf("a line just below the limit: %d bytes, %v", n, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestStreamErrorsPass(t *testing.T) {
	broken := errors.New("broken")
	if got, err := readAll(io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(broken))); err != broken || len(got) != 1 {
		t.Errorf("events %q, error %v; want one and the reader's error", got, err)
	}
	enough := errors.New("enough")
	if err := ReadSSE(strings.NewReader("data: a\n\ndata: b\n\n"), func(Event) error { return enough }); err != enough {
		t.Errorf("error is %v, want the callback's", err)
	}
	if err := ReadLines(strings.NewReader("a\nb\n"), func([]byte) error { return enough }); err != enough {
		t.Errorf("error is %v, want the callback's", err)
	}
	if err := ReadLines(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), func([]byte) error { return nil }); err != broken {
		t.Errorf("error is %v, want the reader's", err)
	}
	if err := ReadSSE(&emptyReads{n: 1000}, nil); err != io.ErrNoProgress {
		t.Errorf("error is %v, want %v", err, io.ErrNoProgress)
	}
}

func TestReadLines(t *testing.T) {
	const stream = "{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}\r\r\nlast"
	for i := range stream {
		var got []string
		r := io.MultiReader(strings.NewReader(stream[:i]), strings.NewReader(stream[i:]))
		if err := ReadLines(r, func(line []byte) error { got = append(got, string(line)); return nil }); err != nil {
			t.Fatal(err)
		}
		if want := []string{`{"a":1}`, `{"b":2}`, `{"c":3}`, "last"}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("split at %d: lines are %q, want %q", i, got, want)
		}
	}
}

// reference parses a whole stream the plain way.
func reference(stream string) (events []string) {
	stream = strings.TrimPrefix(stream, "\uFEFF")
	stream = strings.ReplaceAll(stream, "\r\n", "\n")
	stream = strings.ReplaceAll(stream, "\r", "\n")
	lines := strings.Split(stream, "\n")
	var data []string
	name, id := "", ""
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			if data != nil {
				events = append(events, fmt.Sprintf("%s|%s|%s", name, id, strings.Join(data, "\n")))
			}
			data, name = nil, ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data = append(data, value)
		case "event":
			name = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		}
	}
	return events
}

func FuzzSSE(f *testing.F) {
	for _, c := range sseCases {
		f.Add([]byte(c.stream), uint16(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		at := 0
		if len(stream) > 0 {
			at = int(cut) % len(stream)
		}
		got, err := readAll(io.MultiReader(bytes.NewReader(stream[:at]), bytes.NewReader(stream[at:])))
		if err != nil {
			t.Fatal(err)
		}
		if want := reference(string(stream)); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("events are %q, want %q", got, want)
		}
	})
}

func BenchmarkSSE(b *testing.B) {
	const event = `data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"usage":null}` + "\n\n"
	stream := strings.Repeat(event, 1000)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		_ = ReadSSE(strings.NewReader(stream), func(Event) error { return nil })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/event")
}
