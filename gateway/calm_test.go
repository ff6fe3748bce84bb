package gateway

import "testing"

// A rush is followed by one collection, as soon as hardly anybody comes or goes.
func TestCalm(t *testing.T) {
	var c calm
	for i, step := range []struct {
		moves int
		due   bool
	}{
		{0, false},
		{rush - 1, false}, // they are coming
		{rush - 1, false}, // they were too few
		{rush, true},
		{rush, false}, // once
		{rush + 100, false},
		{3 * rush, false},
		{3*rush + rush/100 + 1, false}, // still a little too busy
		{3*rush + rush/50, true},
		{3*rush + rush/50 + 1, false},
	} {
		if due := c.due(step.moves); due != step.due {
			t.Errorf("look %d, %d moves: due is %v", i, step.moves, due)
		}
	}
}
