package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spawner starts processes from one thread that lives as long as this program:
// the kernel kills them when that thread ends, whatever becomes of us.
type spawner struct{ jobs chan func() }

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked
		for f := range s.jobs {
			f()
		}
	}()
	return s
}

// start starts cmd in a process group of its own.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	s.jobs <- func() { done <- cmd.Start() }
	return <-done
}

func (s *spawner) close() { close(s.jobs) }

// process is a running child. Its methods are safe for concurrent use.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}

	mu     sync.Mutex
	wanted bool // its end is ours
}

// watch waits for the process; ended is called if nobody wanted that.
func (s *spawner) watch(cmd *exec.Cmd, ended func(error)) (*process, error) {
	if err := s.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		wanted := p.wanted
		p.mu.Unlock()
		close(p.exited)
		if !wanted {
			ended(err)
		}
	}()
	return p, nil
}

// end says that its end is wanted, and sends the signal for it.
func (p *process) end(sig syscall.Signal) {
	p.mu.Lock()
	p.wanted = true
	p.mu.Unlock()
	p.signal(sig)
}

func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// gone waits for the end, and reports whether it came in time.
func (p *process) gone(d time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(d):
		return false
	}
}

// member is a place in the fleet that a process fills: ended, it is filled again.
type member struct {
	c    *chaos
	name string
	word string // host or gateway
	way  *proxy

	mu    sync.Mutex
	p     *process
	id    string // of a host
	lives int
	addr  string // of a gateway
}

// readyTimeout covers a first start, which compiles the guests.
const readyTimeout = 3 * time.Minute

var readyLine = regexp.MustCompile(`Sluice is ready: .*http://([^/\s]+)/|Sluice takes jobs`)

// start fills the place and returns when the process is ready. again keeps the
// name of the host that was there before.
func (m *member) start(ctx context.Context, again bool) error {
	m.mu.Lock()
	if m.lives++; !again || m.id == "" {
		m.id = fmt.Sprintf("%s-%d", m.name, m.lives)
	}
	cmd := exec.Command(m.c.binary, m.word, "--config", filepath.Join(m.c.dir, "sluice.yaml"))
	cmd.Dir = m.c.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.c.dir, "TMPDIR=" + m.c.dir,
		"SLUICE_REDIS__URL=unix://" + m.way.path, "SLUICE_HOST__ID=" + m.id}
	m.mu.Unlock()
	logFile, err := os.OpenFile(filepath.Join(m.c.dir, m.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd.Stderr = logFile
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout = in
	p, err := m.c.spawn.watch(cmd, func(err error) { m.c.report.crashed.add("%s: %v; see its log", m.name, err) })
	in.Close()
	if err != nil {
		out.Close()
		return err
	}
	ready := make(chan string, 1)
	go func() {
		defer out.Close()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if found := readyLine.FindStringSubmatch(lines.Text()); found != nil {
				select {
				case ready <- found[1]:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	m.mu.Lock()
	m.p = p
	m.mu.Unlock()
	select {
	case addr := <-ready:
		m.mu.Lock()
		m.addr = addr
		m.mu.Unlock()
		return nil
	case <-p.exited:
		return fmt.Errorf("%s ended before it was ready", m.name)
	case <-time.After(readyTimeout):
		return fmt.Errorf("%s is never ready", m.name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *member) process() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.p
}

// address is where a gateway listens; the last one while it is away.
func (m *member) address() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addr
}

func (m *member) hostID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

// stop ends it in order.
func (m *member) stop() {
	p := m.process()
	if p == nil {
		return
	}
	p.end(syscall.SIGTERM)
	if p.gone(45 * time.Second) {
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			m.c.report.left.add("%s stopped with status %d", m.name, code)
		}
		return
	}
	m.c.report.left.add("%s does not stop", m.name)
	p.end(syscall.SIGQUIT) // its log then shows what it was doing
	if !p.gone(5 * time.Second) {
		p.end(syscall.SIGKILL)
		p.gone(5 * time.Second)
	}
}

// children are the processes that a process has started.
func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// proc(5): pid (comm) state ppid …
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// inFolder are the processes whose program lies under dir.
func inFolder(dir string) (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(exe, dir+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// redisServer keeps its data over a kill: what it acknowledged is on disk.
type redisServer struct {
	c      *chaos
	socket string
	broken sync.Mutex
	p      *process
}

func (s *redisServer) start(ctx context.Context) error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	dir := filepath.Join(s.c.dir, "redis")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cmd := exec.Command(program, "--port", "0", "--unixsocket", s.socket, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes",
		"--logfile", filepath.Join(s.c.dir, "redis.log"))
	if s.p, err = s.c.spawn.watch(cmd, func(err error) { s.c.report.crashed.add("redis-server: %v", err) }); err != nil {
		return err
	}
	for s.c.rdb.Ping(ctx).Err() != nil {
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
		select {
		case <-s.p.exited:
			return errors.New("redis-server ended at once")
		default:
		}
	}
	return nil
}
