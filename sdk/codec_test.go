//go:build !wasip1

package sdk

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluicehq/sluice/proto/provider"
)

// The generated code is the measure of the hand-written codec: equal bytes one way, an equal
// value the other way.

type coded interface {
	MarshalBinary() ([]byte, error)
	UnmarshalBinary([]byte) error
}

// sameBytes encodes v, lets the generated code read and write it, and wants the same bytes and
// the same value back.
func sameBytes(t *testing.T, v coded, generated proto.Message) {
	t.Helper()
	b, err := v.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, generated); err != nil {
		t.Fatalf("the generated code can't read %T: %v", v, err)
	}
	if n := len(generated.ProtoReflect().GetUnknown()); n > 0 {
		t.Errorf("%T: %d bytes are unknown to the generated code", v, n)
	}
	theirs, err := proto.MarshalOptions{Deterministic: true}.Marshal(generated)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, theirs) {
		t.Errorf("%T: we write\n%x, the generated code\n%x", v, b, theirs)
	}
	back := reflect.New(reflect.TypeOf(v).Elem()).Interface().(coded)
	if err := back.UnmarshalBinary(theirs); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(v, back) {
		t.Errorf("%T came back as\n%+v, want\n%+v", v, back, v)
	}
}

func fullRequest() *Request {
	return &Request{
		JobID: "job-1", Attempt: 3, Model: "gpt-x",
		Messages: []Message{
			{Role: RoleSystem, Parts: []Part{TextPart("be brief")}},
			{Role: RoleUser, Parts: []Part{
				TextPart("what is this? 日本"), TextPart(""),
				ImagePart{MediaType: "image/png", Data: bytes.Repeat([]byte{0, 1, 254}, 300)},
				ImagePart{URL: "https://example.com/a.png", Detail: "low"},
			}},
			{Role: RoleAssistant, Parts: []Part{
				ReasoningPart{Text: "hm", Signature: "sig"},
				ToolCallPart{ID: "c1", Name: "look", Arguments: `{"at":1}`},
				ProviderDataPart{Type: "x", Data: json.RawMessage(`{"a":[1]}`)},
			}},
			{Role: RoleTool, Parts: []Part{ToolResultPart{ID: "c1", Name: "look", Content: strings.Repeat("long ", 5000), IsError: true}}},
			{Role: RoleDeveloper},
		},
		Tools:          []Tool{{Name: "look", Description: "looks", Parameters: json.RawMessage(`{"type":"object"}`), Strict: true}, {}},
		ToolChoice:     ToolChoice{Mode: "tool", Name: "look"},
		ResponseFormat: &ResponseFormat{Type: "json_schema", Name: "n", Schema: json.RawMessage(`{}`), Strict: true},
		Temperature:    ptr(0.0), TopP: ptr(0.95), MaxTokens: 1 << 40, Stop: []string{"", "\n\n"}, Seed: ptr(int64(-7)),
		User: "u", Settings: Settings(`{"a":1}`),
		Options: map[string]json.RawMessage{"b": json.RawMessage(`1`), "a": json.RawMessage(`{"x":"y"}`), "": json.RawMessage{}},
		Prefix:  "so far",
	}
}

func TestCodecEqualsGeneratedCode(t *testing.T) {
	sameBytes(t, fullRequest(), new(provider.Request))
	sameBytes(t, &Request{}, new(provider.Request))
	sameBytes(t, &Request{ResponseFormat: &ResponseFormat{}, Temperature: ptr(math.Inf(-1)), Seed: ptr(int64(0))}, new(provider.Request))
	sameBytes(t, &Error{Kind: Limited, Fault: Upstream, Message: "slow", Wait: 90 * time.Second, Status: 429, Code: "rate"}, new(provider.Error))
	sameBytes(t, &Error{Kind: Internal, Fault: Plugin, Status: -1}, new(provider.Error))
	sameBytes(t, &Description{
		Name: "p", Version: "1.2.3", SDK: sdkName, Check: true, CountTokens: true, ListModels: true, Resume: true,
		Models: []Model{{Name: "a*", Tools: true, Vision: true, JSON: true, Reasoning: true, Continue: true, ContextTokens: 1 << 20, OutputTokens: -1}, {}},
	}, new(provider.Description))
	sameBytes(t, &HTTPRequest{Method: "POST", URL: "https://a/b", Header: Header{"B": "2", "A": "1", "Empty": ""}}, new(provider.HTTPRequest))
	sameBytes(t, &HTTPResponse{Status: 200, Header: Header{"content-type": "text/plain"}}, new(provider.HTTPHead))
	sameBytes(t, ptr(Settings(`{"x":1}`)), new(provider.Settings))

	models := []Model{{Name: "m", Tools: true}, {Name: "n"}}
	var pm provider.Models
	if err := proto.Unmarshal(EncodeModels(models), &pm); err != nil || len(pm.Models) != 2 || pm.Models[1].Name != "n" {
		t.Errorf("models are %v, %v", &pm, err)
	}
	if got, err := DecodeModels(EncodeModels(models)); err != nil || !reflect.DeepEqual(got, models) {
		t.Errorf("models came back as %v, %v", got, err)
	}
	var pc provider.TokenCount
	if err := proto.Unmarshal(EncodeTokenCount(1234), &pc); err != nil || pc.Tokens != 1234 {
		t.Errorf("count is %v, %v", &pc, err)
	}
	if n, err := DecodeTokenCount(EncodeTokenCount(1234)); err != nil || n != 1234 {
		t.Errorf("count came back as %d, %v", n, err)
	}
}

var allChunks = []Chunk{
	Text("hello"), Text(""), Text(strings.Repeat("ä", 100)), Text(strings.Repeat("x", 70_000)),
	Reasoning{Text: "hm", Signature: "s"}, Reasoning{},
	ToolCall{Index: 2, ID: "i", Name: "n", Arguments: `{"a":`}, ToolCall{End: true}, ToolCall{Arguments: strings.Repeat("y", 200)},
	Refusal("no"), Refusal(""), Refusal(strings.Repeat("n", 300)),
	Citation{URL: "https://a", Title: "t", Text: "x", Source: "1", Start: 3, End: 9},
	Image{MediaType: "image/png", Data: []byte{1, 2, 3}}, Image{URL: "https://b"},
	Usage{Input: 1, Output: 2, Reasoning: 3, CacheRead: 4, CacheWrite: 5}, Usage{},
	Finish{Reason: FinishStop, Raw: "end_turn"}, Finish{},
	ProviderData{Type: "t", Data: json.RawMessage(`{"z":null}`)},
}

func TestBatchEqualsGeneratedCode(t *testing.T) {
	var b []byte
	for _, c := range allChunks {
		var err error
		if b, err = putChunk(b, c); err != nil {
			t.Fatal(err)
		}
	}
	var batch provider.Batch
	if err := proto.Unmarshal(b, &batch); err != nil {
		t.Fatal(err)
	}
	theirs, err := proto.Marshal(&batch)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, theirs) {
		t.Error("the generated code writes the batch differently")
	}
	var got []Chunk
	if err := DecodeBatch(theirs, func(c Chunk) error { got = append(got, c); return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, allChunks) {
		t.Errorf("the chunks came back as %#v", got)
	}
	if _, ok := batch.Chunks[1].Kind.(*provider.Chunk_Text); !ok {
		t.Errorf("an empty text is %T to the generated code", batch.Chunks[1].Kind)
	}
}

func TestChunkPayloads(t *testing.T) {
	for _, c := range allChunks {
		kind, payload := EncodeChunk([]byte("before"), c)
		if kind != chunkKind(c) || !bytes.HasPrefix(payload, []byte("before")) {
			t.Errorf("%#v has kind %d, payload %q", c, kind, payload)
		}
		got, err := DecodeChunk(kind, payload[len("before"):])
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%#v came back as %#v, %v", c, got, err)
		}
	}
	if kind, _ := EncodeChunk(nil, nil); kind != 0 {
		t.Errorf("nil has kind %d, want 0", kind)
	}
	if _, err := DecodeChunk(77, nil); err == nil || !strings.Contains(err.Error(), "77") {
		t.Errorf("error for kind 77 is %v", err)
	}
	if _, err := putChunk(nil, nil); AsError(err).Kind != Internal {
		t.Errorf("emit of nil: %v, want Internal", err)
	}
}

func TestInvalidTextIsRepaired(t *testing.T) {
	const bad, want = "a\xff\xfeb", "a\uFFFDb"
	if c, err := DecodeChunk(KindText, []byte(bad)); err != nil || c != Text(want) {
		t.Errorf("text came out as %q, %v", c, err)
	}
	for _, c := range []Chunk{Text(bad), Refusal(bad), Reasoning{Text: bad}} {
		b, err := putChunk(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		var batch provider.Batch
		if err := proto.Unmarshal(b, &batch); err != nil {
			t.Errorf("%#v: %v", c, err)
		}
	}
	e := &Error{Kind: Invalid, Message: strings.Repeat("ä", maxMessage), Code: bad}
	b, err := e.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var pe provider.Error
	if err := proto.Unmarshal(b, &pe); err != nil || len(pe.Message) > maxMessage+4 || pe.Code != want {
		t.Errorf("error is %v, %v", &pe, err)
	}
}

// TestLaterVersions: what this version doesn't know is left out, not fatal.
func TestLaterVersions(t *testing.T) {
	b := putString(nil, 99, "new")
	b = putChunkOf(b, 42, "new kind")
	b, err := putChunk(b, Text("old"))
	if err != nil {
		t.Fatal(err)
	}
	var got []Chunk
	if err := DecodeBatch(b, func(c Chunk) error { got = append(got, c); return nil }); err != nil || len(got) != 1 || got[0] != Text("old") {
		t.Errorf("chunks are %v, %v", got, err)
	}
	part := putMessage(nil, 2, func(b []byte) []byte { return putString(b, 42, "new kind") })
	var r Request
	if err := r.UnmarshalBinary(putBytes(nil, 4, part)); err != nil || len(r.Messages) != 1 || len(r.Messages[0].Parts) != 0 {
		t.Errorf("request is %+v, %v", r, err)
	}
	var e Error
	if err := e.UnmarshalBinary(putString(putString(nil, 1, "novel"), 2, "martians")); err != nil || e.Kind != Internal || e.Fault != Plugin {
		t.Errorf("error is %+v, %v", e, err)
	}
}

func putChunkOf(b []byte, kind int, text string) []byte {
	return putMessage(b, 1, func(b []byte) []byte { return putString(b, kind, text) })
}

func TestWaitIsRoundedUpAndBounded(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{
		0: 0, 1: time.Millisecond, time.Millisecond: time.Millisecond, 1500*time.Microsecond + 1: 2 * time.Millisecond,
	} {
		b, err := (&Error{Kind: Limited, Wait: in}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var e Error
		if err := e.UnmarshalBinary(b); err != nil || e.Wait != want {
			t.Errorf("a wait of %v came back as %v, %v; want %v", in, e.Wait, err, want)
		}
	}
	for _, ms := range []int64{-1, math.MinInt64, math.MaxInt64} {
		if d := wait(ms); d < 0 {
			t.Errorf("%d ms are %v", ms, d)
		}
	}
}

// TestNothingOfTheInputIsKept: hosts reuse their buffers.
func TestNothingOfTheInputIsKept(t *testing.T) {
	want := fullRequest()
	b, err := want.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got Request
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !reflect.DeepEqual(&got, want) {
		t.Error("the request changed with the buffer")
	}
	for _, c := range allChunks {
		kind, payload := EncodeChunk(nil, c)
		got, err := DecodeChunk(kind, payload)
		clear(payload)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%#v changed with the buffer to %#v, %v", c, got, err)
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	whole, err := fullRequest().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := bytes.Clone(whole)
		for range 1 + random.IntN(4) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		b = b[:random.IntN(len(b)+1)]
		compareRequest(t, b)
	}
	for _, b := range [][]byte{
		{0}, {0xff}, {8}, {0x0a, 5, 1}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, {7 << 3}, {3<<3 | 3}, {3<<3 | 4}, {3<<3 | 6},
		bytes.Repeat([]byte{0xff}, 11), append(bytes.Repeat([]byte{0x80}, 9), 0x7f), bytes.Repeat([]byte{99<<3&0x7f | 3}, 5000),
	} {
		compareRequest(t, b)
	}
}

// compareRequest wants that both codecs refuse b, or read the same from it.
func compareRequest(t *testing.T, b []byte) {
	t.Helper()
	var ours Request
	var theirs provider.Request
	ourErr, theirErr := ours.UnmarshalBinary(b), proto.Unmarshal(b, &theirs)
	if theirErr != nil {
		return // they are stricter in places, such as UTF-8 in unknown corners
	}
	if ourErr != nil {
		t.Errorf("we can't read %x: %v", b, ourErr)
		return
	}
	written, err := proto.MarshalOptions{Deterministic: true}.Marshal(&theirs)
	if err != nil {
		t.Fatal(err)
	}
	var again Request
	if err := again.UnmarshalBinary(written); err != nil {
		t.Fatal(err)
	}
	x, _ := ours.MarshalBinary()
	y, _ := again.MarshalBinary()
	if !bytes.Equal(x, y) {
		t.Errorf("%x: we read\n%+v, the generated code\n%+v", b, ours, again)
	}
}

func FuzzRequest(f *testing.F) {
	b, _ := fullRequest().MarshalBinary()
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{0x22, 4, 0x12, 2, 0x0a, 0})
	f.Add([]byte{0x1b, 0x1c})
	f.Fuzz(func(t *testing.T, b []byte) { compareRequest(t, b) })
}

func FuzzBatch(f *testing.F) {
	var b []byte
	for _, c := range allChunks {
		b, _ = putChunk(b, c)
	}
	f.Add(b[:1000])
	f.Add([]byte{0x0a, 2, 0x0a, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		err := DecodeBatch(b, func(c Chunk) error {
			var err error
			again, err = putChunk(again, c)
			return err
		})
		var theirs provider.Batch
		if proto.Unmarshal(b, &theirs) != nil {
			return
		}
		if err != nil {
			t.Fatalf("we can't read %x: %v", b, err)
		}
		var back provider.Batch
		if err := proto.Unmarshal(again, &back); err != nil {
			t.Fatalf("the generated code can't read our %x: %v", again, err)
		}
		known := 0
		for _, c := range theirs.Chunks {
			if c.Kind != nil {
				known++
			}
		}
		if len(back.Chunks) != known {
			t.Fatalf("%d chunks came through, want %d", len(back.Chunks), known)
		}
	})
}

func FuzzSmallMessages(f *testing.F) {
	b, _ := (&Error{Kind: Limited, Message: "m", Wait: time.Second}).MarshalBinary()
	f.Add(b)
	b, _ = (&HTTPResponse{Status: 200, Header: Header{"a": "b"}}).MarshalBinary()
	f.Add(b)
	f.Add(EncodeRunning([]string{"job#1", "job#2", ""}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []coded{new(Error), new(Description), new(HTTPRequest), new(HTTPResponse), new(Settings)} {
			if v.UnmarshalBinary(b) != nil {
				continue
			}
			if _, err := v.MarshalBinary(); err != nil {
				t.Errorf("%T: %v", v, err)
			}
		}
		for kind := range uint32(12) {
			if c, err := DecodeChunk(kind, b); err == nil {
				EncodeChunk(nil, c)
			}
		}
		if keys, err := DecodeRunning(b); err == nil {
			if again, err := DecodeRunning(EncodeRunning(keys)); err != nil || !slices.Equal(again, keys) {
				t.Errorf("calls %q came back as %q, %v", keys, again, err)
			}
		}
	})
}

func BenchmarkEncodeChunk(b *testing.B) {
	buf := make([]byte, 0, 1<<16)
	c := Chunk(Text("a token of 20 bytes."))
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = putChunk(buf[:0], c)
	}
}

func BenchmarkDecodeBatch(b *testing.B) {
	var batch []byte
	for range 100 {
		batch, _ = putChunk(batch, Text("a token of 20 bytes."))
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = DecodeBatch(batch, func(Chunk) error { return nil })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/chunk")
}

func BenchmarkRequest(b *testing.B) {
	r := fullRequest()
	r.Messages = r.Messages[:1]
	b.ReportAllocs()
	for b.Loop() {
		enc, _ := r.MarshalBinary()
		var back Request
		_ = back.UnmarshalBinary(enc)
	}
}
