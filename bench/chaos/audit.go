package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// upstreamTimeout is how long after a cancel that was acknowledged the upstream
// must have been closed: a host that runs it may be paused or cut off.
const upstreamTimeout = 25 * time.Second

// audit looks at a job that its client has seen the end of: what Redis holds of
// it, whether every tab was given just that, how long failovers took, whether it
// failed for a reason, and whether a cancel ended it and reached the upstream.
func (c *chaos) audit(ctx context.Context, p *plan, views ...*view) {
	defer func() {
		c.mu.Lock()
		delete(c.active, p.id)
		delete(c.sought, p.id)
		c.mu.Unlock()
		c.upstream.forget(p.id)
	}()
	frames, st, err := c.log(ctx, p.id)
	if err != nil {
		if ctx.Err() == nil {
			c.report.forgotten.add("%s: its log: %v", p.id, err)
		}
		return
	}
	if why := oddLog(frames); why != "" {
		c.report.lost.add("%s: in the log %s", p.id, why)
	}
	terminal := 0
	for _, f := range frames {
		if f.Terminal() {
			terminal++
		}
	}
	if terminal != 1 || !st.State.Terminal() || !frames[len(frames)-1].Terminal() {
		c.report.ends.add("%s: in the log %d frames end it, and it is %s", p.id, terminal, st.State)
	}
	for _, v := range views {
		v.compare(frames)
	}
	c.failovers(p.id, frames)
	if len(frames) > 0 && frames[len(frames)-1].Event == job.EventError {
		c.failure(p, frames)
	}
	c.mu.Lock()
	sought, yes := c.sought[p.id]
	c.mu.Unlock()
	switch {
	case !yes:
	case st.State != job.StateCancelled:
		c.report.ends.add("%s: it is %s, after a cancel that was accepted", p.id, st.State)
	case p.model == "gpt-chaos":
		c.reached(ctx, p.id, sought)
	}
}

// oddLog says what can't be in a log, "" if all can: seq counts without gaps,
// attempts follow each other, and the chunks of each count from 0.
func oddLog(frames []job.Frame) string {
	attempt, index := int64(0), int64(0)
	for i, f := range frames {
		if f.Seq != int64(i)+1 {
			return fmt.Sprintf("seq %d is at place %d", f.Seq, i+1)
		}
		if f.Attempt < attempt {
			return fmt.Sprintf("attempt %d follows attempt %d at seq %d", f.Attempt, attempt, f.Seq)
		}
		if f.Attempt > attempt {
			attempt, index = f.Attempt, 0
		}
		if f.Event != job.EventChunk {
			continue
		}
		var d struct {
			Index int64 `json:"index"`
		}
		if err := json.Unmarshal(f.Data, &d); err != nil || d.Index != index {
			return fmt.Sprintf("seq %d has index %d, not %d (%v)", f.Seq, d.Index, index, err)
		}
		index++
	}
	return ""
}

// attempts is host.max_attempts, as it is by default.
const attempts = 5

// failure tells of a job that failed. There are two reasons for that: its host
// was lost and the job wanted no other one or had lost several, or each of its
// attempts met with something that was broken.
func (c *chaos) failure(p *plan, frames []job.Frame) {
	var e struct {
		Attempt int64  `json:"attempt"`
		Code    string `json:"code"`
		Message string `json:"message"`
		Fault   string `json:"fault"`
		Status  string `json:"status"` // of progress
	}
	failed := 1
	for _, f := range frames {
		_ = json.Unmarshal(f.Data, &e) // what can't be read is no reason
		if f.Event == job.EventProgress && e.Status == "retrying" {
			failed++
		}
	}
	switch {
	case e.Code == job.CodeHostLost && (p.policy == job.PolicyFail || e.Attempt > 1):
	case (e.Code == "unavailable" || e.Code == "truncated") && failed >= attempts:
	default:
		c.report.failed.add("%s (%s): %s (%s): %s, in attempt %d%s", p.id, p.model, e.Code, e.Fault, e.Message, e.Attempt, c.excerpt(p.id))
	}
}

// excerpt is what the hosts' logs say about a job, above the ordinary.
func (c *chaos) excerpt(id string) string {
	var found strings.Builder
	for _, h := range c.hosts {
		text, err := os.ReadFile(filepath.Join(c.dir, h.name+".log"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "job="+id) && !strings.Contains(line, "level=INFO") && found.Len() < 4<<10 {
				fmt.Fprintf(&found, "\n      %s: %s", h.name, strings.TrimSpace(line))
			}
		}
	}
	return found.String()
}

// log reads all frames of a job, whatever becomes of Redis meanwhile.
func (c *chaos) log(ctx context.Context, id string) (frames []job.Frame, st job.Status, err error) {
	for {
		frames = frames[:0]
		for {
			var page []job.Frame
			page, st, err = c.store.Read(ctx, id, int64(len(frames)), 1000)
			frames = append(frames, page...)
			if err != nil || len(page) < 1000 {
				break
			}
		}
		if err == nil || !job.Retryable(err) || !pause(ctx, 200*time.Millisecond) {
			return frames, st, err
		}
	}
}

// failovers measures, for each time its host was killed, when the job went on.
func (c *chaos) failovers(id string, frames []job.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.kills {
		attempt, was := k.jobs[id]
		if !was {
			continue
		}
		delete(k.jobs, id)
		for _, f := range frames {
			if f.Event != job.EventStart || f.Attempt <= attempt {
				continue
			}
			var when struct {
				Timestamp int64 `json:"timestamp"`
			}
			if json.Unmarshal(f.Raw, &when) == nil {
				at := time.UnixMilli(when.Timestamp)
				c.report.failover(at.Sub(k.at), c.disturbed(k.host, k.at, at))
			}
			break
		}
	}
}

// reached waits until no request of a cancelled job is open.
func (c *chaos) reached(ctx context.Context, id string, sought time.Time) {
	for {
		open, closed := c.upstream.openOf(id)
		switch {
		case open == 0:
			if took := closed.Sub(sought); took > 0 {
				c.report.cancelled(took)
			}
			return
		case time.Since(sought) > upstreamTimeout:
			c.report.uncancelled.add("%s: %d requests are open %s after", id, open, time.Since(sought).Round(time.Second))
			return
		case !pause(ctx, 20*time.Millisecond):
			return
		}
	}
}

// unfinished reports the jobs whose streams didn't come to their end.
func (c *chaos) unfinished(ctx context.Context) {
	c.mu.Lock()
	var left []*plan
	for _, p := range c.active {
		left = append(left, p)
	}
	c.mu.Unlock()
	for _, p := range left {
		st, err := c.store.Status(ctx, p.id)
		c.report.endless.add("%s (%s): %s, attempt %d, seq %d, on %q, cancel %v, %v", p.id, p.model, st.State, st.Attempt, st.Seq, st.Host, st.Cancel, err)
	}
	if len(left) == 0 {
		c.report.endless.add("some client hangs")
	}
}

// drained waits until the queue holds no ticket, for every job has ended.
func (c *chaos) drained(ctx context.Context) {
	began := time.Now()
	for {
		left := map[string]int64{}
		for name := range job.Queues() {
			base := "asynq:{" + name + "}:"
			for _, list := range []string{"pending", "active"} {
				if n, err := c.rdb.LLen(ctx, base+list).Result(); err == nil && n > 0 {
					left[name+" "+list] = n
				}
			}
			for _, set := range []string{"scheduled", "retry"} {
				if n, err := c.rdb.ZCard(ctx, base+set).Result(); err == nil && n > 0 {
					left[name+" "+set] = n
				}
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Since(began) > drainTimeout {
			c.report.tickets.add("%v", left)
			return
		}
		if !pause(ctx, 200*time.Millisecond) {
			return
		}
	}
}

func jsonOf(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}
