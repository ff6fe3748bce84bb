package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/config"
)

// A hangup has the plugins looked at and the configuration read again, and ends
// nothing: a broken file is complained of with its line, and what was in force
// stays.
func TestHangup(t *testing.T) {
	in := install(t)
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("host:\n  concurrency: 3\n")
	p := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_CONFIG=" + file})
	c := newDriver(t).connect("a", p.url, transports["websocket"])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hangup := func(want ...string) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for _, line := range want {
			if _, err := p.log.find(ctx, line); err != nil {
				t.Fatal(err)
			}
		}
	}
	hangup("looking for plugins again", "configuration read again")
	write("host:\n  concurrency: 3\n  grase: 1s\n")
	hangup(`configuration can't be used, the one before stays" error="\S*sluice.yaml:3: host.grase is not a setting; did you mean host.grace\?"`)
	write("host:\n  concurrency: 4\n")
	hangup("settings have changed that take a restart.* keys=host.concurrency")
	checkComplete(t, c.finish(c.ask(map[string]any{"query": prompt, "params": map[string]any{"delay_ms": 1}})), prompt)
	p.stop()
}

// A gateway and a process that waits for its Redis aren't ended by a hangup
// either.
func TestHangupOfAGateway(t *testing.T) {
	in := install(t)
	s := redisServer(t)
	s.stop()
	p := launch(t, in, []string{"SLUICE_REDIS__URL=" + s.url()}, "gateway")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, step := range []struct {
		line string
		then func()
	}{
		{"redis does not answer", func() { s.start() }},
		{"Sluice is ready", func() {}},
	} {
		if _, err := p.log.find(ctx, step.line); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		step.then()
	}
	if _, err := p.log.find(ctx, "(?s)configuration read again.*configuration read again"); err != nil {
		t.Error(err)
	}
	p.stop()
}

func TestLevelChangesWhileItRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	var out bytes.Buffer
	s := &service{config: config.Default(), sources: config.Sources{File: file}}
	s.log = newLog(s.config.Log, &s.level, &out)
	if err := besideBinary(&s.config); err != nil {
		t.Fatal(err)
	}
	level := s.config.Log.Level
	for _, step := range []struct{ text, want string }{
		{"log: {level: debug}", "DEBUG"},
		{"log: {level: nonsense}", "DEBUG"},
		{"log: {level: info, format: json}", "INFO"},
	} {
		if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		level = s.reread(level)
		if s.level.Level().String() != step.want {
			t.Errorf("with %s the level is %s", step.text, s.level.Level())
		}
	}
	if !strings.Contains(out.String(), "keys=log.format") {
		t.Errorf("the log says %s", &out)
	}
}
