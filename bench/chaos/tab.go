package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// tab is one window of a user: a connection that is taken up again wherever it
// can be, and the jobs it has seen.
type tab struct {
	c     *chaos
	user  string
	token string
	name  string
	rng   *rand.Rand
	conn  *socket
	views map[string]*view // of this connection: what comes late for an old job counts, too
}

// ackTimeout is how long a client waits for an answer before it tries another
// connection.
const ackTimeout = 8 * time.Second

// answer is an ack.
type answer struct {
	OK    bool   `json:"ok"`
	State string `json:"state"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func (t *tab) close() {
	if t.conn != nil {
		t.conn.close()
		t.conn = nil
	}
}

// connect is connected, to either gateway, or fails when ctx ends.
func (t *tab) connect(ctx context.Context) error {
	for t.conn == nil {
		g := t.c.gateways[t.rng.IntN(len(t.c.gateways))]
		conn, err := dial(ctx, g.address(), t.token)
		if err == nil {
			t.conn, t.views = conn, map[string]*view{}
			return nil
		}
		if !pause(ctx, time.Duration(20+t.rng.IntN(200))*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// ask emits an event and waits for its ack; what comes meanwhile is entered.
func (t *tab) ask(ctx context.Context, event string, payload any) (answer, error) {
	id, err := t.conn.emit(event, payload)
	if err != nil {
		t.close()
		return answer{}, errLost
	}
	late := time.NewTimer(ackTimeout)
	defer late.Stop()
	for {
		select {
		case p, ok := <-t.conn.got:
			if !ok {
				t.close()
				return answer{}, errLost
			}
			if p.ack != id || p.event != "" {
				t.enter(p)
				continue
			}
			var a answer
			err := json.Unmarshal(p.data, &a)
			return a, err
		case <-late.C:
			t.close()
			return answer{}, errLost
		case <-ctx.Done():
			t.close()
			return answer{}, ctx.Err()
		}
	}
}

// enter gives a packet to the view of its job.
func (t *tab) enter(p packet) {
	if p.event == "" {
		return
	}
	var d struct {
		JobID string `json:"jobId"`
		Code  string `json:"code"`
	}
	if json.Unmarshal(p.data, &d) != nil {
		return
	}
	v := t.views[d.JobID]
	switch {
	case v == nil:
	case p.event == "error" && d.Code == "not_found":
		t.c.report.forgotten.add("%s: the client was told that it is gone", v)
		v.abandon()
	case p.event != "error":
		v.take(p.event, p.data)
	}
}

// see watches a job to its end. started says that it was accepted before;
// accepted, when not nil, is called once it is.
func (t *tab) see(ctx context.Context, v *view, started bool, accepted func()) (reconnects int, err error) {
	p := v.plan
	first := true
	for {
		if t.conn == nil && !first {
			reconnects++
		}
		first = false
		if err := t.connect(ctx); err != nil {
			return reconnects, err
		}
		// A job that this connection has asked for already may be arriving, and
		// to resume it would ask for what is on its way a second time: the same
		// start again does not.
		asked := t.views[p.id] == v
		t.views[p.id] = v
		var a answer
		var err error
		if last, _ := v.place(); started || last > 0 && !asked {
			a, err = t.ask(ctx, "job:resume:v1", map[string]any{"jobId": p.id, "lastSeq": last})
		} else {
			a, err = t.ask(ctx, "search:start:v1", map[string]any{
				"jobId": p.id, "query": p.query, "model": p.model, "params": p.params, "priority": orDefault(p.priority),
			})
		}
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return reconnects, ctx.Err()
			}
			continue
		case a.OK:
			if !started {
				started = true
				if accepted != nil {
					accepted()
				}
			}
		case a.Error != nil && a.Error.Code == "not_found":
			if _, ended := v.place(); ended {
				return reconnects, nil
			}
			t.c.report.forgotten.add("%s: to resume is answered %q", v, a.Error.Message)
			v.abandon()
			return reconnects, nil
		default:
			code := "nothing"
			if a.Error != nil {
				code = a.Error.Code
			}
			t.c.report.injected("(refused: " + code + ")")
			if code != "unavailable" {
				t.c.report.refused.add("%s: %s", v, code)
			}
			if !pause(ctx, time.Duration(100+t.rng.IntN(400))*time.Millisecond) {
				return reconnects, ctx.Err()
			}
			continue
		}
		ended, err := t.follow(ctx, v)
		if ended || err != nil {
			return reconnects, err
		}
	}
}

// follow reads frames until the job has ended, or the connection is lost.
func (t *tab) follow(ctx context.Context, v *view) (ended bool, err error) {
	p := v.plan
	cancel := -1 // number of the ack
	var sought time.Time
	var retry <-chan time.Time
	mine := t.name == "first" // only one tab cancels
	for {
		frames, end, _ := v.seen()
		if end != "" {
			return true, nil
		}
		if mine && cancel < 0 && retry == nil && p.cancel >= 0 && frames >= p.cancel {
			sought = time.Now()
			if cancel, err = t.conn.emit("task:cancel:v1", map[string]any{"jobId": p.id}); err != nil {
				t.close()
				return false, nil
			}
		}
		select {
		case in, ok := <-t.conn.got:
			switch {
			case !ok:
				t.close()
				return false, nil
			case in.event == "" && in.ack == cancel:
				var a answer
				_ = json.Unmarshal(in.data, &a)
				switch {
				case a.OK && (a.State == string(job.StateComplete) || a.State == string(job.StateFailed)): // too late
				case a.OK:
					t.c.cancelled(p, sought)
				default:
					cancel = -1
					retry = time.After(300 * time.Millisecond)
				}
				continue
			}
			t.enter(in)
			if t.rng.Float64() < p.restless {
				t.close()
				return false, nil
			}
			if t.rng.Float64() < p.stall && !pause(ctx, time.Duration(t.rng.IntN(2500))*time.Millisecond) {
				return false, ctx.Err()
			}
		case <-retry:
			retry = nil
		case <-time.After(15*time.Second + time.Duration(t.rng.IntN(5000))*time.Millisecond):
			// As a person who sees nothing move would: reload.
			t.close()
			return false, nil
		case <-ctx.Done():
			t.close()
			return false, ctx.Err()
		}
	}
}

func orDefault(priority string) string {
	if priority == "" {
		return job.PriorityDefault
	}
	return priority
}

// pause sleeps, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
