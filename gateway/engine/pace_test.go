package engine

import (
	"testing"
	"time"
)

// The window opens when writing takes much of the time and messages are joined,
// and closes again.
func TestPace(t *testing.T) {
	const longest = 20 * time.Millisecond
	var p pace
	at := int64(time.Second)
	second := func(share float64, messages int) time.Duration { // of writes taking this share of the time
		for end := at + int64(time.Second); at < end; at += int64(time.Millisecond) {
			if p.wrote(messages) {
				p.took(at, at+int64(share*float64(time.Millisecond)), longest)
			}
		}
		return time.Duration(p.window.Load())
	}
	for _, step := range []struct {
		name     string
		share    float64
		messages int
		want     func(time.Duration) bool
	}{
		{"quiet", 0.1, 1, func(w time.Duration) bool { return w == quietWindow }},
		{"busy", 0.8, 2, func(w time.Duration) bool { return w == longest }},
		{"less busy", 0.4, 2, func(w time.Duration) bool { return w == longest }},
		{"quiet again", 0.1, 2, func(w time.Duration) bool { return w == quietWindow }},
		{"busy with nothing to join", 0.8, 1, func(w time.Duration) bool { return w <= 2*quietWindow }},
	} {
		if w := second(step.share, step.messages); !step.want(w) {
			t.Errorf("%s: %v", step.name, w)
		}
	}
}

func TestNextWindow(t *testing.T) {
	for _, c := range []struct{ window, longest, want time.Duration }{
		{0, -1, 0},
		{0, time.Millisecond, time.Millisecond},
		{quietWindow, 20 * time.Millisecond, 2 * quietWindow},
		{16 * time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond},
	} {
		if got := nextWindow(c.window, 0.9, 1, c.longest); got != c.want {
			t.Errorf("after %v, at most %v: %v", c.window, c.longest, got)
		}
	}
}
