package embedded

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/config"
)

const (
	socketName  = "redis.sock"
	lockName    = "lock"
	longestPath = 100 // sun_path of a unix socket holds 108 bytes

	// lockPatience outlasts the server of a sluice that was killed: it ends
	// a moment after its parent and holds the lock until then.
	lockPatience = 5 * time.Second
	stopPatience = 10 * time.Second

	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// server is the child process and its folder.
type server struct {
	name, program string
	dir, socket   string
	lock          *os.File
	log           *slog.Logger
}

func runServer(ctx context.Context, o Options, name, program string, ready func(Instance)) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("redis.data_dir: %w", err)
	}
	s := &server{name: name, program: program, dir: dir, socket: filepath.Join(dir, socketName), log: o.Log}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make redis.data_dir, the data of the embedded redis: %w; name a folder that this user may write to, or set redis.embedded to memory", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make redis.data_dir private to this user: %w", err)
	}
	if s.lock, err = acquire(ctx, filepath.Join(dir, lockName)); err != nil {
		return fmt.Errorf("own redis.data_dir %s: %w", dir, err)
	}
	defer s.lock.Close()
	if len(s.socket) > longestPath {
		short, err := os.MkdirTemp("", "sluice-redis-")
		if err != nil {
			return fmt.Errorf("make a folder for the redis socket: %w", err)
		}
		defer os.RemoveAll(short)
		s.socket = filepath.Join(short, socketName)
	}
	announce := func() {
		o := config.RedisDefaults()
		o.Addrs = []string{s.socket}
		ready(Instance{Name: name, Durable: true, Redis: o})
	}

	// The parent-death signal belongs to the thread that starts the child, and
	// comes when that thread ends, not the process: one thread makes every
	// child and stays until the last has ended.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- s.supervise(ctx, announce)
	}()
	return <-done
}

// supervise keeps one child running until ctx ends.
func (s *server) supervise(ctx context.Context, announce func()) error {
	backoff := minBackoff
	for first := true; ; first = false {
		started := time.Now()
		wasReady, err := s.once(ctx, func() {
			if first {
				announce()
			} else {
				s.log.Info("redis is back", "server", s.name)
			}
		})
		if ctx.Err() != nil {
			return err
		}
		if first && !wasReady {
			return err
		}
		if time.Since(started) > maxBackoff {
			backoff = minBackoff
		}
		s.log.Warn("redis ended, starting it again", "server", s.name, "error", err, "wait", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once runs one child until it ends or ctx does. It returns nil only for a
// child that was stopped because ctx ended.
func (s *server) once(ctx context.Context, ready func()) (wasReady bool, err error) {
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("remove the old redis socket: %w", err)
	}
	cmd := exec.Command(s.program,
		"--port", "0", "--unixsocket", s.socket, "--unixsocketperm", "700", "--dir", s.dir,
		"--daemonize", "no", "--loglevel", "warning",
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--aof-load-truncated", "yes",
		"--maxmemory-policy", "noeviction", "--stop-writes-on-bgsave-error", "no",
		"--client-output-buffer-limit", "pubsub 64mb 16mb 30")
	cmd.SysProcAttr = childAttributes()
	// The child holds the lock too, so that nobody else opens the data while it
	// still writes them after we were killed.
	cmd.ExtraFiles = []*os.File{s.lock}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C", "TZ=" + os.Getenv("TZ")}
	said := &lines{log: s.log.With("server", s.name)}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = time.Second // a forked log rewriter may keep the pipe open
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start %s: %w", s.name, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	probe, stopProbe := context.WithCancel(ctx)
	answers, probing := s.probe(probe)
	defer func() { stopProbe(); <-probing }()
	for {
		select {
		case <-answers:
			answers, wasReady = nil, true
			ready()
		case err := <-exited:
			if err == nil {
				err = errors.New("exit status 0")
			}
			if last := said.end(); last != "" && !wasReady {
				err = fmt.Errorf("%w: %s", err, last)
			}
			return wasReady, fmt.Errorf("%s: %w", s.name, err)
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM) // writes the rest of the log of commands, then ends
			select {
			case <-exited:
			case <-time.After(stopPatience):
				s.log.Warn("redis doesn't end, killing it", "server", s.name)
				_ = cmd.Process.Kill()
				<-exited
			}
			return wasReady, nil
		}
	}
}

// lines logs what the child prints, and keeps the last of it for an error.
type lines struct {
	log  *slog.Logger
	mu   sync.Mutex
	last []string
	part []byte
}

// Write takes output as it comes; a line without an end is cut, not kept growing.
func (l *lines) Write(p []byte) (int, error) {
	const keep, longest = 3, 4096
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		end := bytes.IndexByte(l.part, '\n')
		if end < 0 {
			l.part = l.part[:min(len(l.part), longest)]
			return len(p), nil
		}
		line := string(bytes.TrimSpace(l.part[:end]))
		l.part = l.part[end+1:]
		l.log.Debug("redis says", "line", line)
		if l.last = append(l.last, line); len(l.last) > keep {
			l.last = l.last[1:]
		}
	}
}

func (l *lines) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(append(l.last, string(l.part)), "; ")
}

// probe asks the child until it answers PING, on raw connections: go-redis's
// pool would wait a second after a few refused ones. It closes answers then,
// and ended when it has given up or is through.
func (s *server) probe(ctx context.Context) (answers, ended chan struct{}) {
	answers, ended = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for { // without a limit: a large log of commands takes its time to load
			if ping(ctx, s.socket) {
				close(answers)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(3 * time.Millisecond):
			}
		}
	}()
	return answers, ended
}

// ping says whether a Redis answers at the socket and has its data loaded.
func ping(ctx context.Context, socket string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return err == nil && line == "+PONG\r\n" // it says -LOADING until then
}

// acquire takes the lock file for this process, or says who has it. The kernel
// drops the lock when its last holder has ended, however that happens.
func acquire(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lockPatience)
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		owner, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("process %s uses it (%w): stop that sluice, or set another redis.data_dir", strings.TrimSpace(string(owner)), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the lock file: %w", err)
	}
	return f, nil
}
