package main

import (
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" { // started by the bench itself
		main()
		return
	}
	os.Exit(m.Run())
}

// The bench runs through, small, and nothing is lost.
func TestBench(t *testing.T) {
	var out strings.Builder
	if err := bench(settings{conns: 20, rates: []int{500}, seconds: 0.2, broadcast: 10}, &out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	lost := 0
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "lost, reordered") {
			lost++
			if strings.Count(line, "0, 0") != 2 {
				t.Error(line)
			}
		}
	}
	if lost != 2 {
		t.Errorf("%d rows of losses, want 2", lost)
	}
}
