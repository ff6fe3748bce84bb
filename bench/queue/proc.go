package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server is the redis-server of this run: on loopback, with an append-only
// file, as a deployment would have it. That is not rewritten meanwhile: whose
// turn it would slow down is chance.
type server struct {
	port int
	dir  string
	cmd  *exec.Cmd
}

func startRedis(ctx context.Context) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{port: l.Addr().(*net.TCPAddr).Port}
	l.Close()
	if s.dir, err = os.MkdirTemp("", "bench-redis"); err != nil {
		return nil, err
	}
	s.cmd = exec.Command("redis-server", "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
		"--auto-aof-rewrite-percentage", "0")
	if err := s.cmd.Start(); err != nil {
		os.RemoveAll(s.dir)
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	for range 500 {
		conn, err := net.Dial("tcp", s.addr())
		if err == nil {
			conn.Close()
			return s, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	s.stop()
	return nil, errors.New("redis-server does not answer")
}

func (s *server) addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

func (s *server) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.addr(), PoolSize: 40})
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	os.RemoveAll(s.dir)
}

//go:embed bullmq/package.json bullmq/package-lock.json bullmq/worker.js
var bullmq embed.FS

// A node is the process that runs BullMQ.
type node struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startNode installs BullMQ as its lock file says, unless that was done before,
// and starts it.
func startNode(ctx context.Context, port int, stderr io.Writer) (*node, error) {
	lock, err := bullmq.ReadFile("bullmq/package-lock.json")
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "sluice-bench", hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"package.json", "package-lock.json", "worker.js"} {
		data, err := bullmq.ReadFile("bullmq/" + name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return nil, err
		}
	}
	ready := filepath.Join(dir, "ready")
	if _, err := os.Stat(ready); err != nil {
		// Not "npm ci": it wants the lock file to name the optional packages of all
		// other platforms too, which no registry need have.
		npm := exec.CommandContext(ctx, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund")
		npm.Dir, npm.Stderr = dir, stderr
		if err := npm.Run(); err != nil {
			return nil, fmt.Errorf("install BullMQ: %w", err)
		}
		if err := os.WriteFile(ready, nil, 0o644); err != nil {
			return nil, err
		}
	}
	n := &node{cmd: exec.Command("node", "worker.js", "127.0.0.1", strconv.Itoa(port))}
	n.cmd.Dir, n.cmd.Stderr = dir, stderr
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	n.out = bufio.NewReader(out)
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	return n, nil
}

func (n *node) stop() {
	n.in.Close()
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// An answer of worker.js.
type answer struct {
	MS      []float64 `json:"ms"`
	Seconds float64   `json:"seconds"`
	Error   string    `json:"error"`
}

func (n *node) ask(request map[string]any) (answer, error) {
	line, err := json.Marshal(request)
	if err != nil {
		return answer{}, err
	}
	if _, err := n.in.Write(append(line, '\n')); err != nil {
		return answer{}, fmt.Errorf("ask BullMQ: %w", err)
	}
	line, err = n.out.ReadBytes('\n')
	if err != nil {
		return answer{}, fmt.Errorf("hear BullMQ: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{}, fmt.Errorf("hear BullMQ: %w", err)
	}
	if a.Error != "" {
		return answer{}, fmt.Errorf("BullMQ: %s", a.Error)
	}
	return a, nil
}
