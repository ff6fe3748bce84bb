package sdktest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluicehq/sluice/sdk"
)

// Recorded holds what a provider makes of recorded streams to golden files.
type Recorded struct {
	Dir string // of the streams, such as NAME.sse, each with NAME.golden beside it
	// Read reads a stream as Generate does.
	Read func(stream io.Reader, emit sdk.Emit) error
	// Show is what the golden files hold; nil is [Transcript.String].
	Show func(Transcript) string
}

// Recording is one of the streams.
type Recording struct {
	Name   string
	Stream []byte
	golden string // the file
}

// Recordings are all of them, for what else is tested with them. None is an error.
func (r Recorded) Recordings(t testing.TB) (all []Recording) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		ending := filepath.Ext(file)
		if ending == ".golden" {
			continue
		}
		stream, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimSuffix(file, ending)
		all = append(all, Recording{Name: filepath.Base(path), Stream: stream, golden: path + ".golden"})
	}
	if len(all) == 0 {
		t.Fatalf("there is no recording in %s", r.Dir)
	}
	return all
}

// Run runs a test for each recording. However a stream is cut into reads, and however its lines end,
// the same must come of it; and whichever chunk isn't taken, it must be the last one. With update, the
// golden files are written anew before.
func (r Recorded) Run(t *testing.T, update bool) {
	t.Helper()
	for _, rec := range r.Recordings(t) {
		t.Run(rec.Name, func(t *testing.T) {
			if update {
				if err := os.WriteFile(rec.golden, []byte(r.show(r.Transcript(bytes.NewReader(rec.Stream)))), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(rec.golden)
			if err != nil {
				t.Fatal(err)
			}
			r.check(t, rec.Stream, string(want))
		})
	}
}

// Transcript is what comes of a stream.
func (r Recorded) Transcript(stream io.Reader) (tr Transcript) {
	tr.Err = r.Read(stream, func(c sdk.Chunk) error {
		tr.Chunks = append(tr.Chunks, c)
		return nil
	})
	return tr
}

func (r Recorded) show(tr Transcript) string {
	if r.Show == nil {
		return tr.String()
	}
	return r.Show(tr)
}

func (r Recorded) check(t Reporter, stream []byte, want string) {
	t.Helper()
	whole := r.Transcript(bytes.NewReader(stream))
	if got := r.show(whole); got != want {
		t.Errorf("%s", difference(got, want))
		return
	}
	for at := 1; at < len(stream); at++ {
		cut := io.MultiReader(bytes.NewReader(stream[:at]), bytes.NewReader(stream[at:]))
		if got := r.show(r.Transcript(cut)); got != want {
			t.Errorf("in two reads, the second from byte %d on: %s", at, difference(got, want))
			break
		}
	}
	lines := strings.ReplaceAll(string(stream), "\r\n", "\n")
	for _, end := range []string{"\n", "\r\n", "\r"} {
		other := iotest.OneByteReader(strings.NewReader(strings.ReplaceAll(lines, "\n", end)))
		if got := r.show(r.Transcript(other)); got != want {
			t.Errorf("byte by byte, with lines that end in %q: %s", end, difference(got, want))
		}
	}
	for last := range whole.Chunks {
		n := 0
		err := r.Read(bytes.NewReader(stream), func(sdk.Chunk) error {
			if n++; n > last {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) || n != last+1 {
			t.Errorf("chunk %d wasn't taken; %d were emitted, and the error is %v", last, n, err)
		}
	}
}

// difference names the first line that differs.
func difference(got, want string) string {
	g, w := strings.SplitAfter(got, "\n"), strings.SplitAfter(want, "\n")
	n := 0
	for n < min(len(g), len(w))-1 && g[n] == w[n] {
		n++
	}
	return fmt.Sprintf("line %d is %q, want %q", n+1, g[n], w[n])
}
