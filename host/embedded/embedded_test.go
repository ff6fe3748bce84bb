package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// roleVariable makes this test binary play the parent that gets killed.
const roleVariable = "SLUICE_TEST_EMBEDDED_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(roleVariable); dir != "" {
		err := Run(context.Background(), Options{Mode: Server, Dir: dir, Log: slog.New(slog.DiscardHandler)}, func(Instance) {
			fmt.Println("ready")
		})
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// needServer skips a test without a server to run, except where none may be skipped.
func needServer(t *testing.T) {
	t.Helper()
	for _, name := range servers {
		if _, err := exec.LookPath(name); err == nil {
			return
		}
	}
	if os.Getenv("SLUICE_REQUIRE") != "" {
		t.Fatal(ErrNoServer)
	}
	t.Skip(ErrNoServer)
}

// start runs a Redis for the length of a test, or until stop.
func start(t *testing.T, mode, dir string) (instance Instance, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan Instance, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Mode: mode, Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, func(i Instance) { ready <- i })
	}()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	select {
	case instance = <-ready:
	case err := <-ended:
		stopped = true
		cancel()
		t.Fatalf("start: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("not ready after 30 s")
	}
	return instance, stop
}

func client(t *testing.T, i Instance) redis.UniversalClient {
	t.Helper()
	c := redis.NewUniversalClient(i.Redis)
	t.Cleanup(func() { c.Close() })
	return c
}

// childPID asks the server who it is.
func childPID(t *testing.T, c redis.UniversalClient) int {
	t.Helper()
	info, err := c.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(info) {
		if pid, ok := strings.CutPrefix(line, "process_id:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(pid))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("INFO names no process_id")
	return 0
}

// eventually polls a condition that no event announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("still not: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestMemory(t *testing.T) {
	i, stop := start(t, Memory, "")
	if i.Durable {
		t.Error("memory claims to be durable")
	}
	c := client(t, i)
	if err := c.Set(t.Context(), "k", "v", 150*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key expires by itself", func() bool {
		return errors.Is(c.Get(t.Context(), "k").Err(), redis.Nil)
	})
	o := *i.Redis
	o.Password = ""
	stranger := redis.NewUniversalClient(&o)
	defer stranger.Close()
	if err := stranger.Get(t.Context(), "k").Err(); err == nil || errors.Is(err, redis.Nil) {
		t.Errorf("without the password: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := c.Ping(t.Context()).Err(); err == nil {
		t.Error("answers after it was stopped")
	}
}

func TestServerKeepsDataOverRestart(t *testing.T) {
	needServer(t)
	dir := filepath.Join(t.TempDir(), "made", "here")
	i, stop := start(t, Auto, dir)
	if !i.Durable {
		t.Fatalf("auto chose %s", i.Name)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v", info.Mode(), err)
	}
	if err := client(t, i).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	i, _ = start(t, Auto, dir)
	if v, err := client(t, i).Get(t.Context(), "k").Result(); v != "v" {
		t.Errorf("after a restart: %q, %v", v, err)
	}
}

func TestServerIsStartedAgain(t *testing.T) {
	needServer(t)
	i, _ := start(t, Server, t.TempDir())
	c := client(t, i)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	// Redis answers before it has handed a command to the kernel, if an fsync is under way.
	eventually(t, "the command is in the file", func() bool {
		info, err := c.Info(t.Context(), "persistence").Result()
		return err == nil && strings.Contains(info, "aof_buffer_length:0\r")
	})
	pid := childPID(t, c)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server answers again", func() bool { return c.Ping(t.Context()).Err() == nil })
	if again := childPID(t, c); again == pid {
		t.Error("the same process answers")
	}
	// The kernel has what was written even when the process is killed.
	if v, err := c.Get(t.Context(), "k").Result(); v != "v" {
		t.Errorf("after a kill: %q, %v", v, err)
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	needServer(t)
	dir := t.TempDir()
	i, _ := start(t, Server, dir)
	err := Run(t.Context(), Options{Mode: Server, Dir: dir, Log: slog.New(slog.DiscardHandler)}, func(Instance) {
		t.Error("a second owner is ready")
	})
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), "redis.data_dir") {
		t.Errorf("second owner: %v", err)
	}
	if err := client(t, i).Ping(t.Context()).Err(); err != nil {
		t.Errorf("the first owner suffers: %v", err)
	}
}

// A sluice that is killed takes its server along, and the next one finds the
// data and no second server on them.
func TestParentIsKilled(t *testing.T) {
	needServer(t)
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), roleVariable+"="+dir)
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("ready\n"))
	if _, err := output.Read(line); err != nil || string(line) != "ready\n" {
		t.Fatalf("parent says %q, %v", line, err)
	}
	i := Instance{Redis: &redis.UniversalOptions{Addrs: []string{filepath.Join(dir, socketName)}}}
	c := client(t, i)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	pid := childPID(t, c)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	i, _ = start(t, Server, dir) // at once: the old server may still be ending
	if syscall.Kill(pid, 0) == nil {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Error("the old server still runs beside the new one")
		}
	}
	if v, err := client(t, i).Get(t.Context(), "k").Result(); v != "v" {
		t.Errorf("after a kill of the parent: %q, %v", v, err)
	}
	_ = parent.Wait()
}

func TestLongFolderName(t *testing.T) {
	needServer(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	i, stop := start(t, Server, dir)
	if err := client(t, i).Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	socket := i.Redis.Addrs[0]
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's folder stays: %v", err)
	}
}

func TestServerThatCannotStart(t *testing.T) {
	programs := t.TempDir()
	script := "#!/bin/sh\necho the reason >&2\nexit 3\n"
	if err := os.WriteFile(filepath.Join(programs, "redis-server"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":/bin:/usr/bin/nowhere")
	if _, err := exec.LookPath("valkey-server"); err == nil {
		t.Skip("valkey-server in /bin comes first")
	}
	err := Run(t.Context(), Options{Mode: Auto, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, func(Instance) {
		t.Error("ready")
	})
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error says nothing: %v", err)
	}
}

func TestWithoutAnyServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	i, _ := start(t, Auto, t.TempDir())
	if i.Name != Memory || i.Durable {
		t.Errorf("auto without a server on the PATH is %+v", i)
	}
	err := Run(t.Context(), Options{Mode: Server, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, nil)
	if !errors.Is(err, ErrNoServer) {
		t.Errorf("server without one on the PATH: %v", err)
	}
}
