package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// signedToken is an HS256 JWT, made by hand: RFC 7515, appendix A.1.
func signedToken(t *testing.T, secret, user string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"sub": user, "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	body := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return body + "." + encode(mac.Sum(nil))
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// field reads a top-level field of a manifest's text.
func field(t *testing.T, manifest, name string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + `:\s*"?([^"\s]+)"?\s*$`).FindStringSubmatch(manifest)
	if found == nil {
		t.Fatalf("no %s in:\n%s", name, manifest)
	}
	return found[1]
}

func TestWords(t *testing.T) {
	t.Chdir(t.TempDir())
	good, bad := "good.yaml", "bad.yaml"
	if err := errors.Join(os.WriteFile(good, []byte("log: {level: debug}"), 0o600), os.WriteFile(bad, []byte("log:\n  level: loud\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args  []string
		out   string // part of the output
		err   string // part of the error; "" wants none
		usage bool
	}{
		{args: []string{"version"}, out: "sluice "},
		{args: []string{"--version"}, out: "sluice "},
		{args: []string{"help"}, out: "sluice gateway"},
		{args: []string{"--help"}, out: "sluice gateway"},
		{args: []string{"host", "-h"}, out: "sluice gateway"},
		{args: []string{"help", "settings"}, out: "gateway.addr"},
		{args: []string{"help", "plugin"}, out: "sluice plugin new"},
		{args: []string{"help", "cooking"}, err: `no help about "cooking"`, usage: true},
		{args: []string{"check"}, out: "can be used"},
		{args: []string{"check", good}, out: "can be used"},
		{args: []string{"check", "--config", good}, out: "can be used"},
		{args: []string{"check", bad}, err: `bad.yaml:2: log.level = "loud" is not debug, info, warn or error`},
		{args: []string{"check", "missing.yaml"}, err: "missing.yaml"},
		{args: []string{"check", good, bad}, err: "one file", usage: true},
		{args: []string{"--config", bad}, err: "bad.yaml:2"},
		{args: []string{"hots"}, err: `what is "hots"?`, usage: true},
		{args: []string{"host", "now"}, err: `what is "now"?`, usage: true},
		{args: []string{"--gateway.adr=x"}, err: "gateway.adr", usage: true},
		{args: []string{"host"}, err: "redis.url is not set"},
		{args: []string{"gateway"}, err: "redis.url is not set"},
		{args: []string{"--gateway.addr=0.0.0.0:0"}, err: "gateway.auth.mode is none"},
		{args: []string{"plugin"}, err: "sluice plugin build MANIFEST FOLDER", usage: true},
		{args: []string{"plugin", "build", "missing.yaml", "out"}, err: "missing.yaml"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			var out, log bytes.Buffer
			err := run(t.Context(), tt.args, &out, &log)
			var usage *usageError
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("error lacks %q: %v", tt.err, err)
			case errors.As(err, &usage) != tt.usage:
				t.Errorf("%v is of type %T", err, err)
			case !strings.Contains(out.String(), tt.out):
				t.Errorf("output lacks %q: %s", tt.out, &out)
			}
		})
	}
}

func TestTakenAddress(t *testing.T) {
	t.Chdir(t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out, log bytes.Buffer
	err = run(t.Context(), []string{"--gateway.addr", l.Addr().String(), "--redis.embedded", "memory", "--plugins.dirs", t.TempDir()}, &out, &log)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is taken") || !strings.Contains(err.Error(), "--gateway.addr 127.0.0.1:0") {
		t.Errorf("error %v\n%s", err, &log)
	}
	// 192.0.2.0/24 is nobody's: RFC 5737.
	err = run(t.Context(), []string{"--gateway.addr", "192.0.2.1:0", "--gateway.auth.insecure_public", "--redis.embedded", "memory", "--plugins.dirs", t.TempDir()}, &out, &log)
	if err == nil || !strings.Contains(err.Error(), "192.0.2.1:0 is no address of this machine") {
		t.Errorf("error %v\n%s", err, &log)
	}
}

// A configured Redis that is away is waited for, and the password of its URL
// is nowhere in the log.
func TestRedisIsWaitedFor(t *testing.T) {
	in := install(t)
	dir := t.TempDir()
	s := &server{t: t, dir: dir, socket: filepath.Join(dir, "r.sock")}
	p := launch(t, in, []string{"SLUICE_REDIS__URL=unix://:hunter2@" + s.socket, "SLUICE_LOG__LEVEL=debug"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := p.log.find(ctx, "redis does not answer, trying again"); err != nil {
		t.Fatal(err)
	}
	need(t, "redis-server")
	s.start()
	t.Cleanup(s.stop)
	rdb := s.client()
	if err := rdb.ConfigSet(t.Context(), "requirepass", "hunter2").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.log.find(ctx, "Sluice is ready"); err != nil {
		t.Fatal(err)
	}
	p.stop()
	if strings.Contains(p.log.String(), "hunter2") {
		t.Error("the log shows the password")
	}
}

// A second signal ends it at once, with the code a shell expects.
func TestSecondSignal(t *testing.T) {
	in := install(t)
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		t.Run(signal.String(), func(t *testing.T) {
			p := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=memory", "SLUICE_HOST__GRACE=10m"})
			c := newDriver(t).connect("a", p.url, transports["websocket"])
			c.ask(map[string]any{"query": "x", "params": map[string]any{"delay_ms": 1, "stall": map[string]any{"after": 1}}})
			c.await("model:chunk:v1", func(event) bool { return true })
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := p.log.find(ctx, "a second signal ends it at once"); err != nil {
				t.Fatal(err)
			}
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = p.wait()
			if got := p.cmd.ProcessState.ExitCode(); got != code {
				t.Errorf("exit code %d, want %d", got, code)
			}
		})
	}
}

// One signal stops it in order, and says so with its exit code.
func TestOrderlyStop(t *testing.T) {
	in := install(t)
	p := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"})
	p.stop()
	if strings.Contains(p.log.String(), "level=ERROR") {
		t.Errorf("an orderly stop logs errors:\n%s", p.log)
	}
}
