package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// listen follows channels of a Redis until the test ends, and returns what has
// been published on each when it is called.
func listen(t *testing.T, rdb *redis.Client, channels, patterns []string) func() map[string][]string {
	t.Helper()
	sub := rdb.Subscribe(t.Context(), append(channels, "the end")...)
	if err := sub.PSubscribe(t.Context(), patterns...); err != nil {
		t.Fatal(err)
	}
	for range len(channels) + 1 + len(patterns) { // until all are confirmed
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	heard, ended := map[string][]string{}, make(chan struct{})
	go func() {
		defer close(ended)
		for m := range sub.Channel(redis.WithChannelSize(10_000)) {
			if m.Channel == "the end" {
				return
			}
			heard[m.Channel] = append(heard[m.Channel], m.Payload)
		}
	}()
	t.Cleanup(func() { sub.Close() })
	return func() map[string][]string {
		t.Helper()
		if err := rdb.Publish(t.Context(), "the end", "").Err(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the subscription is silent")
		}
		return heard
	}
}

// The client and the monitors of the stack before work unchanged: an old browser
// client, on both versions of its library, sees its events with the fields it
// reads, and plain subscribers of the general channels and of job:<id> see the
// same frames.
func TestOldClientsAndSubscribers(t *testing.T) {
	in := install(t)
	node := need(t, "node")
	if _, err := os.Stat("testdata/node/node_modules/socket.io-client-3"); err != nil && !required() {
		t.Skip("testdata/node has no socket.io-client-3; run: npm ci --prefix testdata/node")
	}
	for _, library := range []string{"socket.io-client", "socket.io-client-3"} {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			s := redisServer(t)
			rdb := s.client()
			heard := listen(t, rdb, []string{"model:chunk", "model:complete"}, []string{"job:*"}) // job:progress too
			url := start(t, in, []string{"SLUICE_REDIS__URL=" + s.url()}).url

			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, node, "old.mjs", library, url)
			cmd.Dir, cmd.Stderr = "testdata/node", os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var report struct {
				How  string
				Seen []struct {
					Event string
					Data  map[string]any
				}
			}
			if err := json.Unmarshal(out, &report); err != nil || report.How != "done" {
				t.Fatalf("it ended with %q, %v\n%s", report.How, err, tail(string(out), 3000))
			}

			events := map[string][]map[string]any{} // by job and name
			seen := map[string]map[string]any{}     // frames, by job and seq
			var jobs []string
			for _, e := range report.Seen {
				id, _ := e.Data["jobId"].(string)
				if e.Event == "job:started:v1" {
					jobs = append(jobs, id)
				}
				events[id+" "+e.Event] = append(events[id+" "+e.Event], e.Data)
				if seq, ok := e.Data["seq"].(float64); ok {
					key := id + " " + e.Event + " " + text(seq)
					if seen[key] != nil {
						t.Errorf("%s came twice", key)
					}
					seen[key] = e.Data
				}
			}
			if len(jobs) != 2 {
				t.Fatalf("jobs %v", jobs)
			}
			has := func(job, event string, fields ...string) map[string]any {
				t.Helper()
				all := events[job+" "+event]
				if len(all) == 0 {
					t.Errorf("no %s of %q", event, job)
					return nil
				}
				for _, field := range fields {
					if _, ok := all[0][field]; !ok {
						t.Errorf("%s has no %s: %v", event, field, all[0])
					}
				}
				return all[0]
			}
			has("", "connected", "sessionId", "userId", "timestamp")
			has("", "error", "code", "message")
			answer := ""
			for i, chunk := range events[jobs[0]+" model:chunk:v1"] {
				if total, there := chunk["total"]; chunk["index"] != float64(i) || total != nil || !there {
					t.Errorf("chunk %d is %v", i, chunk)
				}
				answer += chunk["chunk"].(string)
			}
			if answer != "What is in the box today" {
				t.Errorf("the chunks say %q", answer)
			}
			for _, job := range jobs {
				has(job, "job:started:v1", "query", "model")
				has(job, "model:start:v1", "userId", "model")
				has(job, "model:chunk:v1", "userId", "chunk", "index", "total")
				has(job, "task:progress:v1", "userId", "progress", "status", "message")
			}
			if end := has(jobs[0], "model:complete:v1", "userId", "text", "tokens", "duration"); end != nil && end["text"] != answer {
				t.Errorf("the end is %v", end)
			}
			has(jobs[1], "task:cancelled")
			if len(events[jobs[1]+" model:complete:v1"])+len(events[jobs[1]+" model:error:v1"]) > 0 {
				t.Error("a cancelled job has another end")
			}

			// What subscribers see: each frame on the job's channel and on one general channel, the same.
			for channel, payloads := range heard() {
				for _, payload := range payloads {
					var frame struct {
						Event     string
						Data      map[string]any
						Timestamp int64
					}
					if err := json.Unmarshal([]byte(payload), &frame); err != nil || frame.Timestamp == 0 {
						t.Errorf("%s carried %s: %v", channel, payload, err)
						continue
					}
					id, _ := frame.Data["jobId"].(string)
					seq, logged := frame.Data["seq"].(float64)
					if strings.HasPrefix(channel, "job:") && channel != "job:progress" && channel != "job:"+id {
						t.Errorf("%s carried a frame of %s", channel, id)
					}
					if !logged {
						continue
					}
					key := id + " " + frame.Event + " " + text(seq)
					if data := seen[key]; data == nil {
						t.Errorf("%s carried %s, which the client never saw", channel, key)
					} else if !reflect.DeepEqual(data, frame.Data) {
						t.Errorf("%s carried %s as %v, the client saw %v", channel, key, frame.Data, data)
					} else {
						events["heard "+key] = append(events["heard "+key], data)
					}
				}
			}
			for key := range seen {
				if n := len(events["heard "+key]); n != 2 {
					t.Errorf("%s was on %d channels", key, n)
				}
			}
		})
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
