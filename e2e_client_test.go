package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"
)

// client is one Socket.IO client in the driver.
type client struct {
	d    *driver
	name string

	mu      sync.Mutex
	events  []event
	changed chan struct{}
}

// options of a Socket.IO client, by the transports it may use.
var transports = map[string]map[string]any{
	"websocket": {"transports": []string{"websocket"}},
	"polling":   {"transports": []string{"polling"}},
	"upgrade":   {"transports": []string{"polling", "websocket"}},
}

// connect opens a client and waits until it is connected and greeted.
func (d *driver) connect(name, url string, options map[string]any) *client {
	d.t.Helper()
	c := d.open(name, url, options)
	c.await("connected", func(event) bool { return true })
	return c
}

// open opens a client and waits for nothing.
func (d *driver) open(name, url string, options map[string]any) *client {
	d.t.Helper()
	c := &client{d: d, name: name}
	d.mu.Lock()
	d.client[name] = c
	d.mu.Unlock()
	if a := d.do(map[string]any{"op": "connect", "name": name, "url": url, "options": options}); !a.OK {
		d.t.Fatalf("connect %s: %s", name, a.Error)
	}
	return c
}

func (c *client) add(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func (c *client) seen() []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[:len(c.events):len(c.events)]
}

// await waits for the first event of the name that matches.
func (c *client) await(name string, match func(event) bool) event {
	c.d.t.Helper()
	deadline := time.After(patience)
	for from := 0; ; {
		c.mu.Lock()
		for ; from < len(c.events); from++ {
			if e := c.events[from]; e.Event == name && match(e) {
				c.mu.Unlock()
				return e
			}
		}
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			c.d.t.Fatalf("%s never sees %s; it saw:\n%s", c.name, name, c.transcript())
		}
	}
}

func (c *client) transcript() string {
	text := ""
	for _, e := range c.seen() {
		text += fmt.Sprintf("%s %s\n", e.Event, tail(string(e.Data), 300))
	}
	return tail(text, 6000)
}

// ack is what the gateway answers to an event.
type ack struct {
	OK      bool
	JobID   string
	Status  string
	State   string
	Attempt int64
	Seq     int64
	AckID   any
	Error   struct{ Code, Message string }
}

// emit sends an event and returns its ack.
func (c *client) emit(name string, args ...any) ack {
	c.d.t.Helper()
	if args == nil {
		args = []any{}
	}
	answer := c.d.do(map[string]any{"op": "emit", "name": c.name, "event": name, "args": args, "timeout": patience.Milliseconds()})
	if !answer.OK {
		c.d.t.Fatalf("%s emits %s: %s", c.name, name, answer.Error)
	}
	var a ack
	if err := json.Unmarshal(answer.Value, &a); err != nil {
		c.d.t.Fatalf("ack of %s is %s: %v", name, answer.Value, err)
	}
	return a
}

// ask starts a job and returns its id.
func (c *client) ask(payload map[string]any) string {
	c.d.t.Helper()
	a := c.emit("START_SEARCH", payload)
	if !a.OK || a.JobID == "" || a.Status != "queued" {
		c.d.t.Fatalf("START_SEARCH: %+v", a)
	}
	return a.JobID
}

func (c *client) drop()  { c.d.do(map[string]any{"op": "drop", "name": c.name}) }
func (c *client) close() { c.d.do(map[string]any{"op": "close", "name": c.name}) }

// frame is the data of any event of a job.
type frame struct {
	JobID, UserID       string
	Attempt, Seq, Index int64
	FromSeq             int64 // of merged chunks: the first they stand for
	Total               *int64
	Chunk               string
	Kind                string
	Reset               bool
	Provider, Model     string

	Text, FinishReason, Digest string
	Tokens, Duration           int64

	Code, Message, Fault string
	Retryable            bool
	Status               string

	event string
}

// terminal says whether a frame of the name ends its job.
func terminal(name string) bool {
	return name == "model:complete:v1" || name == "model:error:v1" || name == "task:cancelled"
}

// frames are the logged frames of a job that the client saw, in order of arrival.
func (c *client) frames(job string) []frame {
	c.d.t.Helper()
	var all []frame
	for _, e := range c.seen() {
		var f frame
		if json.Unmarshal(e.Data, &f) == nil && f.JobID == job && f.Seq > 0 {
			f.event = e.Event
			all = append(all, f)
		}
	}
	return all
}

// finish waits for the end of a job and returns all its frames.
func (c *client) finish(job string) []frame {
	c.d.t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		all := c.frames(job)
		if len(all) > 0 && terminal(all[len(all)-1].event) {
			return all
		}
		select {
		case <-changed:
		case <-deadline:
			c.d.t.Fatalf("%s never sees the end of %s; it saw:\n%s", c.name, job, c.transcript())
		}
	}
}

// checkWhole checks what holds for the frames of every finished job: each once,
// in order, from from on; indexes that count within the attempt; an end that
// fits what came before. It returns the text of the answer.
func checkWhole(t *testing.T, all []frame, from int64) string {
	t.Helper()
	text, index := "", int64(0)
	attempt, next := int64(0), from
	for i, f := range all {
		if f.FromSeq == 0 {
			f.FromSeq = f.Seq
		}
		if f.FromSeq != next || f.Seq < next || f.Seq > next && f.event != "model:chunk:v1" {
			t.Fatalf("frame %d (%s) has seq %d to %d, want %d: something was lost, doubled or reordered", i, f.event, f.FromSeq, f.Seq, next)
		}
		next = f.Seq + 1
		if f.UserID == "" {
			t.Errorf("%s has no userId", f.event)
		}
		if f.Attempt < attempt || f.Attempt < 1 {
			t.Errorf("seq %d is of attempt %d after attempt %d", f.Seq, f.Attempt, attempt)
		}
		if f.Attempt != attempt && attempt != 0 && f.event != "model:start:v1" && !terminal(f.event) {
			t.Errorf("attempt %d begins with %s", f.Attempt, f.event)
		}
		attempt = f.Attempt
		switch f.event {
		case "model:start:v1":
			index = 0
			if f.Reset {
				text = ""
			}
		case "model:chunk:v1":
			if from == 1 && f.Index != index {
				t.Errorf("seq %d has index %d, want %d", f.Seq, f.Index, index)
			}
			if f.Total != nil {
				t.Errorf("seq %d has total %d", f.Seq, *f.Total)
			}
			index += f.Seq - f.FromSeq + 1
			text += f.Chunk
		}
		if terminal(f.event) && i != len(all)-1 {
			t.Errorf("%s at seq %d is followed by %s", f.event, f.Seq, all[i+1].event)
		}
	}
	return text
}

// checkComplete checks the frames of a job that answered want.
func checkComplete(t *testing.T, all []frame, want string) {
	t.Helper()
	text := checkWhole(t, all, 1)
	if all[0].event != "model:start:v1" {
		t.Errorf("the first frame is %s", all[0].event)
	}
	end := all[len(all)-1]
	if end.event != "model:complete:v1" {
		t.Fatalf("it ended with %s: %+v", end.event, end)
	}
	sum := sha256.Sum256([]byte(end.Text))
	switch {
	case text != want || end.Text != want:
		t.Errorf("text: chunks say %q, the end says %q, want %q", tail(text, 200), tail(end.Text, 200), tail(want, 200))
	case end.Digest != hex.EncodeToString(sum[:]):
		t.Errorf("digest %s is not that of the text", end.Digest)
	case end.FinishReason != "stop":
		t.Errorf("finishReason %q", end.FinishReason)
	case end.Duration < 0 || end.Duration > patience.Milliseconds():
		t.Errorf("duration %d ms", end.Duration)
	}
}
