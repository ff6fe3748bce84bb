package sdktest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// unsaid is why a check of an answer does not apply to a dialect.
const unsaid = "the dialect has no words for it"

// Options are the table of the upstream's dialect, for [Run] and [Check]. The provider must have been
// given the dialect's settings for the upstream's URL.
func (u *Upstream) Options() Options {
	h := &httpTable{Upstream: u}
	h.o = Options{Upstream: u.Open, Varies: true, Without: map[string]string{}, lists: u.dialect.Other != nil}
	h.answers()
	h.broken()
	h.faults()
	h.endless()
	h.extras()
	return h.o
}

// httpTable is a table in the making.
type httpTable struct {
	*Upstream
	o Options
}

var (
	stop  = sdk.Finish{Reason: sdk.FinishStop}
	words = []sdk.Chunk{sdk.Text("Grüße, "), sdk.Text("日本 🙂"), sdk.Text(" naïve\n"), sdk.Text("\"quoted\" \\ \t</p>\u2028"), stop}
)

// add makes a case. Without pieces it is one that does not apply.
func (h *httpTable) add(name string, s script, c Case) {
	c.Name = name
	if s.pieces == nil && !s.reset {
		h.o.Without[name] = unsaid
	} else {
		c.Request = h.script(s)
	}
	h.o.Cases = append(h.o.Cases, c)
}

// say is an answer that comes whole, in writes of so many bytes.
func (h *httpTable) say(name string, size int, answer ...sdk.Chunk) {
	h.add(name, script{pieces: h.dialect.Say(answer), size: size}, Case{Answer: answer})
}

func (h *httpTable) answers() {
	plain := append(slices.Clone(words), sdk.Usage{Input: 12, Output: 34})
	pieces := h.dialect.Say(plain)
	if pieces == nil {
		plain = words
		pieces = h.dialect.Say(plain)
	}
	h.o.Plain = Case{Name: "plain", Request: h.script(script{pieces: pieces}), Answer: plain}

	h.say("in writes of one byte", 1, words...)
	h.say("in writes of seven bytes", 7, words...)
	joined := []string{strings.Join(h.dialect.Say(words), "")}
	h.add("in one write", script{pieces: joined}, Case{Answer: words})
	h.say("nothing to say", 0, stop)
	many := make([]sdk.Chunk, 0, 1001)
	for i := range 1000 {
		many = append(many, sdk.Text(fmt.Sprintf("word %d ", i)))
	}
	h.say("many chunks", 0, append(many, stop)...)
	h.say("a long chunk", 0, sdk.Text("short "), sdk.Text(strings.Repeat("long 🙂 ", 30_000)), stop)
	h.say("usage", 0, sdk.Text("counted"), stop, sdk.Usage{Input: 12, Output: 34})
	h.say("usage in detail", 0, sdk.Text("counted"), stop, sdk.Usage{Input: 12, Output: 34, Reasoning: 5, CacheRead: 3})
	h.say("reasoning", 0, sdk.Reasoning{Text: "let me"}, sdk.Reasoning{Text: " see"}, sdk.Text("yes"), stop)
	h.say("signed reasoning", 0, sdk.Reasoning{Text: "let me see"}, sdk.Reasoning{Signature: "c2lnbmVk"}, sdk.Text("yes"), stop)
	h.say("refusal", 0, sdk.Refusal("rather "), sdk.Refusal("not"), stop)
	h.say("tool call", 0,
		sdk.Text("a moment"), sdk.ToolCall{ID: "call_a", Name: "look"},
		sdk.ToolCall{Arguments: `{"at":"K`}, sdk.ToolCall{Arguments: `öln"`}, sdk.ToolCall{Arguments: `}`},
		sdk.Finish{Reason: sdk.FinishToolCalls})
	h.say("tool calls after each other", 0,
		sdk.ToolCall{ID: "call_a", Name: "look"}, sdk.ToolCall{Arguments: `{"n":1}`},
		sdk.ToolCall{Index: 1, ID: "call_b", Name: "look"}, sdk.ToolCall{Index: 1, Arguments: `{"n":2}`},
		sdk.Finish{Reason: sdk.FinishToolCalls})
	h.say("tool calls in turns", 0,
		sdk.ToolCall{ID: "call_a", Name: "look"}, sdk.ToolCall{Index: 1, ID: "call_b", Name: "fetch"},
		sdk.ToolCall{Arguments: `{"n":`}, sdk.ToolCall{Index: 1, Arguments: `{"m":`},
		sdk.ToolCall{Arguments: `1}`}, sdk.ToolCall{Index: 1, Arguments: `2}`},
		sdk.Finish{Reason: sdk.FinishToolCalls})
	h.say("citation", 0, sdk.Text("so it is written"), sdk.Citation{URL: "https://source.example/", Title: "Source"}, stop)
	h.say("image", 0, sdk.Image{MediaType: "image/png", Data: []byte{0, 255, 128}}, stop)
	for _, reason := range []sdk.FinishReason{sdk.FinishStop, sdk.FinishLength, sdk.FinishToolCalls, sdk.FinishContentFilter, sdk.FinishStopSequence, sdk.FinishRefusal} {
		h.say("finish "+string(reason), 0, sdk.Text("some"), sdk.Finish{Reason: reason})
	}
	for _, x := range h.dialect.Cases {
		h.add(x.Name, script{reply: x.Reply, pieces: []string{}}, Case{Answer: x.Answer})
	}
}

// broken are answers that end too early: at each place, in a broken connection, in the middle of a
// piece, or in the end of the body.
func (h *httpTable) broken() {
	truncated := &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream}
	pieces := h.dialect.Say(words)
	h.add("nothing after the head", script{pieces: []string{}, reply: Reply{Status: 200}}, Case{Chunks: []sdk.Chunk{}, Err: truncated})
	h.add("cut after the head", script{pieces: []string{}, reply: Reply{Status: 200}, end: cut}, Case{Chunks: []sdk.Chunk{}, Err: truncated})
	for i := range len(words) - 1 { // after a Finish, it is for the dialect to say whether that was all
		if pieces[i] == "" {
			continue
		}
		n := i + 1
		c := Case{Answer: words[:n:n], Err: truncated}
		h.add(fmt.Sprintf("cut after %d chunks", n), script{pieces: pieces[:n], end: cut}, c)
		h.add(fmt.Sprintf("ended after %d chunks", n), script{pieces: pieces[:n]}, c)
		half := append(slices.Clone(pieces[:i]), pieces[i][:len(pieces[i])/2])
		c.Answer = words[:i:i]
		h.add(fmt.Sprintf("cut within chunk %d", n), script{pieces: half, end: cut}, c)
	}
}

func (h *httpTable) faults() {
	for _, f := range []struct {
		status int
		header string // NAME: VALUE
		want   sdk.Error
	}{
		{302, "Location: " + redirected, sdk.Error{Kind: sdk.Invalid, Fault: sdk.Host}},
		{400, "", sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		{401, "", sdk.Error{Kind: sdk.Denied, Fault: sdk.Host}},
		{403, "", sdk.Error{Kind: sdk.Denied, Fault: sdk.Host}},
		{404, "", sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller}},
		{408, "", sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
		{409, "", sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
		{429, "", sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream}},
		{429, "Retry-After: 2", sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Wait: 2 * time.Second}},
		{429, "Retry-After-Ms: 1500", sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Wait: 1500 * time.Millisecond}},
		{500, "", sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
		{503, "Retry-After: 1", sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Wait: time.Second}},
		{529, "", sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}},
	} {
		f.want.Status = f.status
		name := fmt.Sprintf("status %d", f.status)
		r := Reply{Status: f.status, Body: "out of order"}
		if field, value, ok := strings.Cut(f.header, ": "); ok {
			name += ", " + f.header
			r.Header = map[string]string{field: value}
		}
		h.add(name, script{reply: r, pieces: []string{}}, Case{Chunks: []sdk.Chunk{}, Err: &f.want})
	}
	h.add("reset in place of a head", script{reset: true}, Case{Chunks: []sdk.Chunk{}, Err: &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream}})
	for _, f := range h.dialect.Faults {
		h.add(f.Name, script{reply: f.Reply, pieces: []string{}}, Case{Answer: append([]sdk.Chunk{}, f.After...), Err: &f.Want})
	}
}

// endless are answers without an end, and none at all.
func (h *httpTable) endless() {
	if pieces := h.dialect.Say([]sdk.Chunk{sdk.Text("on "), sdk.Text("and on "), stop}); pieces != nil {
		h.o.Long = h.script(script{pieces: pieces[:2], end: repeat})
	}
	h.o.Silent = h.script(script{mute: true})
}

func (h *httpTable) extras() {
	add := func(name string, run func(ctx context.Context, t Reporter, p sdk.Provider)) {
		h.o.extra = append(h.o.extra, extra{name, run})
	}
	add("each chunk at once", h.atOnce)
	add("cancelled after the head", h.cancelledAtHead)
	add("cancelled at the last chunk", h.cancelledAtLast)
	add("backpressure", h.backpressure)
	add("the end is the dialect's, not the connection's", h.lingers)
	if pieces := h.dialect.Say(words); pieces[len(pieces)-1] == "" {
		h.o.Without["the end is the dialect's, not the connection's"] = "the end of the body is the end of an answer"
	}
	add("a page in place of an answer", func(ctx context.Context, t Reporter, p sdk.Provider) {
		req := h.script(script{reply: Reply{Header: map[string]string{"Content-Type": "text/html"}, Body: "<!doctype html><title>It works!</title>\n\n<p>It works!\n\n"}})
		if tr := Record(ctx, p, req); tr.Err == nil {
			t.Errorf("it was taken for %s", answerOf(tr.Chunks))
		}
	})
	add("jobs are apart", h.apart)
	add("every kind of error", h.kinds)
	add("what the upstream was asked", func(_ context.Context, t Reporter, _ sdk.Provider) {
		for _, what := range h.complaints() {
			t.Errorf("%s", what)
		}
	})
	add("no request is left open", func(_ context.Context, t Reporter, _ sdk.Provider) {
		eventually(t, "the upstream has no request open", func() bool { return h.Open() == 0 })
	})
}

// atOnce sends each piece when the chunk of the one before has been emitted.
func (h *httpTable) atOnce(ctx context.Context, t Reporter, p sdk.Provider) {
	pieces := h.dialect.Say(words)
	emitted := make(chan struct{}, 1000)
	var mu sync.Mutex
	late := -1
	req := h.script(script{pieces: pieces, before: func(ctx context.Context, i int) {
		if i == 0 || i >= len(words) || pieces[i-1] == "" {
			return
		}
		select {
		case <-emitted:
		case <-ctx.Done():
			mu.Lock()
			defer mu.Unlock()
			if late < 0 {
				late = i - 1
			}
		}
	}})
	err := p.Generate(ctx, req, func(c sdk.Chunk) error {
		if _, ok := c.(sdk.Text); ok {
			select {
			case emitted <- struct{}{}:
			default:
			}
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	if late >= 0 {
		t.Errorf("chunk %d was not emitted before more was sent (%v)", late, err)
	} else if err != nil {
		t.Errorf("error is %v, want none", err)
	}
}

func (h *httpTable) cancelledAtHead(ctx context.Context, t Reporter, p sdk.Provider) {
	before := settled(h.o)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := h.script(script{pieces: []string{""}, end: stall, before: func(context.Context, int) { cancel() }})
	wantCancelled(t, Record(ctx, p, req).Err)
	upstreamClosed(t, h.o, before)
}

// cancelledAtLast cancels when the answer is there but not yet ended. A provider that needs no more
// has ended by itself.
func (h *httpTable) cancelledAtLast(ctx context.Context, t Reporter, p sdk.Provider) {
	before := settled(h.o)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces := h.dialect.Say(words)
	req := h.script(script{pieces: pieces[:len(words)], end: stall})
	err := p.Generate(ctx, req, func(c sdk.Chunk) error {
		if _, ok := c.(sdk.Finish); ok {
			cancel()
		}
		return nil
	})
	if err != nil {
		wantCancelled(t, err)
	}
	upstreamClosed(t, h.o, before)
}

// mostTaken is more than all that lies between an upstream and the receiver can hold: buffers of
// sockets, of the host's door and of the wires.
const mostTaken = 64 << 20

// backpressure: while the receiver does not return, the upstream can't get rid of its answer.
func (h *httpTable) backpressure(ctx context.Context, t Reporter, p sdk.Provider) {
	before := settled(h.o)
	pieces := h.dialect.Say([]sdk.Chunk{sdk.Text("on "), sdk.Text(strings.Repeat("and on ", 600)), stop})
	req := h.script(script{pieces: pieces[:2], end: repeat})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := 0
	err := p.Generate(ctx, req, func(sdk.Chunk) error {
		if n++; n == 1 {
			if !h.heldBack(ctx, mostTaken) {
				t.Errorf("the receiver waits, and the upstream got rid of %d bytes", mostTaken)
			}
			cancel()
		}
		return ctx.Err()
	})
	wantCancelled(t, err)
	upstreamClosed(t, h.o, before)
}

// lingers leaves the connection open after a whole answer.
func (h *httpTable) lingers(ctx context.Context, t Reporter, p sdk.Provider) {
	before := settled(h.o)
	c := Case{Name: "whole", Request: h.script(script{pieces: h.dialect.Say(words), end: stall}), Answer: words}
	c.Check(t, c.run(ctx, p))
	upstreamClosed(t, h.o, before)
}

func (h *httpTable) apart(ctx context.Context, t Reporter, p sdk.Provider) {
	var jobs sync.WaitGroup
	for i := range 50 {
		answer := []sdk.Chunk{sdk.Text(fmt.Sprintf("for job %d ", i)), sdk.Text(strings.Repeat(fmt.Sprint(i, " "), i+1)), sdk.Text("only"), stop}
		c := Case{Name: fmt.Sprint("job ", i), Request: h.script(script{pieces: h.dialect.Say(answer), size: 1 + i}), Answer: answer}
		jobs.Go(func() { c.Check(t, c.run(ctx, p)) })
	}
	jobs.Wait()
}

// kinds wants every kind of error to come up in the table.
func (h *httpTable) kinds(_ context.Context, t Reporter, _ sdk.Provider) {
	for _, kind := range []sdk.Kind{sdk.Invalid, sdk.Denied, sdk.Limited, sdk.Unavailable, sdk.Truncated, sdk.Refused} {
		of := func(c Case) bool { return c.Err != nil && c.Err.Kind == kind }
		if !slices.ContainsFunc(h.o.Cases, of) && !slices.Contains(h.dialect.Never, kind) {
			t.Errorf("no answer of the upstream is %s: give one in Faults, or name it in Never", kind)
		}
	}
}
