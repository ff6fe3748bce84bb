package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A minute of chaos loses, doubles and reorders nothing, and every job comes to
// its one end.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute of faults")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("SLUICE_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	r, err := run(t.Context(), options{length: time.Minute, seed: uint64(time.Now().UnixNano()), clients: 24, out: t.Output()})
	if r != nil {
		r.print(t.Output())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.zero {
		if c.n > 0 {
			t.Errorf("%d %s", c.n, c.name)
		}
	}
	if r.streams == 0 || len(r.faults) < 3 {
		t.Errorf("%d streams and %d kinds of faults: nothing was tried", r.streams, len(r.faults))
	}
}

// The account of a tab tells each thing that may go wrong from the others.
func TestViewCounts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		frames []string // event|data
		want   func(*report) int
	}{
		{"lost", []string{`model:chunk:v1|{"seq":1,"attempt":1,"chunk":"j"}`, `model:chunk:v1|{"seq":3,"attempt":1,"chunk":" 0"}`}, func(r *report) int { return r.lost.n }},
		{"doubled", []string{`model:chunk:v1|{"seq":1,"attempt":1,"chunk":"j"}`, `model:chunk:v1|{"seq":1,"attempt":1,"chunk":"j"}`}, func(r *report) int { return r.doubled.n }},
		{"overlapping", []string{`model:chunk:v1|{"seq":2,"fromSeq":1,"attempt":1,"chunk":"j"}`, `model:chunk:v1|{"seq":3,"fromSeq":2,"attempt":1,"chunk":" 0"}`}, func(r *report) int { return r.doubled.n }},
		{"reordered", []string{`model:chunk:v1|{"seq":2,"attempt":1,"chunk":" 0"}`, `model:chunk:v1|{"seq":1,"attempt":1,"chunk":"j"}`}, func(r *report) int { return r.reordered.n }},
		{"an end with another digest", []string{`model:complete:v1|{"seq":1,"attempt":1,"text":"","digest":"00"}`}, func(r *report) int { return r.digests.n }},
		{"two ends", []string{`model:error:v1|{"seq":1,"attempt":1}`, `model:error:v1|{"seq":2,"attempt":1}`}, func(r *report) int { return r.ends.n }},
		{"a cancel of nobody's", []string{`task:cancelled|{"seq":1,"attempt":1,"text":""}`}, func(r *report) int { return r.ends.n }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newReport(0)
			v := &view{plan: &plan{id: "j", query: "j 0", cancel: -1}, r: r}
			for _, f := range tt.frames {
				event, data, _ := strings.Cut(f, "|")
				v.take(event, []byte(data))
			}
			if tt.want(r) != 1 || !r.broken() {
				t.Errorf("counted %v", r.cases)
			}
		})
	}
}
