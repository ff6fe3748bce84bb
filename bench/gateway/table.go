package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// better says which figures are the better ones.
type better int

const (
	neither better = iota
	more
	less
)

// figure is what was measured of one thing, once in each round.
type figure struct {
	name   string
	format string
	better better
	spread bool // show the least and the most beside the median
	rounds []float64
	aim    float64 // how many times better than Node's it is to be; 0: no matter
	limit  float64 // what it may be at most; 0: no matter
	losses *losses // of figures that are sums
	text   string  // of a note
	has    int     // of a count that is to be must
	must   int
}

// losses are the events of all rounds.
type losses struct{ sent, lost, reordered int }

// column is what one server showed.
type column struct {
	name    string
	node    bool // what the others are compared with
	figures []*figure
}

// of returns the figure of a name, a new one if there is none.
func (c *column) of(name string) *figure {
	for _, f := range c.figures {
		if f.name == name {
			return f
		}
	}
	f := &figure{name: name}
	c.figures = append(c.figures, f)
	return f
}

// add notes a value of one round.
func (c *column) add(name, format string, value float64, b better) *figure {
	f := c.of(name)
	f.format, f.better = format, b
	f.rounds = append(f.rounds, value)
	return f
}

// spread is add for a figure that is shown with its least and its most.
func (c *column) spread(name, format string, value float64, b better) {
	c.add(name, format, value, b).spread = true
}

// lose adds a round's losses.
func (c *column) lose(name string, l load) {
	f := c.of(name + ": lost, reordered")
	if f.losses == nil {
		f.losses = &losses{}
	}
	f.losses.sent += l.sent
	f.losses.lost += l.sent - l.received
	f.losses.reordered += l.reordered
}

func (c *column) note(name, format string, args ...any) {
	c.of(name).text = fmt.Sprintf(format, args...)
}

// equal notes how many have what all of them must have.
func (c *column) equal(name string, n, of int) {
	c.note(name, "%d", n)
	c.of(name).has, c.of(name).must = n, of
}

// losses is the sum of all phases.
func (c *column) losses() (all losses) {
	for _, f := range c.figures {
		if f.losses != nil {
			all.sent += f.losses.sent
			all.lost += f.losses.lost
			all.reordered += f.losses.reordered
		}
	}
	return all
}

func (f *figure) String() string {
	switch {
	case f.losses != nil:
		return fmt.Sprintf("%d, %d", f.losses.lost, f.losses.reordered)
	case len(f.rounds) == 0:
		return f.text
	}
	if f.spread {
		return ranged(f.format, f.rounds)
	}
	return fmt.Sprintf(f.format, median(f.rounds))
}

// ranged is the median, with the least and the most in brackets.
func ranged(format string, values []float64) string {
	text := fmt.Sprintf(format, median(values))
	if len(values) > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", slices.Min(values), slices.Max(values))
	}
	return text
}

// times says how many times better than first f was in each round.
func (f *figure) times(first *figure) (all []float64) {
	for i := range min(len(f.rounds), len(first.rounds)) {
		was, is := first.rounds[i], f.rounds[i]
		if f.better == less {
			was, is = is, was
		}
		if f.better != neither && was > 0 && is > 0 {
			all = append(all, is/was)
		}
	}
	return all
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// print shows a row per figure of the last column; the last word of a row says how
// many times better than the first column the last is: the median of the rounds.
func print(out io.Writer, columns []*column) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, c := range columns {
		fmt.Fprint(w, c.name, "\t")
	}
	fmt.Fprint(w, "better\t\n")
	first, last := columns[0], columns[len(columns)-1]
	for _, f := range last.figures {
		fmt.Fprint(w, f.name, "\t")
		for _, c := range columns {
			fmt.Fprint(w, c.of(f.name), "\t")
		}
		if times := f.times(first.of(f.name)); len(times) > 0 && first != last {
			fmt.Fprintf(w, "%.1f ×", median(times))
		}
		fmt.Fprint(w, "\t\n")
	}
	w.Flush()
	fmt.Fprintln(out)
}
