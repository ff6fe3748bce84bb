package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// better says which figures are the better ones.
type better int

const (
	neither better = iota
	more
	less
)

// figure is one measurement.
type figure struct {
	name   string
	text   string
	value  float64
	better better
}

// column is what one server showed. All columns of a table have the same figures.
type column struct {
	name    string
	figures []figure
}

func (c *column) add(name, format string, value float64, b better) {
	c.figures = append(c.figures, figure{name, fmt.Sprintf(format, value), value, b})
}

func (c *column) note(name, format string, args ...any) {
	c.figures = append(c.figures, figure{name: name, text: fmt.Sprintf(format, args...)})
}

// value is that of a figure, 0 if there is none of this name.
func (c *column) value(name string) float64 {
	for _, f := range c.figures {
		if f.name == name {
			return f.value
		}
	}
	return 0
}

// print shows a row per figure; the last word of a row says how many times
// better than the first column the last is.
func print(out io.Writer, columns []column) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, c := range columns {
		fmt.Fprint(w, c.name, "\t")
	}
	fmt.Fprint(w, "better\t\n")
	for i, f := range columns[0].figures {
		fmt.Fprint(w, f.name, "\t")
		for _, c := range columns {
			fmt.Fprint(w, c.figures[i].text, "\t")
		}
		if first, last := f.value, columns[len(columns)-1].figures[i].value; len(columns) > 1 && first > 0 && last > 0 {
			switch f.better {
			case more:
				fmt.Fprintf(w, "%.1f ×", last/first)
			case less:
				fmt.Fprintf(w, "%.1f ×", first/last)
			}
		}
		fmt.Fprint(w, "\t\n")
	}
	w.Flush()
	fmt.Fprintln(out)
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }
func millis(d time.Duration) float64 { return float64(d) / 1e6 }
