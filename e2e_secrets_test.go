package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// descendants lists the processes that a process has started, and theirs.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // its name may hold spaces
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	var all []int
	for next := children[pid]; len(next) > 0; next = next[1:] {
		all = append(all, next[0])
		next = append(next, children[next[0]]...)
	}
	return all
}

// Nothing secret, and nothing of what is asked and answered, is in the log at its
// most talkative; no secret is in what a plugin could see of its process, on a
// command line, in what a client is told, or in Redis, even when an upstream
// sends the key back.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	in := install(t)
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip("no /proc here")
	}
	secrets := map[string]string{
		"redis password": "canary-redis-0a1b2c3d", "auth secret": "canary-auth-4e5f6071-which-is-long-enough",
		"plugin's key": "canary-plugin-8293a4b5", "plugin's key in the environment": "canary-environ-c6d7e8f9",
		"API key": "canary-api-key-13579bdf", "refused token": "canary-refused-2468ace0",
	}
	const question, answer = "canary-question-5555", "canary-answer-6666"

	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got := r.Header.Get("Authorization")
		switch {
		case strings.Contains(string(body), `gpt-denied"`):
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s","code":"invalid_api_key"}}`, got)
		case strings.Contains(string(body), `gpt-broken"`):
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "no JSON, but the key %s", got)
		default:
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, `data: {"choices":[{"index":0,"delta":{"content":"%s %s"},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n", answer, got)
		}
	}))
	defer upstream.Close()

	dir, plugins := t.TempDir(), t.TempDir()
	for _, artifact := range []string{"native", "sandbox"} {
		source, err := os.ReadFile("plugins/openai/" + artifact + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		// Both at once, under names and models of their own.
		manifest := filepath.Join("plugins/openai", "secrets-test-"+artifact+".yaml")
		text := strings.ReplaceAll(strings.Replace(string(source), "name: openai\n", "name: openai-"+artifact+"\n", 1), `"gpt-*"`, `"`+artifact+`/*"`)
		if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(in.binary, "plugin", "build", manifest, filepath.Join(plugins, artifact)).CombinedOutput()
		os.Remove(manifest)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	config := fmt.Sprintf(`redis: {password: %q}
gateway:
  auth: {mode: hs256, secret: %q, keys_file: %q}
plugins:
  config:
    openai-native: &openai
      settings: {base_url: %q}
      secrets: {OPENAI_API_KEY: %q}
      allow_private: ["127.0.0.1"]
    openai-sandbox:
      <<: *openai
      secrets: {OPENAI_API_KEY: "env:CANARY"}
`, secrets["redis password"], secrets["auth secret"], filepath.Join(dir, "keys"), upstream.URL, secrets["plugin's key"])
	for file, text := range map[string]string{
		"sluice.yaml": config,
		"keys":        fmt.Sprintf("%x user=ada\n", sha256.Sum256([]byte(secrets["API key"]))),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := redisServer(t)
	rdb := s.client()
	if err := rdb.ConfigSet(t.Context(), "requirepass", secrets["redis password"]).Err(); err != nil {
		t.Fatal(err)
	}
	p := start(t, in, []string{
		"SLUICE_REDIS__URL=" + s.url(), "SLUICE_CONFIG=" + filepath.Join(dir, "sluice.yaml"), "SLUICE_PLUGINS__DIRS=" + plugins,
		"CANARY=" + secrets["plugin's key in the environment"],
	})

	d := newDriver(t)
	refused := d.open("refused", p.url, map[string]any{"auth": map[string]any{"token": secrets["refused token"]}})
	refused.await("$error", func(event) bool { return true })
	c := d.connect("a", p.url, map[string]any{"transports": []string{"websocket"}, "auth": map[string]any{"token": secrets["API key"]}})
	for _, artifact := range []string{"native", "sandbox"} {
		for _, tt := range []struct{ model, event string }{
			{"plain", "model:complete:v1"}, {"gpt-denied", "model:error:v1"}, {"gpt-broken", "model:error:v1"},
		} {
			all := c.finish(c.ask(map[string]any{"query": question, "model": artifact + "/" + tt.model}))
			end := all[len(all)-1]
			if end.event != tt.event {
				t.Errorf("%s of %s ended with %s %+v", tt.model, artifact, end.event, end)
			}
		}
	}

	seen := map[string]string{"the log": p.log.String(), "what clients are told": ""}
	for _, e := range append(c.seen(), refused.seen()...) {
		seen["what clients are told"] += e.Event + " " + string(e.Data) + "\n"
	}
	for _, pid := range append(descendants(t, p.cmd.Process.Pid), p.cmd.Process.Pid) {
		for _, what := range []string{"cmdline", "environ"} {
			if what == "environ" && pid == p.cmd.Process.Pid {
				continue // its own, where the operator put secrets
			}
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
			if err == nil {
				seen[fmt.Sprintf("%s of process %d", what, pid)] = string(text)
			}
		}
	}
	plugin := regexp.MustCompile(`plugin process started".* pid=(\d+)`).FindStringSubmatch(p.log.String())
	if plugin == nil || seen["environ of process "+plugin[1]] == "" || seen["cmdline of process "+plugin[1]] == "" {
		t.Errorf("too little was looked at: %v", slices.Sorted(maps.Keys(seen)))
	}
	keys, err := rdb.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, key := range keys {
		dump, err := rdb.Dump(t.Context(), key).Result()
		if err != nil {
			continue // it has just gone
		}
		seen["Redis at "+key] = dump
	}
	for where, text := range seen {
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				i := strings.Index(text, secret)
				t.Errorf("the %s is in %s: %q", what, where, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
	for _, word := range []string{question, answer} {
		if i := strings.Index(seen["the log"], word); i >= 0 {
			t.Errorf("%s is in the log: %s", word, seen["the log"][max(0, i-300):min(len(seen["the log"]), i+100)])
		}
	}
	if !strings.Contains(seen["what clients are told"], answer) || !strings.Contains(p.log.String(), "attempt ended") {
		t.Error("what was looked at is not what happened")
	}
}
