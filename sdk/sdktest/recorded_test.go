package sdktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/sdk"
)

// spoken reads a stream of words, a line each, whose last one is "end".
func spoken(stream io.Reader, emit sdk.Emit) error {
	finished := false
	err := sdk.ReadLines(stream, func(line []byte) error {
		if finished = string(line) == "end"; finished {
			return emit(stop)
		}
		return emit(sdk.Text(line))
	})
	if err == nil && !finished {
		return sdk.Unfinished()
	}
	return err
}

func TestRecorded(t *testing.T) {
	r := Recorded{Dir: t.TempDir(), Read: spoken}
	for name, text := range map[string]string{"whole.txt": "a\nb\nend\n", "cut.txt": "a\n"} {
		if err := os.WriteFile(filepath.Join(r.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.Run(t, true)  // writes the golden files
	r.Run(t, false) // and reads them
	golden, err := os.ReadFile(filepath.Join(r.Dir, "cut.golden"))
	if want := "\"a\"\nerror: truncated, of the upstream: upstream closed the stream before the answer was whole\n"; err != nil || string(golden) != want {
		t.Errorf("the golden file holds %q, %v; want %q", golden, err, want)
	}
	if all := r.Recordings(t); len(all) != 2 || all[0].Name != "cut" || string(all[1].Stream) != "a\nb\nend\n" {
		t.Errorf("the recordings are %+v", all)
	}
}

// A reader with a flaw is found out by the check that is about it.
func TestRecordedFindsWhatIsWrong(t *testing.T) {
	const stream, want = "a\nb\nend\n", "\"a\"\n\"b\"\nsdk.Finish{Reason:\"stop\", Raw:\"\"}\nwhole\n"
	for _, test := range []struct {
		name, want, report string
		read               func(io.Reader, sdk.Emit) error
	}{
		{"no flaw", want, "", spoken},
		{"says something else", "\"a\"\n\"c\"\n", `line 2 is "\"b\"\n", want "\"c\"\n"`, spoken},
		{"says more", "\"a\"\n", `line 2 is "\"b\"\n", want ""`, spoken},
		{"trusts in one read", want, "in two reads, the second from byte 1 on", func(r io.Reader, emit sdk.Emit) error {
			b := make([]byte, 100)
			n, _ := r.Read(b)
			return spoken(bytes.NewReader(b[:n]), emit)
		}},
		{"knows one end of a line", want, `lines that end in "\r\n"`, func(r io.Reader, emit sdk.Emit) error {
			b, _ := io.ReadAll(r)
			return spoken(strings.NewReader(strings.ReplaceAll(string(b), "\r", "x")), emit)
		}},
		{"goes on", want, "chunk 0 wasn't taken; 3 were emitted", func(r io.Reader, emit sdk.Emit) error {
			var failed error
			err := spoken(r, func(c sdk.Chunk) error {
				if err := emit(c); err != nil {
					failed = err
				}
				return nil
			})
			return errors.Join(failed, err)
		}},
		{"hides the error", want, "chunk 0 wasn't taken; 1 were emitted, and the error is broken", func(r io.Reader, emit sdk.Emit) error {
			err := spoken(r, emit)
			if errors.Is(err, errEnough) {
				return errors.New("broken")
			}
			return err
		}},
	} {
		reports := &reports{TB: t}
		Recorded{Read: test.read}.check(reports, []byte(stream), test.want)
		if got := strings.Join(reports.errs, "; "); test.report == "" && got != "" || !strings.Contains(got, test.report) {
			t.Errorf("%s: reported %q, want %q", test.name, got, test.report)
		}
	}
}

func TestTranscriptString(t *testing.T) {
	tr := Transcript{
		Chunks: []sdk.Chunk{sdk.Text("a\n"), sdk.ProviderData{Type: "x", Data: json.RawMessage(`{"y":1}`)}},
		Err:    sdk.Errorf(sdk.Limited, "wait"),
	}
	want := "\"a\\n\"\nsdk.ProviderData{Type:\"x\", Data:`{\"y\":1}`}\nerror: limited, of the upstream: wait\n"
	if got := tr.String(); got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
	if got := (Transcript{}).String(); got != "whole\n" {
		t.Errorf("nothing is %q", got)
	}
}
