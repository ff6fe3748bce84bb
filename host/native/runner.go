package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/host/native/cgroup"
)

// maxHandshake bounds the line with which a plugin begins; it has about 100 bytes.
const maxHandshake = 512

// handshakeFields are those of the line that say something to this host: two versions, network, address and protocol.
const handshakeFields = 5

// procRunner runs a process for go-plugin. What go-plugin's own runner does not do: the process
// leads a group that is killed as a whole, the kernel kills it when the host dies, and its
// standard input ends when the host does, for grandchildren and for systems without the former.
type procRunner struct {
	cmd   *exec.Cmd
	lines *lines
	group *cgroup.Group // nil: none

	lifeline        *os.File // our end of its standard input
	outR, errR      *os.File // our ends of its outputs
	theirs          []*os.File
	firstR          *io.PipeReader // the handshake, for go-plugin
	firstW          *io.PipeWriter
	quietR          *io.PipeReader // stderr for go-plugin: nothing, until the end
	quietW          *io.PipeWriter
	exited          chan struct{} // closed when the process is gone and its outputs are read
	mu              sync.Mutex
	started, reaped bool
	doomed          bool // killed before it was started
	killed          bool // by us
	first           string
	reason          string // for after exited
	sockets         string // directory of the sockets that the process makes
	socket          string // the one at which it says it can be reached, in that directory
}

func newRunner(path, dir string, env []string, lines *lines) (_ *procRunner, err error) {
	r := &procRunner{lines: lines, exited: make(chan struct{})}
	r.firstR, r.firstW = io.Pipe()
	r.quietR, r.quietW = io.Pipe()
	defer func() {
		if err != nil {
			r.release()
		}
	}()
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	r.lifeline, r.theirs = lifeline, append(r.theirs, stdin)
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	r.outR, r.theirs = out, append(r.theirs, stdout)
	errs, stderr, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	r.errR, r.theirs = errs, append(r.theirs, stderr)
	r.cmd = &exec.Cmd{
		Path: path, Args: []string{path}, Dir: dir, Env: env,
		Stdin: stdin, Stdout: stdout, Stderr: stderr,
		SysProcAttr: attributes(),
	}
	return r, nil
}

// prepare adds what go-plugin tells the process, the directory for its sockets among it.
func (r *procRunner) prepare(env []string, sockets string) error {
	r.cmd.Env = append(r.cmd.Env, env...)
	r.sockets = sockets
	return nil
}

// Start starts the process. It implements go-plugin's runner, as do the methods below.
func (r *procRunner) Start(context.Context) error {
	result := make(chan error)
	go r.own(result)
	return <-result
}

// own is the process's whole life on one thread: the parent-death signal is sent when the thread
// that forked ends, not when the process does.
func (r *procRunner) own(result chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(r.exited)
	err := r.cmd.Start()
	for _, f := range r.theirs {
		f.Close()
	}
	r.theirs = nil
	if err != nil {
		r.reason = err.Error()
		r.firstW.Close()
		r.quietW.Close()
		result <- err
		return
	}
	var outputs sync.WaitGroup
	outputs.Go(r.readStdout)
	outputs.Go(func() { r.lines.read("stderr", r.errR) })
	r.mu.Lock()
	r.started = true
	doomed := r.doomed
	r.mu.Unlock()
	if doomed {
		r.kill()
	}
	result <- nil

	err = r.reap()
	r.group.Kill() // what is left of it
	r.reason = r.cmd.ProcessState.String()
	if r.cmd.ProcessState == nil && err != nil {
		r.reason = err.Error()
	}
	if r.group.Overran() {
		r.reason += ": it needed more memory than its limit"
	}
	// A child that left the group may still hold the outputs: they are read a little longer.
	late := time.Now().Add(time.Second)
	_ = r.outR.SetReadDeadline(late)
	_ = r.errR.SetReadDeadline(late)
	outputs.Wait()
	r.quietW.Close()
}

// readStdout gives go-plugin the first line, which is the handshake, and logs the rest.
func (r *procRunner) readStdout() {
	defer r.firstW.Close()
	in := bufio.NewReaderSize(r.outR, maxLogLine)
	b, _ := in.ReadSlice('\n') // a longer line is no handshake; neither is one that breaks off
	line := strings.TrimSpace(legible(string(b[:min(len(b), maxHandshake)])))
	r.mu.Lock()
	r.first = line
	r.mu.Unlock()
	if line != "" {
		// go-plugin panics at a certificate that it didn't ask for.
		fields := strings.Split(line, "|")
		line = strings.Join(fields[:min(len(fields), handshakeFields)], "|")
		_, _ = io.WriteString(r.firstW, line+"\n") // fails when go-plugin has given up already
	}
	r.lines.read("stdout", in)
}

// handshake is the first line of the standard output so far.
func (r *procRunner) handshake() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first
}

// ask lets the process end by itself.
func (r *procRunner) ask() { r.lifeline.Close() }

// kill ends the process and its children at once.
func (r *procRunner) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.started:
		r.doomed = true
	case !r.reaped:
		r.killed = true
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		_ = syscall.Kill(r.cmd.Process.Pid, syscall.SIGKILL) // it may have left its group
		r.group.Kill()
	}
}

// release gives back what is left after the end.
func (r *procRunner) release() {
	if r.ID() != "" {
		<-r.exited
	}
	for _, f := range append(r.theirs, r.lifeline, r.outR, r.errR) {
		if f != nil {
			f.Close()
		}
	}
	r.firstR.Close()
	r.quietR.Close()
	r.group.Remove()
}

// diedItself reports whether the process is gone without our doing.
func (r *procRunner) diedItself() bool {
	r.mu.Lock()
	killed := r.killed || r.doomed
	r.mu.Unlock()
	return r.hasExited() && !killed
}

func (r *procRunner) hasExited() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// exitError is for after the end.
func (r *procRunner) exitError() *ExitError {
	return &ExitError{Reason: r.reason, Stderr: r.lines.tail()}
}

func (r *procRunner) pid() int { return r.cmd.Process.Pid }

func (r *procRunner) Wait(context.Context) error {
	<-r.exited
	if r.cmd.ProcessState == nil || !r.cmd.ProcessState.Success() {
		return errors.New(r.reason)
	}
	return nil
}

func (r *procRunner) Kill(context.Context) error      { r.kill(); return nil }
func (r *procRunner) Stdout() io.ReadCloser           { return r.firstR }
func (r *procRunner) Stderr() io.ReadCloser           { return r.quietR }
func (r *procRunner) Name() string                    { return r.cmd.Path }
func (r *procRunner) Diagnose(context.Context) string { return "" }

func (r *procRunner) ID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started {
		return ""
	}
	return fmt.Sprint(r.cmd.Process.Pid)
}

// PluginToHost takes the address that a plugin gives for its own. It may not choose where the host
// goes: whoever answers there would get what only its egress gate lets out, or it would be served by
// another plugin.
func (r *procRunner) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || filepath.Dir(addr) != r.sockets || filepath.Join(r.sockets, filepath.Base(addr)) != addr {
		return "", "", fmt.Errorf("it wants to be reached at %s %q, which is no socket in %s", network, addr, r.sockets)
	}
	r.socket = addr
	return network, addr, nil
}

// dial connects to the plugin.
func (r *procRunner) dial(ctx context.Context, _ string) (net.Conn, error) {
	return dialBelow(ctx, r.cmd.Dir, r.socket)
}

func (r *procRunner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
