package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// deployments are the ways Sluice is run. Each returns the address of a gateway.
var deployments = []struct {
	name  string
	start func(t *testing.T, in installation) string
}{
	{"memory", func(t *testing.T, in installation) string {
		return start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory"}).url
	}},
	{"embedded server", func(t *testing.T, in installation) string {
		need(t, "redis-server")
		return start(t, in, []string{"SLUICE_REDIS__EMBEDDED=server"}).url
	}},
	{"redis-server", func(t *testing.T, in installation) string {
		return start(t, in, []string{"SLUICE_REDIS__URL=" + redisServer(t).url()}).url
	}},
	{"redis-server, two processes", func(t *testing.T, in installation) string {
		env := []string{"SLUICE_REDIS__URL=" + redisServer(t).url()}
		start(t, in, env, "host")
		return start(t, in, env, "gateway").url
	}},
}

// prompt is what echo says back, token by token.
const prompt = "The quick brown fox — it jumps: über 13 lazy dogs, 日本 and 🦊 too."

// A question is answered, frame by frame, however the client connects, whatever
// runs the plugin, and wherever Redis and the halves live.
func TestAnswerStreams(t *testing.T) {
	in := install(t)
	for _, deployment := range deployments {
		t.Run(deployment.name, func(t *testing.T) {
			t.Parallel()
			url := deployment.start(t, in)
			d := newDriver(t)
			for name, transport := range transports {
				for _, model := range []string{"echo", "echo-sandbox"} {
					t.Run(name+" "+model, func(t *testing.T) {
						c := d.connect(name+" "+model, url, transport)
						defer c.close()
						job := c.ask(map[string]any{"query": prompt, "model": model, "params": map[string]any{"delay_ms": 1}})
						all := c.finish(job)
						checkComplete(t, all, prompt)
						end := all[len(all)-1]
						if want := int64(len(strings.Fields(prompt))); end.Tokens != want {
							t.Errorf("tokens %d, want %d", end.Tokens, want)
						}
						if end.Model != model || end.Provider != all[0].Provider || end.Provider == "" {
							t.Errorf("provider %q, model %q", end.Provider, end.Model)
						}
						for _, f := range all {
							if f.Attempt != 1 || f.UserID != "anonymous" {
								t.Errorf("seq %d: attempt %d, user %q", f.Seq, f.Attempt, f.UserID)
							}
						}
						// Jobs are announced, queued and started before they answer.
						c.await("job:started:v1", func(e event) bool { return strings.Contains(string(e.Data), job) })
						for _, status := range []string{"queued", "started"} {
							c.await("task:progress:v1", func(e event) bool {
								var f frame
								return json.Unmarshal(e.Data, &f) == nil && f.JobID == job && f.Status == status
							})
						}
						if name == "upgrade" {
							c.await("$upgrade", func(event) bool { return true })
						}
					})
				}
			}
		})
	}
}

// Everything that isn't answer text comes as deltas, in order with the text.
func TestDeltas(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory"}).url
	d := newDriver(t)
	for _, model := range []string{"echo", "echo-sandbox"} {
		t.Run(model, func(t *testing.T) {
			c := d.connect("deltas "+model, url, transports["websocket"])
			job := c.ask(map[string]any{"query": "a b c", "model": model, "params": map[string]any{
				"delay_ms": 1, "reasoning": "let me think", "tool_call": map[string]any{"name": "look", "arguments": map[string]any{"x": 1}},
			}})
			all := c.finish(job)
			if text := checkWhole(t, all, 1); text != "a b c" {
				t.Errorf("text %q", text)
			}
			kinds := map[string]int{}
			for _, f := range all {
				if f.event == "model:delta:v1" {
					kinds[f.Kind]++
				}
			}
			if kinds["reasoning"] == 0 || len(kinds) < 2 {
				t.Errorf("kinds of deltas: %v", kinds)
			}
			if end := all[len(all)-1]; end.FinishReason != "tool_calls" {
				t.Errorf("finishReason %q", end.FinishReason)
			}
		})
	}
}

// A long answer reports its progress between queued and complete.
func TestLongAnswersReportProgress(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_HOST__PROGRESS=100ms"}).url
	c := newDriver(t).connect("a", url, transports["websocket"])
	job := c.ask(map[string]any{"query": "one two three", "params": map[string]any{"delay_ms": 20, "tokens": 30}})
	all := c.finish(job)
	between := 0
	for _, e := range c.seen() {
		var f frame
		if e.Event == "task:progress:v1" && json.Unmarshal(e.Data, &f) == nil && f.JobID == job && f.Status != "queued" && f.Status != "started" {
			between++
		}
	}
	if between == 0 {
		t.Errorf("no progress in %d frames:\n%s", len(all), c.transcript())
	}
}

func TestCancel(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"}).url
	d := newDriver(t)
	for _, model := range []string{"echo", "echo-sandbox"} {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, silent %v", model, silent), func(t *testing.T) {
				c := d.connect(fmt.Sprintf("cancel %s %v", model, silent), url, transports["websocket"])
				params := map[string]any{"delay_ms": 5, "tokens": 100_000}
				if silent {
					params["stall"] = map[string]any{"after": 3}
				}
				job := c.ask(map[string]any{"query": "on and on", "model": model, "params": params})
				c.await("model:chunk:v1", func(event) bool { return true })
				if a := c.emit("CANCEL_TASK", map[string]any{"jobId": job}); !a.OK || a.JobID != job {
					t.Errorf("CANCEL_TASK: %+v", a)
				}
				all := c.finish(job)
				text := checkWhole(t, all, 1)
				end := all[len(all)-1]
				if end.event != "task:cancelled" || end.Text != text || text == "" {
					t.Errorf("it ended with %s, text %q after chunks %q", end.event, tail(end.Text, 100), tail(text, 100))
				}
				// Again: the same answer, and nothing comes after the receipt.
				if a := c.emit("task:cancel:v1", map[string]any{"jobId": job}); !a.OK || a.State != "cancelled" {
					t.Errorf("cancelled twice: %+v", a)
				}
				if more := c.frames(job); len(more) != len(all) {
					t.Errorf("frames after the receipt: %+v", more[len(all):])
				}
			})
		}
	}
}

// A client that comes back with its lastSeq sees the rest, once; the same
// question asked again with its job id starts no second job.
func TestResume(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"}).url
	d := newDriver(t)
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			c := d.connect("first "+name, url, transport)
			payload := map[string]any{
				"query": "again and again", "jobId": "resume-" + name, "params": map[string]any{"delay_ms": 10, "tokens": 100},
			}
			job := c.ask(payload)
			c.await("model:chunk:v1", func(event) bool { return true })
			c.close()
			seen := c.frames(job)
			checkWhole(t, seen, 1)
			last := seen[len(seen)-1]

			again := d.connect("second "+name, url, transport)
			a := again.emit("job:resume:v1", map[string]any{"jobId": job, "lastSeq": last.Seq})
			if !a.OK || a.JobID != job || a.Attempt != 1 {
				t.Fatalf("job:resume:v1: %+v", a)
			}
			// The same question under the same id is the same job, to be watched whole.
			same := d.connect("same "+name, url, transport)
			if a := same.emit("START_SEARCH", payload); !a.OK || a.JobID != job {
				t.Errorf("the same job id again: %+v", a)
			}
			rest := again.finish(job)
			checkWhole(t, rest, last.Seq+1)

			// A third client takes all of it from the log, after the end.
			late := d.connect("third "+name, url, transport)
			if a := late.emit("job:resume:v1", map[string]any{"jobId": job}); !a.OK || a.State != "complete" {
				t.Errorf("resume after the end: %+v", a)
			}
			whole := late.finish(job)
			end := whole[len(whole)-1]
			checkComplete(t, whole, end.Text)
			if want := int64(100); end.Tokens != want {
				t.Errorf("%d tokens, want %d", end.Tokens, want)
			}
			checkComplete(t, same.finish(job), end.Text)
		})
	}
}

// A lost connection comes back by itself, and the client resumes.
func TestResumeAfterALostConnection(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"}).url
	c := newDriver(t).connect("a", url, transports["upgrade"])
	job := c.ask(map[string]any{"query": "through a tunnel", "params": map[string]any{"delay_ms": 20, "tokens": 100}})
	c.await("model:chunk:v1", func(event) bool { return true })
	c.drop()
	c.await("$disconnect", func(event) bool { return true })
	first := c.frames(job)
	greeted := 0
	c.await("connected", func(event) bool { greeted++; return greeted == 2 })
	a := c.emit("job:resume:v1", map[string]any{"jobId": job, "lastSeq": first[len(first)-1].Seq})
	if !a.OK {
		t.Fatalf("job:resume:v1: %+v", a)
	}
	all := c.finish(job)
	checkComplete(t, all, all[len(all)-1].Text)
}

// Every tab of the owner sees the job, from its first frame to its end.
func TestEveryTabOfTheOwner(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"}).url
	d := newDriver(t)
	one, two := d.connect("one", url, transports["websocket"]), d.connect("two", url, transports["polling"])
	job := one.ask(map[string]any{"query": prompt})
	checkComplete(t, one.finish(job), prompt)
	checkComplete(t, two.finish(job), prompt)
}

// A sluice with an embedded server that is stopped in the middle and started
// again finishes what it had accepted.
func TestRestartFinishesWhatWasAccepted(t *testing.T) {
	in := install(t)
	need(t, "redis-server")
	env := []string{"SLUICE_REDIS__EMBEDDED=server", "SLUICE_REDIS__DATA_DIR=" + filepath.Join(t.TempDir(), "redis"), "SLUICE_HOST__GRACE=100ms"}
	first := start(t, in, env)
	d := newDriver(t)
	c := d.connect("before", first.url, transports["websocket"])
	job := c.ask(map[string]any{"query": "to be continued", "params": map[string]any{"delay_ms": 20, "tokens": 200}})
	c.await("model:chunk:v1", func(event) bool { return true })
	first.stop()
	second := start(t, in, env)
	c = d.connect("after", second.url, transports["websocket"])
	if a := c.emit("job:resume:v1", map[string]any{"jobId": job, "lastSeq": 0}); !a.OK {
		t.Fatalf("job:resume:v1: %+v", a)
	}
	all := c.finish(job)
	text := checkWhole(t, all, 1)
	end := all[len(all)-1]
	if end.event != "model:complete:v1" || end.Text != text || end.Tokens == 0 || end.Attempt < 2 {
		t.Errorf("it ended with %s, attempt %d, %d tokens; text of the chunks is the same: %v", end.event, end.Attempt, end.Tokens, end.Text == text)
	}
}

// Redis away for five seconds in the middle: the answer completes.
func TestRedisStopsInTheMiddle(t *testing.T) {
	in := install(t)
	s := redisServer(t)
	env := []string{"SLUICE_REDIS__URL=" + s.url()}
	start(t, in, env, "host")
	url := start(t, in, env, "gateway").url
	d := newDriver(t)
	var jobs []string
	c := d.connect("a", url, transports["websocket"])
	for _, model := range []string{"echo", "echo-sandbox"} {
		jobs = append(jobs, c.ask(map[string]any{"query": "hold the line", "model": model, "params": map[string]any{"delay_ms": 20, "tokens": 400}}))
	}
	for _, job := range jobs {
		c.await("model:chunk:v1", func(e event) bool { return strings.Contains(string(e.Data), job) })
	}
	s.stop()
	away := time.NewTimer(5 * time.Second) // the length of the outage, not a wait for something
	<-away.C
	s.start()
	for _, job := range jobs {
		all := c.finish(job)
		end := all[len(all)-1]
		checkComplete(t, all, end.Text)
		if end.Tokens != 400 {
			t.Errorf("%s: %d tokens, want 400", end.Model, end.Tokens)
		}
	}
}
