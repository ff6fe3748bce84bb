// Package sdktest is the conformance kit for providers: one table that a provider must pass in
// process, and as a plugin of either runtime, since a plugin is an [sdk.Provider] to its host.
//
// A provider that makes its answers up itself runs [Run], with a table of requests and what comes of
// them. One that has them from an HTTP upstream runs [RunHTTP]: it writes down how that upstream says
// things, and the kit is the upstream, with all the ways in which one fails. What servers were really
// seen to send is held to golden files by [Recorded].
//
// Both test the provider in the test's own process. Package host/plugintest runs the same tables, with
// one call too, against everything a plugin's source builds into.
package sdktest

import (
	"context"
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// Case is a request and what must come of it.
type Case struct {
	Name    string
	Request *sdk.Request
	Resume  bool        // calls Resume instead of Generate
	Chunks  []sdk.Chunk // all of them, in order; nil: not compared
	Text    string      // of all Text chunks together; "": not compared
	// Answer is what is said, whatever the size of the chunks it comes in and wherever among the last
	// of them Usage and Finish stand; nil: not compared.
	Answer []sdk.Chunk
	Err    *sdk.Error // nil: the answer is whole. Zero fields are not compared, Kind is.
}

// Options is the table for one provider.
type Options struct {
	// Plain is a request that is answered at once and in full. Required.
	Plain Case
	// Cases are whatever else the provider must do right: tool calls, every fault of the upstream.
	// They also run all at the same time, each apart from the others.
	Cases []Case
	// Long is answered with more chunks than anyone waits for; nil leaves out the cancellation of
	// an answer under way.
	Long *sdk.Request
	// Silent is never answered; nil leaves out the cancellation of a request without an answer.
	Silent *sdk.Request
	// Upstream counts the requests that the fake upstream has open. After a cancel it must come
	// back to where it was; nil leaves that out.
	Upstream func() int
	// Varies is set for providers that may answer the same request differently.
	Varies bool
	// Without says of checks, by name, why they don't apply to this provider; they are listed as
	// skipped. A name that ends in * stands for all that begin so. One that is no check's is an error.
	Without map[string]string
	// KeepsGoroutines is set for providers with goroutines of their own between calls.
	KeepsGoroutines bool

	idle  int     // requests that Upstream counted before the first check
	extra []extra // of a dialect
	lists bool    // its upstream can be asked for models
}

// Reporter is told what is wrong. A testing.TB is one.
type Reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// Transcript is what came of a request.
type Transcript struct {
	Chunks []sdk.Chunk
	Err    error
}

// Text is the text of the answer.
func (tr Transcript) Text() string {
	var b strings.Builder
	for _, c := range tr.Chunks {
		if t, ok := c.(sdk.Text); ok {
			b.WriteString(string(t))
		}
	}
	return b.String()
}

// String has a line for each chunk, as in Go, and one for the end: "whole", or the error with its kind,
// whose fault it is, and its message.
func (tr Transcript) String() string {
	var b strings.Builder
	for _, c := range tr.Chunks {
		if d, ok := c.(sdk.ProviderData); ok {
			fmt.Fprintf(&b, "sdk.ProviderData{Type:%q, Data:`%s`}\n", d.Type, d.Data)
			continue
		}
		fmt.Fprintf(&b, "%#v\n", c)
	}
	if tr.Err == nil {
		b.WriteString("whole\n")
	} else {
		e := sdk.AsError(tr.Err)
		fmt.Fprintf(&b, "error: %s, of the %s: %s\n", e.Kind, e.Fault, e.Message)
	}
	return b.String()
}

// Record runs Generate and keeps what comes.
func Record(ctx context.Context, p sdk.Provider, req *sdk.Request) (tr Transcript) {
	return record(ctx, p.Generate, req)
}

func record(ctx context.Context, generate func(context.Context, *sdk.Request, sdk.Emit) error, req *sdk.Request) (tr Transcript) {
	tr.Err = generate(ctx, req, func(c sdk.Chunk) error {
		tr.Chunks = append(tr.Chunks, c)
		return nil
	})
	return tr
}

func (c Case) run(ctx context.Context, p sdk.Provider) Transcript {
	if c.Resume {
		return record(ctx, p.Resume, c.Request)
	}
	return record(ctx, p.Generate, c.Request)
}

// Check reports how a transcript differs from what the case wants.
func (c Case) Check(t Reporter, tr Transcript) {
	t.Helper()
	if c.Chunks != nil {
		for i := range max(len(c.Chunks), len(tr.Chunks)) {
			got, want := "nothing", "nothing"
			if i < len(tr.Chunks) {
				got = show(tr.Chunks[i])
			}
			if i < len(c.Chunks) {
				want = show(c.Chunks[i])
			}
			if got != want {
				t.Errorf("%s: chunk %d is %s, want %s", c.Name, i, got, want)
				break
			}
		}
	}
	if got := tr.Text(); c.Text != "" && got != c.Text {
		t.Errorf("%s: text is %q, want %q", c.Name, got, c.Text)
	}
	if c.Answer != nil {
		checkAnswer(t, c.Name, tr.Chunks, c.Answer)
	}
	checkOrder(t, c.Name, tr)
	c.checkError(t, tr.Err)
}

func (c Case) checkError(t Reporter, err error) {
	t.Helper()
	got := sdk.AsError(err)
	switch {
	case got == nil && c.Err == nil:
	case got == nil:
		t.Errorf("%s: no error, want %s", c.Name, showError(c.Err))
	case c.Err == nil:
		t.Errorf("%s: error %s, want none", c.Name, showError(got))
	case got.Kind != c.Err.Kind,
		differs(got.Fault, c.Err.Fault), differs(got.Message, c.Err.Message), differs(got.Wait, c.Err.Wait),
		differs(got.Status, c.Err.Status), differs(got.Code, c.Err.Code):
		t.Errorf("%s: error is %s, want %s", c.Name, showError(got), showError(c.Err))
	}
}

// differs takes a zero value for "any".
func differs[T comparable](got, want T) bool {
	var zero T
	return want != zero && got != want
}

func showError(e *sdk.Error) string {
	return fmt.Sprintf("{%s %s %q wait %v status %d code %q}", e.Kind, e.Fault, e.Message, e.Wait, e.Status, e.Code)
}

func show(c sdk.Chunk) string { return fmt.Sprintf("%T %#v", c, c) }

// checkOrder checks what holds for every answer.
func checkOrder(t Reporter, name string, tr Transcript) {
	t.Helper()
	finished := false
	calls := map[int]bool{} // index: ended
	for i, c := range tr.Chunks {
		if finished {
			switch c.(type) {
			case sdk.Usage, sdk.ProviderData:
			default:
				t.Errorf("%s: chunk %d is %s, after the Finish", name, i, show(c))
			}
		}
		switch c := c.(type) {
		case nil:
			t.Errorf("%s: chunk %d is nil", name, i)
		case sdk.Text:
			if c == "" {
				t.Errorf("%s: chunk %d is an empty text", name, i)
			}
		case sdk.ToolCall:
			ended, begun := calls[c.Index]
			switch {
			case !begun && (c.ID == "" || c.Name == ""):
				t.Errorf("%s: chunk %d begins tool call %d without id and name: %s", name, i, c.Index, show(c))
			case ended:
				t.Errorf("%s: chunk %d goes on with tool call %d, which had ended", name, i, c.Index)
			}
			calls[c.Index] = c.End
		case sdk.Usage:
			if c.Input < 0 || c.Output < 0 || c.Reasoning > c.Output {
				t.Errorf("%s: chunk %d counts what can't be: %s", name, i, show(c))
			}
		case sdk.Finish:
			finished = true
			if c.Reason == "" {
				t.Errorf("%s: chunk %d is a Finish without a reason", name, i)
			}
		}
	}
	if tr.Err == nil && !finished {
		t.Errorf("%s: the answer is whole but has no Finish", name)
	}
}
