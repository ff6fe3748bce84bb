package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What can't be used is refused with a reason, and everything else goes on.
func TestBadInput(t *testing.T) {
	in := install(t)
	p := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_GATEWAY__LIMITS__QUERY=1KiB"})
	c := newDriver(t).connect("a", p.url, transports["websocket"])
	tests := []struct {
		name, event string
		args        []any
		code        string
	}{
		{"no payload", "START_SEARCH", nil, "invalid_payload"},
		{"text", "START_SEARCH", []any{"hello"}, "invalid_payload"},
		{"null", "START_SEARCH", []any{nil}, "invalid_payload"},
		{"list", "search:start:v1", []any{[]int{1, 2}}, "invalid_payload"},
		{"number", "START_SEARCH", []any{7}, "invalid_payload"},
		{"no query", "START_SEARCH", []any{map[string]any{"model": "echo"}}, "query_missing"},
		{"empty query", "START_SEARCH", []any{map[string]any{"query": ""}}, "query_missing"},
		{"blank query", "START_SEARCH", []any{map[string]any{"query": " \n\t "}}, "query_missing"},
		{"long query", "START_SEARCH", []any{map[string]any{"query": strings.Repeat("x", 1025)}}, "query_too_long"},
		{"query of another type", "START_SEARCH", []any{map[string]any{"query": map[string]any{"a": 1}}}, "invalid_payload"},
		{"unknown model", "START_SEARCH", []any{map[string]any{"query": "x", "model": "nobody-serves-this"}}, "unknown_model"},
		{"odd job id", "START_SEARCH", []any{map[string]any{"query": "x", "jobId": "a b"}}, "invalid_job_id"},
		{"odd job id, braces", "START_SEARCH", []any{map[string]any{"query": "x", "jobId": "{x}"}}, "invalid_job_id"},
		{"long job id", "START_SEARCH", []any{map[string]any{"query": "x", "jobId": strings.Repeat("x", 129)}}, "invalid_job_id"},
		{"cancel nothing", "CANCEL_TASK", []any{map[string]any{}}, ""},
		{"cancel of a stranger's job", "CANCEL_TASK", []any{map[string]any{"jobId": "does-not-exist"}}, "not_found"},
		{"cancel with an odd id", "task:cancel:v1", []any{map[string]any{"jobId": "a\x00b"}}, "invalid_job_id"},
		{"resume of nothing", "job:resume:v1", []any{map[string]any{"jobId": "does-not-exist"}}, "not_found"},
		{"resume, text", "job:resume:v1", []any{"x"}, "invalid_payload"},
		{"leave, list", "job:leave:v1", []any{[]any{}}, "invalid_payload"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := c.emit(tt.event, tt.args...)
			if a.OK || a.Error.Code == "" || a.Error.Message == "" || tt.code != "" && a.Error.Code != tt.code {
				t.Errorf("ack %+v, want the code %s", a, tt.code)
			}
		})
	}
	// The same client is served as if nothing had happened.
	job := c.ask(map[string]any{"query": prompt})
	checkComplete(t, c.finish(job), prompt)
	if a := c.emit("START_SEARCH", map[string]any{"query": "x", "model": "nope", "ackId": "mine"}); fmt.Sprint(a.AckID) != "mine" {
		t.Errorf("ackId of a refusal: %v", a.AckID)
	}
}

// The job of another user can't be told from one that doesn't exist.
func TestForeignJobs(t *testing.T) {
	in := install(t)
	const secret = "0123456789abcdef0123456789abcdef"
	p := start(t, in, []string{
		"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_GATEWAY__AUTH__MODE=hs256", "SLUICE_GATEWAY__AUTH__SECRET=" + secret,
	})
	d := newDriver(t)
	as := func(user string) *client {
		token := map[string]any{"token": signedToken(t, secret, user)}
		return d.connect(user, p.url, map[string]any{"transports": []string{"websocket"}, "auth": token})
	}
	alice, mallory := as("alice"), as("mallory")
	job := alice.ask(map[string]any{"query": "private words", "jobId": "alices", "params": map[string]any{"delay_ms": 20, "tokens": 50}})
	for _, name := range []string{"CANCEL_TASK", "job:resume:v1"} {
		foreign := mallory.emit(name, map[string]any{"jobId": job})
		missing := mallory.emit(name, map[string]any{"jobId": "missin"})
		if foreign.OK || foreign.Error.Code != "not_found" || strings.ReplaceAll(foreign.Error.Message, job, "") != strings.ReplaceAll(missing.Error.Message, "missin", "") {
			t.Errorf("%s of a foreign job: %+v; of none: %+v", name, foreign, missing)
		}
	}
	if a := mallory.emit("START_SEARCH", map[string]any{"query": "x", "jobId": job}); a.OK {
		t.Errorf("a foreign id taken over: %+v", a)
	}
	all := alice.finish(job)
	checkComplete(t, all, all[len(all)-1].Text)
	if all[0].UserID != "alice" {
		t.Errorf("user %q", all[0].UserID)
	}
	if leaked := mallory.frames(job); len(leaked) != 0 || strings.Contains(mallory.transcript(), "private") {
		t.Errorf("another user saw:\n%s", mallory.transcript())
	}

	stranger := d.open("stranger", p.url, transports["websocket"])
	stranger.await("$error", func(event) bool { return true })
	forged := d.open("forged", p.url, map[string]any{"auth": map[string]any{"token": signedToken(t, "another secret that is long enough", "alice")}})
	forged.await("$error", func(event) bool { return true })
}

// A plugin that can't be used is said once and harms no other.
func TestBrokenPlugins(t *testing.T) {
	in := install(t)
	plugins := t.TempDir()
	for _, name := range []string{"echo", "echo-sandbox"} {
		if err := os.CopyFS(filepath.Join(plugins, name), os.DirFS(filepath.Join(in.plugins, name))); err != nil {
			t.Fatal(err)
		}
	}
	broken := func(name, base string, change func(dir string, manifest string) string) {
		dir := filepath.Join(plugins, name)
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(in.plugins, base))); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "plugin.yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		renamed := strings.Replace(string(text), "name: "+base, "name: "+name, 1)
		renamed = strings.Replace(renamed, "- name: "+base, "- name: "+name, 1)
		if err := os.WriteFile(path, []byte(change(dir, renamed)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	artifact := func(dir, manifest, content string) string {
		name := field(t, manifest, "artifact")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		return strings.Replace(manifest, field(t, manifest, "sha256"), digest(content), 1)
	}
	broken("wont-start", "echo", func(dir, m string) string { return artifact(dir, m, "#!/bin/sh\necho no such luck >&2\nexit 7\n") })
	broken("no-program", "echo", func(dir, m string) string { return artifact(dir, m, "this is no program") })
	broken("not-wasm", "echo-sandbox", func(dir, m string) string { return artifact(dir, m, "this is no module") })
	broken("tampered", "echo", func(dir, m string) string {
		return strings.Replace(m, field(t, m, "sha256"), digest("something else"), 1)
	})
	broken("other-protocol", "echo", func(dir, m string) string {
		return strings.Replace(m, "protocol: "+field(t, m, "protocol"), "protocol: 99", 1)
	})
	broken("not-yaml", "echo", func(string, string) string { return "name: [" })

	p := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_PLUGINS__DIRS=" + plugins, "SLUICE_LOG__LEVEL=info"})
	c := newDriver(t).connect("a", p.url, transports["websocket"])
	for _, model := range []string{"echo", "echo-sandbox"} {
		job := c.ask(map[string]any{"query": prompt, "model": model})
		checkComplete(t, c.finish(job), prompt)
	}
	for _, name := range []string{"wont-start", "no-program", "not-wasm", "tampered", "other-protocol", "not-yaml"} {
		said := 0
		for line := range strings.Lines(p.log.String()) {
			if strings.Contains(line, name) && (strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN")) {
				said++
			}
		}
		if said == 0 {
			t.Errorf("the log doesn't say that %s can't be used", name)
		}
	}
}

// What older workers publish reaches the client, once per message.
func TestLegacyPublishers(t *testing.T) {
	in := install(t)
	s := redisServer(t)
	p := start(t, in, []string{"SLUICE_REDIS__URL=" + s.url()}, "gateway")
	c := newDriver(t).connect("a", p.url, transports["websocket"])
	rdb := s.client()
	const job = "legacy-1"
	publish := func(channel string, message any) {
		t.Helper()
		text, ok := message.(string)
		if !ok {
			b, err := json.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if err := rdb.Publish(t.Context(), channel, text).Err(); err != nil {
			t.Fatal(err)
		}
	}
	direct := func(i int) map[string]any {
		return map[string]any{"jobId": job, "userId": "anonymous", "chunk": fmt.Sprintf("c%d ", i), "index": i, "total": 6}
	}
	wrapped := func(event string, data any) map[string]any {
		return map[string]any{"event": event, "data": data, "timestamp": 1}
	}
	for i := range 6 {
		message := any(direct(i))
		if i%2 == 1 {
			message = wrapped("model:chunk:v1", direct(i))
		}
		switch i / 2 {
		case 0:
			publish("model:chunk", message)
		case 1: // both kinds of channel: once, not twice
			publish("model:chunk", message)
			publish("job:"+job, message)
		case 2:
			publish("job:"+job, message)
			publish("model:chunk", message)
		}
		publish("model:chunk", "{malformed")
		publish("job:"+job, `[1, "two"]`)
		publish("model:chunk", map[string]any{"userId": 7, "chunk": []int{1}})
	}
	done := map[string]any{"jobId": job, "userId": "anonymous", "text": "all", "tokens": 6, "duration": 1}
	publish("model:complete", wrapped("model:complete:v1", done))
	c.await("model:complete:v1", func(e event) bool { return strings.Contains(string(e.Data), job) })
	var got []string
	for _, e := range c.seen() {
		var f frame
		if e.Event == "model:chunk:v1" && json.Unmarshal(e.Data, &f) == nil && f.JobID == job {
			got = append(got, strings.TrimSpace(f.Chunk))
		}
	}
	if want := "c0 c1 c2 c3 c4 c5"; strings.Join(got, " ") != want {
		t.Errorf("chunks %v, want %s", got, want)
	}
}
