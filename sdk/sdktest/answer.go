package sdktest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// answer is what a transcript says, whatever the size of its chunks: words next to each other are one,
// a tool call's fragments are one call where it began, the last Usage counts, and where Usage and
// Finish stand is the dialect's.
type answer struct {
	parts  []part
	usage  *sdk.Usage
	finish sdk.FinishReason
}

type part struct{ kind, text string }

func answerOf(chunks []sdk.Chunk) (a answer) {
	calls := map[int]int{} // index: place in parts
	add := func(kind, text string) {
		if n := len(a.parts); n > 0 && a.parts[n-1].kind == kind {
			a.parts[n-1].text += text
			return
		}
		a.parts = append(a.parts, part{kind, text})
	}
	for _, c := range chunks {
		switch c := c.(type) {
		case sdk.Text:
			add("text", string(c))
		case sdk.Reasoning:
			if c.Text != "" {
				add("reasoning", c.Text)
			}
			if c.Signature != "" {
				add("signature", c.Signature)
			}
		case sdk.Refusal:
			add("refusal", string(c))
		case sdk.ToolCall:
			at, known := calls[c.Index]
			if !known {
				at = len(a.parts)
				calls[c.Index] = at
				a.parts = append(a.parts, part{kind: fmt.Sprintf("tool call %d %s %s", c.Index, c.ID, c.Name)})
			}
			a.parts[at].text += c.Arguments
		case sdk.Usage:
			a.usage = &c
		case sdk.Finish:
			a.finish = c.Reason
		default:
			a.parts = append(a.parts, part{kind: show(c)})
		}
	}
	return a
}

func (a answer) String() string {
	var b strings.Builder
	for _, p := range a.parts {
		fmt.Fprintf(&b, "%s %.200q (%d bytes), ", p.kind, p.text, len(p.text))
	}
	if a.usage != nil {
		fmt.Fprintf(&b, "usage %+v, ", *a.usage)
	}
	fmt.Fprintf(&b, "finish %q", a.finish)
	return b.String()
}

// checkAnswer compares what was said.
func checkAnswer(t Reporter, name string, got, want []sdk.Chunk) {
	t.Helper()
	g, w := answerOf(got), answerOf(want)
	if !slices.Equal(g.parts, w.parts) || g.finish != w.finish {
		t.Errorf("%s: the answer is %s; want %s", name, g, w)
		return
	}
	switch {
	case w.usage == nil:
	case g.usage == nil:
		t.Errorf("%s: nothing was counted; want %+v", name, *w.usage)
	case *g.usage != *w.usage:
		t.Errorf("%s: counted %+v; want %+v", name, *g.usage, *w.usage)
	}
}
