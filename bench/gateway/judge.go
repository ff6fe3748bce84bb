package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// judge prints which targets this run has met. The error says that a server of
// ours has lost or reordered something: figures that a clock made are nobody's
// error.
func judge(out io.Writer, tables [][]*column) error {
	fmt.Fprintln(out, "Targets")
	wrong := false
	for _, columns := range tables {
		for _, c := range columns {
			if !c.node {
				wrong = !c.whole(out) || wrong
			}
		}
		columns[len(columns)-1].limited(out)
		if first, last := columns[0], columns[len(columns)-1]; first.node {
			last.compared(out, first)
		}
	}
	if wrong {
		return errors.New("something was lost or reordered")
	}
	return nil
}

// whole tells whether nothing was lost or reordered.
func (c *column) whole(out io.Writer) bool {
	all := c.losses()
	whole := all.lost == 0 && all.reordered == 0
	if all.sent > 0 {
		verdict(out, whole, "%s: %d lost, %d reordered of %d events", c.name, all.lost, all.reordered, all.sent)
	}
	for _, f := range c.figures {
		if f.must > 0 {
			verdict(out, f.has == f.must, "%s: %s: %d of %d", c.name, f.name, f.has, f.must)
			whole = whole && f.has == f.must
		}
	}
	return whole
}

// limited tells which of the figures with a limit keep it in every round.
func (c *column) limited(out io.Writer) {
	for _, f := range c.figures {
		if most := slices.Max(append(f.rounds, 0)); f.limit > 0 {
			verdict(out, most <= f.limit, "%s: "+f.format+", to be "+f.format+" at most", f.name, most, f.limit)
		}
	}
}

// compared tells which of the figures with an aim are good enough beside Node's.
func (c *column) compared(out io.Writer, node *column) {
	for _, f := range c.figures {
		if f.aim == 0 {
			continue
		}
		times := f.times(node.of(f.name))
		verdict(out, median(times) >= f.aim, "%s: %s better than Node's, to be %g × at least", f.name, ranged("%.2f ×", times), f.aim)
	}
}

func verdict(out io.Writer, met bool, format string, args ...any) {
	word := "met"
	if !met {
		word = "MISSED"
	}
	fmt.Fprintf(out, "  %-8s"+format+"\n", append([]any{word}, args...)...)
}
