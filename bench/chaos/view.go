package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash/maphash"
	"strings"
	"sync"

	"github.com/sluicehq/sluice/proto/job"
)

// view is what one tab has seen of a job: the account that is checked. It goes
// with the tab from connection to connection. Safe for concurrent use.
type view struct {
	plan *plan
	name string // of the tab
	r    *report

	mu      sync.Mutex
	last    int64 // seq
	attempt int64
	missing map[int64]bool
	text    []byte
	frames  int
	got     []got
	end     string // event of the terminal frame
	code    string // of an error
}

// got is a frame that the tab was given, to be found again in the log.
type got struct {
	from, to int64 // seqs it stands for
	event    string
	sum      uint64 // of its data; of its text when it stands for several
}

var sums = maphash.MakeSeed()

// data is what matters of a frame.
type data struct {
	JobID   string `json:"jobId"`
	Seq     int64  `json:"seq"`
	FromSeq int64  `json:"fromSeq"`
	Attempt int64  `json:"attempt"`
	Chunk   string `json:"chunk"`
	Reset   bool   `json:"reset"`
	Text    string `json:"text"`
	Digest  string `json:"digest"`
	Code    string `json:"code"`
}

// take enters a frame.
func (v *view) take(event string, raw json.RawMessage) {
	var d data
	if err := json.Unmarshal(raw, &d); err != nil {
		v.r.lost.add("%s: a frame can't be read: %v", v, err)
		return
	}
	if d.Seq == 0 {
		return // the gateway's own
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frames++
	from := d.FromSeq
	if from == 0 {
		from = d.Seq
	}
	switch {
	case d.Seq <= v.last || from <= v.last:
		if v.missing[d.Seq] {
			delete(v.missing, d.Seq)
			v.r.reordered.add("%s: seq %d comes after %d", v, d.Seq, v.last)
			return
		}
		v.r.doubled.add("%s: seq %d to %d (%s) after %d", v, from, d.Seq, event, v.last)
		return
	case from > v.last+1:
		v.r.lost.addN(int(from-v.last-1), "%s: seq %d follows %d", v, from, v.last)
		if v.missing == nil {
			v.missing = map[int64]bool{}
		}
		for s := v.last + 1; s < from; s++ {
			v.missing[s] = true
		}
	}
	v.last = d.Seq
	g := got{from: from, to: d.Seq, event: event, sum: maphash.Bytes(sums, raw)}
	if from < d.Seq {
		g.sum = maphash.String(sums, d.Chunk)
	}
	v.got = append(v.got, g)
	if v.end != "" {
		v.r.ends.add("%s: seq %d (%s) after %s", v, d.Seq, event, v.end)
		return
	}
	if d.Attempt < v.attempt {
		v.r.reordered.add("%s: attempt %d after %d", v, d.Attempt, v.attempt)
	}
	v.attempt = d.Attempt
	switch event {
	case job.EventStart:
		if d.Reset {
			v.text = v.text[:0]
		}
	case job.EventChunk:
		v.text = append(v.text, d.Chunk...)
	case job.EventComplete, job.EventCancelled, job.EventError:
		v.end, v.code = event, d.Code
		v.check(d)
	}
}

// compare holds what the tab was given against the job's log: all of it, and
// nothing else.
func (v *view) compare(log []job.Frame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.end == "" || v.end == "gone" {
		return // counted as such
	}
	for _, g := range v.got {
		if g.from < 1 || g.to > int64(len(log)) {
			v.r.differ.add("%s: seq %d to %d (%s), and the log has %d frames", v, g.from, g.to, g.event, len(log))
			return
		}
		sum := maphash.Bytes(sums, log[g.to-1].Data)
		if g.from < g.to {
			sum = maphash.String(sums, textOf(log[g.from-1:g.to]))
		}
		if g.event != log[g.to-1].Event || g.sum != sum {
			v.r.differ.add("%s: seq %d to %d (%s) is another than in the log (%s)", v, g.from, g.to, g.event, log[g.to-1].Event)
		}
	}
	if v.last != int64(len(log)) {
		v.r.differ.add("%s: ended at seq %d, and the log has %d frames", v, v.last, len(log))
	}
}

// textOf is the text of chunks; that of anything else is no text.
func textOf(frames []job.Frame) string {
	var text strings.Builder
	for _, f := range frames {
		var d data
		if f.Event != job.EventChunk || json.Unmarshal(f.Data, &d) != nil {
			return "\x00" + f.Event
		}
		text.WriteString(d.Chunk)
	}
	return text.String()
}

// check compares what the tab has put together with what the end says.
func (v *view) check(d data) {
	text := string(v.text)
	switch v.end {
	case job.EventComplete:
		sum := sha256.Sum256(v.text)
		switch {
		case d.Digest != hex.EncodeToString(sum[:]):
			v.r.digests.add("%s: digest of %d bytes differs", v, len(text))
		case d.Text != text:
			v.r.digests.add("%s: the end has %d bytes, the chunks %d", v, len(d.Text), len(text))
		case !v.plan.agrees(text, true):
			v.r.digests.add("%s: the answer is not the expected one: %.200q", v, text)
		}
	case job.EventCancelled:
		switch {
		case v.plan.cancel < 0:
			v.r.ends.add("%s: cancelled, and nobody asked for it", v)
		case d.Text != text:
			v.r.digests.add("%s: the receipt has %d bytes, the chunks %d", v, len(d.Text), len(text))
		case !v.plan.agrees(text, false):
			v.r.digests.add("%s: the cancelled answer is not the expected one: %.200q", v, text)
		}
	case job.EventError:
		if !v.plan.agrees(text, false) {
			v.r.digests.add("%s: the failed answer is not the expected one: %.200q", v, text)
		}
	}
}

// place is where the tab is.
func (v *view) place() (last int64, ended bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last, v.end != ""
}

func (v *view) seen() (frames int, end, code string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frames, v.end, v.code
}

func (v *view) String() string { return v.plan.id + " (" + v.plan.model + ", " + v.name + ")" }

// abandon ends a job that is gone: nothing more will come.
func (v *view) abandon() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.end == "" {
		v.end = "gone"
	}
}
