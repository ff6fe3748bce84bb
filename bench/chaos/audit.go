package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// upstreamTimeout is how long after a cancel that was acknowledged the upstream
// must have been closed: a host that runs it may be paused or cut off.
const upstreamTimeout = 25 * time.Second

// audit looks at a job that its client has seen the end of: what Redis holds of
// it, how long failovers took, and whether a cancel reached the upstream.
func (c *chaos) audit(ctx context.Context, p *plan) {
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
	terminal := 0
	for i, f := range frames {
		if f.Seq != int64(i)+1 {
			c.report.lost.add("%s: in the log seq %d is at place %d", p.id, f.Seq, i+1)
			break
		}
		if f.Terminal() {
			terminal++
		}
	}
	if terminal != 1 || !st.State.Terminal() || !frames[len(frames)-1].Terminal() {
		c.report.ends.add("%s: in the log %d frames end it, and it is %s", p.id, terminal, st.State)
	}
	c.failovers(p.id, frames)
	c.mu.Lock()
	sought, yes := c.sought[p.id]
	c.mu.Unlock()
	if st.State == job.StateCancelled && yes && p.model == "gpt-chaos" {
		c.reached(ctx, p.id, sought)
	}
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
				c.report.failover(time.UnixMilli(when.Timestamp).Sub(k.at), k.disturbed)
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
