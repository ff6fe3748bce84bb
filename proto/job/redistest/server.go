// Package redistest starts the Redis servers that tests run on: one, with a
// replica and Sentinels beside it, or a Cluster. They live in folders of their
// own, listen on loopback or unix sockets alone, and end with the test, on Linux
// even with one that is killed.
//
// The program is redis-server, or what SLUICE_REDIS_SERVER names: with
// SLUICE_REDIS_SERVER=valkey-server the tests run on Valkey. Without the
// program a test that needs it is skipped; with SLUICE_REQUIRE set it fails.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to answer: only a failure ever waits for so long.
const patience = 60 * time.Second

// Program finds the server's program, or skips the test.
func Program(t testing.TB) string {
	t.Helper()
	name := os.Getenv("SLUICE_REDIS_SERVER")
	if name == "" {
		name = "redis-server"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SLUICE_REQUIRE") != "" || os.Getenv("SLUICE_REDIS_SERVER") != "" {
			t.Fatalf("%s is required: %v", name, err)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// A Server can be killed and started again, with what it has on disk. Its
// methods may be called by any goroutine.
type Server struct {
	// Addr is the path of a unix socket, or host and port.
	Addr string
	// Dir has the data.
	Dir string

	program string
	args    []string

	mu  sync.Mutex
	cmd *exec.Cmd
	out *bytes.Buffer
}

// Start starts a server on a unix socket, which keeps nothing on disk unless
// args say so.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	dir := folder(t)
	s := &Server{Addr: filepath.Join(dir, "s"), Dir: dir, program: Program(t)}
	s.args = append([]string{"--port", "0", "--unixsocket", s.Addr, "--dir", dir, "--save", ""}, args...)
	s.run(t)
	return s
}

// StartTCP is Start for a server on a port of loopback.
func StartTCP(t testing.TB, args ...string) *Server {
	t.Helper()
	dir := folder(t)
	s := &Server{Addr: freeAddr(t), Dir: dir, program: Program(t)}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", ""}, args...)
	s.run(t)
	return s
}

func (s *Server) run(t testing.TB) {
	t.Helper()
	t.Cleanup(s.Kill)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
}

// folder makes a folder whose path is short: the name of a unix socket must be.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Start returns when the server answers and has its data loaded.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = &bytes.Buffer{}
	s.cmd = exec.Command(s.program, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := Launch(s.cmd); err != nil {
		return fmt.Errorf("start a Redis: %w", err)
	}
	end := time.Now().Add(patience)
	for !answers(s.Addr) {
		if time.Now().After(end) {
			s.kill()
			return fmt.Errorf("%s does not answer: %s", strings.Join(s.cmd.Args, " "), s.out)
		}
		<-time.After(3 * time.Millisecond)
	}
	return nil
}

// Kill ends the server as a crash does. One that has ended is left alone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

func (s *Server) kill() {
	if s.cmd != nil && s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// Signal sends the server a signal: SIGSTOP and SIGCONT stall it.
func (s *Server) Signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Signal(sig)
}

// answers tells whether a Redis is ready at an address, on a connection of its
// own: go-redis's pool would wait a second after some that were refused.
func answers(addr string) bool {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	reply := make([]byte, 5)
	_, err = io.ReadFull(conn, reply)
	return err == nil && string(reply) == "+PONG" // it says -LOADING until then
}

// freeAddr is an address of loopback that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// until polls what no event tells of.
func until(t testing.TB, what string, holds func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s: %v", what, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}
