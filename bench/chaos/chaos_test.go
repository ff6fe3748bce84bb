package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/proto/job"
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
	for _, miss := range r.misses() {
		t.Error(miss)
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
			if tt.want(r) != 1 || len(r.misses()) == 0 {
				t.Errorf("counted %v", r.cases)
			}
		})
	}
}

// What a tab was given is held against the log: another text, a frame too few and
// one too many are found, merged frames are taken apart.
func TestViewIsComparedWithTheLog(t *testing.T) {
	logged := func(event, data string) job.Frame {
		f, err := job.ParseFrame([]byte(`{"event":"` + event + `","data":` + data + `,"timestamp":1}`))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const end = `{"jobId":"j","userId":"u","attempt":1,"seq":3,"code":"internal"}`
	log := []job.Frame{
		logged(job.EventChunk, `{"jobId":"j","userId":"u","attempt":1,"seq":1,"chunk":"j","index":0}`),
		logged(job.EventChunk, `{"jobId":"j","userId":"u","attempt":1,"seq":2,"chunk":" 0","index":1}`),
		logged(job.EventError, end),
	}
	for _, tt := range []struct {
		name   string
		frames []string
		log    []job.Frame
		want   int
	}{
		{"all", []string{string(log[0].Data), string(log[1].Data)}, log, 0},
		{"merged", []string{`{"seq":2,"fromSeq":1,"attempt":1,"chunk":"j 0"}`}, log, 0},
		{"another text", []string{`{"jobId":"j","userId":"u","attempt":1,"seq":1,"chunk":"j","index":0}`, `{"jobId":"j","userId":"u","attempt":1,"seq":2,"chunk":" ","index":1}`}, log, 1},
		{"another merged text", []string{`{"seq":2,"fromSeq":1,"attempt":1,"chunk":"j  0"}`}, log, 1},
		{"one too many", []string{string(log[0].Data), string(log[1].Data)}, log[:2], 1},
		{"one too few", []string{string(log[0].Data), string(log[1].Data)}, append(log[:3:3], logged(job.EventError, end)), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newReport(0)
			v := &view{plan: &plan{id: "j", query: "j 0", cancel: -1}, r: r}
			for _, f := range tt.frames {
				v.take(job.EventChunk, []byte(f))
			}
			v.take(job.EventError, []byte(end))
			v.compare(tt.log)
			if r.differ.n != tt.want {
				t.Errorf("%d differ, want %d: %v", r.differ.n, tt.want, r.cases)
			}
		})
	}
}

// A log with a hole, with attempts out of order or with an index twice is odd.
func TestOddLogs(t *testing.T) {
	chunk := func(seq, attempt, index int) job.Frame {
		return job.Frame{Seq: int64(seq), Attempt: int64(attempt), Event: job.EventChunk, Data: fmt.Appendf(nil, `{"index":%d}`, index)}
	}
	for name, frames := range map[string][]job.Frame{
		"hole":            {chunk(1, 1, 0), chunk(3, 1, 1)},
		"attempts":        {chunk(1, 2, 0), chunk(2, 1, 0)},
		"index twice":     {chunk(1, 1, 0), chunk(2, 1, 0)},
		"index goes on":   {chunk(1, 1, 0), chunk(2, 2, 1)},
		"begins with two": {chunk(2, 1, 0)},
	} {
		if oddLog(frames) == "" {
			t.Errorf("%s: nothing was found", name)
		}
	}
	if why := oddLog([]job.Frame{chunk(1, 1, 0), chunk(2, 1, 1), chunk(3, 2, 0)}); why != "" {
		t.Error(why)
	}
}

// A failover counts as undisturbed only if nothing else was going on from the
// kill to the new attempt, the end of another host shortly before included.
func TestDisturbed(t *testing.T) {
	c := &chaos{}
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	c.unrest = []*disturbance{{host: "host1", from: at(10), to: at(20)}, {from: at(30), to: at(40)}, {from: at(50)}}
	for _, tt := range []struct {
		host     string
		from, to int
		want     bool
	}{
		{"host1", 9, 15, false}, {"host2", 9, 15, true}, {"host2", 21, 25, false},
		{"host1", 25, 31, true}, {"host1", 39, 45, true}, {"host1", 41, 45, false}, {"host2", 60, 61, true},
	} {
		if got := c.disturbed(tt.host, at(tt.from), at(tt.to)); got != tt.want {
			t.Errorf("%s from %d to %d: %v", tt.host, tt.from, tt.to, got)
		}
	}
}

// Slow failovers are a miss, as is any count.
func TestMisses(t *testing.T) {
	r := newReport(0)
	for range 99 {
		r.failover(time.Second, false)
	}
	r.failover(time.Hour, true)
	if m := r.misses(); len(m) > 0 {
		t.Error(m)
	}
	r.failover(4*time.Second, false)
	r.failover(4*time.Second, false)
	r.lost.add("one")
	if m := r.misses(); len(m) != 2 {
		t.Error(m)
	}
}
