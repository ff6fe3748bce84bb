package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The smallest plugin is one source and two artifacts, and both answer.
func TestSmallestPlugin(t *testing.T) {
	in := install(t)
	plugins := t.TempDir()
	for name, manifest := range map[string]string{"shout": "native.yaml", "shout-sandbox": "sandbox.yaml"} {
		out, err := exec.Command(in.binary, "plugin", "build", filepath.Join("examples/smallest", manifest), filepath.Join(plugins, name)).CombinedOutput()
		if err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	if n := strings.Count(read(t, "examples/smallest/main.go"), "\n"); n > 40 {
		t.Errorf("the smallest plugin has grown to %d lines", n)
	}
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_PLUGINS__DIRS=" + plugins, "SLUICE_GATEWAY__DEFAULT_MODEL=shout"}).url
	c := newDriver(t).connect("a", url, transports["websocket"])
	for _, payload := range []map[string]any{{"query": "hello world"}, {"query": "hello world", "model": "shout-sandbox"}} {
		checkComplete(t, c.finish(c.ask(payload)), "HELLO WORLD ")
	}
}

// The Node client prints the answer.
func TestNodeClient(t *testing.T) {
	in := install(t)
	node := need(t, "node")
	if _, err := os.Stat("examples/node-client/node_modules"); err != nil && !required() {
		t.Skip("examples/node-client has no node_modules; run: npm ci --prefix examples/node-client")
	}
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory"}).url
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "client.mjs", "Hello", "from", "a", "test")
	cmd.Dir = "examples/node-client"
	cmd.Env = append(cleanEnvironment(), "SLUICE_URL="+url)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "Hello from a test\n(echo: 4 tokens in ") {
		t.Errorf("it prints %q, %v", out, err)
	}
}

// It says so when an answer begins again, since what it printed before no longer counts.
func TestNodeClientIsToldOfAnotherAttempt(t *testing.T) {
	in := install(t)
	node, pkill := need(t, "node"), need(t, "pkill")
	cache := t.TempDir() // known by its path among all plugins of the machine
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_PLUGINS__CACHE_DIR=" + cache}).url
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "client.mjs", strings.Repeat("word ", 60))
	cmd.Dir = "examples/node-client"
	cmd.Env = append(cleanEnvironment(), "SLUICE_URL="+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 10)
	if _, err := io.ReadFull(out, first); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(pkill, "-9", "-f", "^"+cache+"/store/").Run(); err != nil {
		t.Fatalf("kill the plugin: %v", err)
	}
	rest, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	_, again, ok := strings.Cut(string(rest), "\n(again, from the start)\n")
	if !ok || !strings.HasPrefix(again, strings.Repeat("word ", 59)+"word") {
		t.Errorf("it prints %s%s", first, rest)
	}
}

// The benchmark runs; its figures are looked at by people.
func TestBenchmarkRuns(t *testing.T) {
	in := install(t)
	out, err := exec.Command("go", "run", "./bench/firstchunk", "-plugins", in.plugins, "-cache", in.cache, "-rounds", "3", "-tokens", "200").CombinedOutput()
	if err != nil || strings.Count(string(out), "ms") < 3 {
		t.Errorf("%v\n%s", err, out)
	}
}
