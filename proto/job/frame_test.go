package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGoldenFrames pins the bytes of every event.
func TestGoldenFrames(t *testing.T) {
	h := Head{JobID: "job-1", UserID: "ann", Attempt: 2, Seq: 7}
	frames := []Event{
		&Started{JobID: "job-1", Query: "1 < 2 & \"so\"?", Model: "echo"},
		&Start{Head: h, Provider: "echo", Model: "echo-1", Reset: true},
		&Chunk{Head: h, Chunk: "<b>é\u2028\x00\n\"\\\xff</b>", Index: 3},
		&Delta{Head: h, Kind: "reasoning", Body: struct {
			Text string `json:"text"`
		}{"a & b"}},
		&Delta{Head: h, Kind: "ping", Body: map[string]any{}},
		&Delta{Head: h, Kind: "ping"},
		&Complete{Head: h, Text: "hi", Tokens: 1, Duration: 1234, FinishReason: "stop", Usage: &Usage{Input: 3, Output: 1},
			Provider: "echo", Model: "echo-1", Timings: &Timings{Queued: 1, FirstChunk: 2, Total: 3}, Digest: Digest("hi")},
		&Complete{Head: h},
		&Error{Head: h, Code: "limited", Message: "slow <down>", Retryable: true, Fault: "upstream"},
		&Progress{Head: h, Progress: 0.5, Status: "running", Message: "half"},
		&Cancelled{Head: h, Text: "so far", Tokens: 2, Usage: &Usage{Input: 3, Output: 2, Reasoning: 1}},
	}
	var got bytes.Buffer
	for _, e := range frames {
		raw, err := encodeFrame(e, 1764000000123)
		must(t, err)
		got.Write(raw)
		got.WriteByte('\n')
		f, err := ParseFrame(raw)
		must(t, err)
		if f.Event != e.Name() || f.Job != "job-1" || f.Time != 1764000000123 {
			t.Errorf("parsed %+v", f)
		}
		if e.head() != nil && (f.Seq != 7 || f.From != 7 || f.Attempt != 2) {
			t.Errorf("parsed %+v", f)
		}
		if !json.Valid(f.Data) || !bytes.Contains(raw, f.Data) || !bytes.Equal(f.Raw, raw) {
			t.Errorf("data of %s", raw)
		}
	}
	path := filepath.Join("testdata", "frames.golden")
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("frames changed (refresh with -update if that is meant)\ngot\n%s\nwant\n%s", got.Bytes(), want)
	}
}

// The hand-written encoder gives the bytes of encoding/json without HTML escaping.
func checkChunk(t *testing.T, user, text string) {
	t.Helper()
	c := &Chunk{Head: Head{JobID: "j", UserID: user, Attempt: 1, Seq: 2}, Chunk: text, Index: 5}
	got := appendChunk(nil, c, 0, 9)
	data, err := appendJSON(nil, c)
	must(t, err)
	want := `{"event":"model:chunk:v1","data":` + string(data) + `,"timestamp":9}`
	if string(got) != want {
		t.Fatalf("%q\ngot  %s\nwant %s", text, got, want)
	}
	f, err := ParseFrame(got)
	must(t, err)
	if f.Seq != 2 || f.Attempt != 1 || f.Job != "j" {
		t.Fatalf("%+v", f)
	}
}

func TestChunkEncoderEqualsEncodingJSON(t *testing.T) {
	checkChunk(t, "ann", "plain")
	for r := rune(0); r < 0x3000; r++ {
		checkChunk(t, "ann", "a"+string(r)+"b")
	}
	for b := range 256 {
		checkChunk(t, "ann", "a"+string([]byte{byte(b)})+"b")
		checkChunk(t, string([]byte{'x', byte(b)}), "y")
	}
	checkChunk(t, "", "\xed\xa0\x80 \xf0\x9f\x98\x80 \xf0\x9f \ufffd")
}

func FuzzChunkEncoder(f *testing.F) {
	f.Add("ann", "hello <b>\u2029\xff")
	f.Fuzz(func(t *testing.T, user, text string) { checkChunk(t, user, text) })
}

func TestParseFrame(t *testing.T) {
	for raw, want := range map[string]Frame{
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":2,"chunk":"x"},"timestamp":3}`:              {Event: EventChunk, Job: "a", Attempt: 1, Seq: 2, From: 2, Time: 3},
		` { "timestamp": 3, "data": {"seq":2,"jobId":"a","attempt":1} , "event": "model:chunk:v1" }`:                              {Event: EventChunk, Job: "a", Attempt: 1, Seq: 2, From: 2, Time: 3},
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"ü\"","attempt":1,"seq":9,"fromSeq":4},"timestamp":3}`:            {Event: EventChunk, Job: "a", Attempt: 1, Seq: 9, From: 4, Time: 3},
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":9,"total":null,"fromSeq":4},"timestamp":3}`: {Event: EventChunk, Job: "a", Attempt: 1, Seq: 9, From: 4, Time: 3},
		`{"event":"e","data":{"jobId":7,"chunk":"x"},"timestamp":"now"}`:                                                          {Event: "e"},
		`{"event":"e","data":{}}`: {Event: "e"},
		`{"event":"e","data":{"jobId":"a","userId":"u","attempt":1,"seq":2},"more":{"x":1},"timestamp":3}`:                              {Event: "e", Job: "a", Attempt: 1, Seq: 2, From: 2, Time: 3},
		`{"event":"e","data":{"jobId":"a","userId":"u","attempt":1,"seq":2,"chunk":",\"fromSeq\":7"},"timestamp":3}`:                    {Event: "e", Job: "a", Attempt: 1, Seq: 2, From: 2, Time: 3},
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":2,"chunk":",\"fromSeq\":1","x":1},"timestamp":3}`: {Event: EventChunk, Job: "a", Attempt: 1, Seq: 2, From: 2, Time: 3},
	} {
		f, err := ParseFrame([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if f.Event != want.Event || f.Job != want.Job || f.Attempt != want.Attempt || f.Seq != want.Seq || f.From != want.From || f.Time != want.Time {
			t.Errorf("%s\n%+v", raw, f)
		}
		if !json.Valid(f.Data) || f.Data[0] != '{' {
			t.Errorf("data %s of %s", f.Data, raw)
		}
	}
	for _, raw := range []string{
		``, `{}`, `null`, `[]`, `"x"`, `{"event":"e"}`, `{"event":"e","data":[]}`, `{"event":"","data":{}}`, `{"event":5,"data":{}}`,
		`{"event":"e","data":{"seq":-1}}`, `{"event":"e","data":{"seq":1.5}}`, `{"event":"e","data":{"seq":"1"}}`, `{"event":"e","data":{"seq":2,"fromSeq":3}}`,
		`{"jobId":"a","userId":"u","chunk":"x","index":0}`, `{"event":"e","data":{"jobId":"a","userId":"u","attempt":1,"seq":2,},"timestamp":3}`,
		`{"event":"e","data":{"jobId":"a","userId":"u","attempt":1,"seq":2},"timestamp":03}`, `{"event":"e","data":{"jobId":"a"},"timestamp":3}x`,
	} {
		if f, err := ParseFrame([]byte(raw)); !errors.Is(err, errNotFrame) {
			t.Errorf("%s: %+v %v", raw, f, err)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, s := range []string{
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":2,"chunk":"x","index":0,"total":null},"timestamp":3}`,
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":9,"chunk":"x","index":0,"total":null,"fromSeq":4},"timestamp":3}`,
		`{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":07,"chunk":"\\n\\u00e9","index":0,"total":null},"timestamp":3}`,
		`{"event":"e","data":{}}`, `{"jobId":"a","userId":"u","chunk":"x","index":0}`, `{"event":"e","data":{"jobId":"a","userId":"u","attempt":1,"seq":2},"m":{},"timestamp":3}`,
	} {
		f.Add([]byte(s))
	}
	for _, chunk := range []string{`\"`, `\`, "\x01", `\x`, `\u12`, `a","x":}`, ``, `é`} {
		f.Add(fmt.Appendf(nil, `{"event":"model:chunk:v1","data":{"jobId":"a","userId":"u","attempt":1,"seq":2,"chunk":"%s","index":0,"total":null},"timestamp":3}`, chunk))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		fr, err := ParseFrame(raw)
		if err != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("accepted what is not JSON: %q", raw)
		}
		if fr.Event == "" || fr.Seq < 0 || fr.From < 0 || fr.From > fr.Seq || fr.Attempt < 0 || !json.Valid(fr.Data) || fr.Data[0] != '{' {
			t.Fatalf("%q: %+v", raw, fr)
		}
		if quick, ok := scanFrame(raw, "a"); ok && quick.Event == EventChunk {
			slow, err := decodeFrame(raw)
			if err != nil || !reflect.DeepEqual(quick, slow) {
				t.Fatalf("%q: %+v, read by encoding/json it is %+v, %v", raw, quick, slow, err)
			}
		}
		Merge([]Frame{fr, fr}, 1<<10)
	})
}

func TestMerge(t *testing.T) {
	var frames []Frame
	seq := int64(0)
	add := func(attempt int64, e Event) {
		seq++
		*e.head() = Head{JobID: "j", UserID: "ann \"x\"", Attempt: attempt, Seq: seq}
		raw, err := encodeFrame(e, 1000+seq)
		must(t, err)
		f, err := ParseFrame(raw)
		must(t, err)
		frames = append(frames, f)
	}
	add(1, &Start{})
	for i := range 10 {
		add(1, &Chunk{Chunk: `,"seq":1,"chunk":"` + string(rune('a'+i)) + "\n\u2028\xff\",\"index\":", Index: int64(i)})
	}
	add(1, &Delta{Kind: "reasoning"})
	add(1, &Chunk{Chunk: "lone", Index: 10})
	add(2, &Start{Reset: true})
	add(2, &Chunk{Chunk: "x", Index: 0})
	add(2, &Chunk{Chunk: "y", Index: 1})
	add(3, &Chunk{Chunk: "z", Index: 0})
	add(3, &Chunk{Chunk: "", Index: 1})
	add(3, &Complete{})

	for _, size := range []int{1, 60, 1 << 20} {
		merged := Merge(frames, size)
		next := int64(1)
		for _, f := range merged {
			if f.From != next {
				t.Fatalf("size %d: frame %d..%d after %d", size, f.From, f.Seq, next-1)
			}
			next = f.Seq + 1
			again, err := ParseFrame(f.Raw)
			must(t, err)
			if again.Seq != f.Seq || again.From != f.From || again.Attempt != f.Attempt || string(again.Data) != string(f.Data) {
				t.Fatalf("size %d: %s\n%+v", size, f.Raw, again)
			}
			if f.Event == EventChunk && f.From != f.Seq {
				var c struct {
					Chunk
					FromSeq int64
				}
				must(t, json.Unmarshal(f.Data, &c))
				if c.FromSeq != f.From || c.Seq != f.Seq || c.UserID != "ann \"x\"" {
					t.Fatalf("%+v", c)
				}
				text, err := Text(frames[f.From-1 : f.Seq])
				must(t, err)
				if c.Chunk.Chunk != text {
					t.Fatalf("%q, want %q", c.Chunk.Chunk, text)
				}
			}
		}
		if next != seq+1 || textOf(t, merged) != textOf(t, frames) {
			t.Fatalf("size %d: up to %d", size, next-1)
		}
		if size == 1<<20 {
			if got := events(merged); got != "start chunk delta chunk start chunk chunk complete" {
				t.Fatal(got)
			}
			if twice := Merge(merged, size); len(twice) != len(merged) {
				t.Fatal("merging again changed something")
			}
		}
		if size == 1 && len(merged) < len(frames)-1 {
			t.Fatal("merged over the size")
		}
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "A-z_0.9:x", strings.Repeat("x", 128), NewID()} {
		if err := CheckID(id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []string{"", "a b", "a#1", "a}b", "é", "a\n", strings.Repeat("x", 129), "progress"} {
		if _, ok := errors.AsType[*IDError](CheckID(id)); !ok {
			t.Errorf("%q was accepted", id)
		}
	}
	if a, b := NewID(), NewID(); a == b || len(a) != 26 {
		t.Error(a, b)
	}
}

func FuzzCheckID(f *testing.F) {
	f.Add("a-b_c.d:e")
	f.Add("a}b{c")
	f.Fuzz(func(t *testing.T, id string) {
		if CheckID(id) != nil {
			return
		}
		if id == "" || len(id) > 128 || strings.ContainsAny(id, "{}# \"\\\n") || !utf8.ValidString(id) {
			t.Fatalf("accepted %q", id)
		}
	})
}

func FuzzParseTicket(f *testing.F) {
	for _, s := range []string{"a#1", "a#01", "#1", "a#", "a", "a#-1", "a#1#2", "a#9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseTicket(s)
		if err != nil {
			return
		}
		if k.TaskID() != s || k.Attempt < 1 || CheckID(k.Job) != nil {
			t.Fatalf("%q: %+v", s, k)
		}
	})
}

func TestParseTicket(t *testing.T) {
	if k, err := ParseTicket("a:b#12"); err != nil || k != (Ticket{"a:b", 12}) {
		t.Error(k, err)
	}
	for _, s := range []string{"", "a", "a#", "#1", "a#0", "a#-1", "a#01", "a#+1", "a#x", "a#1 ", "a#1#2", "a b#1", "a#9223372036854775808"} {
		if k, err := ParseTicket(s); err == nil {
			t.Errorf("%q: %+v", s, k)
		}
	}
}

// A plugin's raw JSON that isn't UTF-8 doesn't reach a browser, which would end its connection, and again each time
// it asks for the frame.
func TestFramesAreUTF8(t *testing.T) {
	raw, err := encodeFrame(&Delta{Kind: "provider_data", Body: map[string]any{"data": json.RawMessage("{\"a\":\"x\xffy\"}")}}, 1)
	must(t, err)
	if want := `"data":{"a":"x` + "\uFFFD" + `y"}`; !utf8.Valid(raw) || !bytes.Contains(raw, []byte(want)) {
		t.Errorf("%q", raw)
	}
}
