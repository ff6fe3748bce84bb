package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job/redistest"
)

// patience bounds every wait of these tests. It is long because it only matters
// when something is broken: the machine may be slow.
const patience = 90 * time.Second

// required makes a missing tool a failure instead of a skipped test.
func required() bool { return os.Getenv("SLUICE_REQUIRE") != "" }

func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if required() {
		t.Fatalf("%s is not installed; make test says how", program)
	}
	t.Skipf("%s is not installed", program)
	return ""
}

// installation is what `make run` builds: the binary and its plugins.
type installation struct {
	dir, binary, plugins, cache string
}

var installed = sync.OnceValues(func() (installation, error) {
	dir, err := os.MkdirTemp("", "sluice-e2e-")
	if err != nil {
		return installation{}, err
	}
	in := installation{
		dir: dir, binary: filepath.Join(dir, "sluice"),
		plugins: filepath.Join(dir, "plugins"), cache: filepath.Join(dir, "cache"),
	}
	if out, err := exec.Command("go", "build", "-o", in.binary, ".").CombinedOutput(); err != nil {
		return in, fmt.Errorf("build sluice: %w\n%s", err, out)
	}
	for name, source := range map[string]string{
		"echo":         "plugins/echo/native.yaml",
		"echo-sandbox": "plugins/echo/sandbox.yaml",
	} {
		out, err := exec.Command(in.binary, "plugin", "build", source, filepath.Join(in.plugins, name)).CombinedOutput()
		if err != nil {
			return in, fmt.Errorf("build plugin %s: %w\n%s", name, err, out)
		}
	}
	return in, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		if in, err := installed(); err == nil {
			os.RemoveAll(in.dir)
		}
	}
	os.Exit(code)
}

// built says whether a test asked for the installation.
var built bool

func install(t *testing.T) installation {
	t.Helper()
	if testing.Short() {
		t.Skip("end to end")
	}
	built = true
	in, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// process is a running sluice.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	url     string // of a gateway
	log     *logBuffer
	exited  chan struct{}
	waitErr error
	role    string // the word it was started with
}

// logBuffer keeps what a process prints and lets tests wait for a line.
type logBuffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p)
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// find waits until the pattern matches, and returns its submatches.
func (b *logBuffer) find(ctx context.Context, pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	for {
		b.mu.Lock()
		found := re.FindStringSubmatch(b.text.String())
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		if found != nil {
			return found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing like %q in:\n%s", pattern, b.String())
		}
	}
}

// start runs the binary with args until the test ends, and waits for its line
// that it is ready. env are settings, NAME=value.
func start(t *testing.T, in installation, env []string, args ...string) *process {
	t.Helper()
	p := launch(t, in, env, args...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		select {
		case <-p.exited:
			cancel() // it will never be ready
		case <-ctx.Done():
		}
	}()
	found, err := p.log.find(ctx, `Sluice is ready: .*(http://[^/\s]+)/|Sluice takes jobs`)
	if err != nil {
		t.Fatalf("sluice %s is not ready: %v", strings.Join(args, " "), err)
	}
	p.url = found[1]
	return p
}

// launch runs the binary without waiting for anything.
func launch(t *testing.T, in installation, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, log: &logBuffer{}, exited: make(chan struct{})}
	if len(args) > 0 {
		p.role = args[0]
	}
	p.cmd = exec.Command(in.binary, args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(cleanEnvironment(),
		"SLUICE_GATEWAY__ADDR=127.0.0.1:0",
		"SLUICE_PLUGINS__DIRS="+in.plugins,
		"SLUICE_PLUGINS__CACHE_DIR="+in.cache,
		"SLUICE_REDIS__DATA_DIR="+filepath.Join(p.cmd.Dir, "redis"),
		"SLUICE_LOG__LEVEL=debug",
	)
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			p.stop()
		}
		if t.Failed() {
			t.Logf("log of sluice %s:\n%s", p.role, tail(p.log.String(), 12_000))
		}
		if text := p.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") {
			t.Errorf("sluice %s raced or panicked:\n%s", p.role, tail(text, 12_000))
		}
	})
	return p
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// cleanEnvironment is ours without settings of Sluice.
func cleanEnvironment() []string {
	var env []string
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "SLUICE_") {
			env = append(env, pair)
		}
	}
	return env
}

// stop ends the process in order and fails the test if it doesn't.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		p.t.Errorf("sluice %s ended with %v", p.role, err)
	}
}

func (p *process) wait() error {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.waitErr
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // shows its goroutines
		<-p.exited
		p.t.Errorf("sluice %s does not stop:\n%s", p.role, tail(p.log.String(), 30_000))
		return p.waitErr
	}
}

// server is a redis-server that tests may stop and start again with its data.
type server struct {
	t      *testing.T
	dir    string
	socket string
	cmd    *exec.Cmd
}

func redisServer(t *testing.T) *server {
	t.Helper()
	need(t, "redis-server")
	s := &server{t: t, dir: t.TempDir()}
	s.socket = filepath.Join(s.dir, "r.sock")
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string { return "unix://" + s.socket }

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", s.socket, "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	if err := redistest.Launch(s.cmd); err != nil {
		s.t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: s.socket, MaxRetries: -1})
	defer c.Close()
	eventually(s.t, "redis-server answers", func() bool { return c.Ping(s.t.Context()).Err() == nil })
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *server) client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.socket})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// eventually polls a condition that no event announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("still not: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// driver is the Node process that runs the Socket.IO clients.
type driver struct {
	t      *testing.T
	stdin  io.WriteCloser
	mu     sync.Mutex
	next   int
	acks   map[int]chan answer
	client map[string]*client
}

type answer struct {
	OK    bool            `json:"ok"`
	Value json.RawMessage `json:"value"`
	Error string          `json:"error"`
}

// event is one thing that a client saw.
type event struct {
	Event string
	Data  json.RawMessage
}

func newDriver(t *testing.T) *driver {
	t.Helper()
	node := need(t, "node")
	if _, err := os.Stat("testdata/node/node_modules/socket.io-client"); err != nil {
		if required() {
			t.Fatal("testdata/node has no node_modules; run: npm ci --prefix testdata/node")
		}
		t.Skip("testdata/node has no node_modules; run: npm ci --prefix testdata/node")
	}
	cmd := exec.Command(node, "driver.mjs")
	cmd.Dir = "testdata/node"
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, stdin: stdin, acks: map[int]chan answer{}, client: map[string]*client{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		d.read(stdout)
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("driver: %v", err)
		}
	})
	return d
}

func (d *driver) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var line struct {
			ID    int
			Name  string
			Event string
			Data  json.RawMessage
			answer
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			d.t.Errorf("driver says %q: %v", lines.Text(), err)
			continue
		}
		d.mu.Lock()
		ack, c := d.acks[line.ID], d.client[line.Name]
		delete(d.acks, line.ID)
		d.mu.Unlock()
		if ack != nil {
			ack <- line.answer
		} else if c != nil {
			c.add(event{line.Event, line.Data})
		}
	}
}

func (d *driver) do(command map[string]any) answer {
	d.t.Helper()
	d.mu.Lock()
	d.next++
	command["id"] = d.next
	ack := make(chan answer, 1)
	d.acks[d.next] = ack
	line, err := json.Marshal(command)
	if err == nil {
		_, err = d.stdin.Write(append(line, '\n'))
	}
	d.mu.Unlock()
	if err != nil {
		d.t.Fatal(err)
	}
	select {
	case a := <-ack:
		return a
	case <-time.After(patience):
		d.t.Fatalf("the driver never answers %s", line)
		return answer{}
	}
}
