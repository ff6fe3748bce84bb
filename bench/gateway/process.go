package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server under test.
type process struct {
	cmd            *exec.Cmd
	command        []string
	port, feedPort string
	feed           net.Conn
	reply          *bufio.Reader
	out            *bufio.Writer
}

// canPin says whether server and load can be kept on CPUs of their own.
func canPin() bool {
	_, err := exec.LookPath("taskset")
	return err == nil && (runtime.NumCPU() >= 2 || os.Getenv(pinnedEnv) != "")
}

// launch starts a server, on CPU 0 if pin is set, and waits for its ports.
func launch(pin bool, command []string) (*process, error) {
	run := command
	if pin {
		run = append([]string{"taskset", "-c", "0"}, command...)
	}
	cmd := exec.Command(run[0], run[1:]...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, command: command}
	lines := bufio.NewReader(stdout)
	said, err := lines.ReadString('\n')
	ports := portsIn.FindAllStringSubmatch(said, -1)
	if len(ports) == 0 {
		p.stop()
		return nil, fmt.Errorf("start %s: said %q: %w", command[0], said, err)
	}
	go io.Copy(io.Discard, lines)
	p.port = ports[0][1]
	if len(ports) > 1 {
		p.feedPort = ports[1][1]
	}
	return p, nil
}

// portsIn finds what a server that has started says: the port of its clients as
// a number or in a URL, and perhaps that of its feed.
var portsIn = regexp.MustCompile(`(?:^|[ :])(\d+)\b`)

// openFeed connects to the feed of a server that has one.
func (p *process) openFeed() (err error) {
	if p.feed, err = net.Dial("tcp", "127.0.0.1:"+p.feedPort); err != nil {
		return err
	}
	p.reply, p.out = bufio.NewReader(p.feed), bufio.NewWriterSize(p.feed, 256<<10)
	return nil
}

// stop ends the server: one with a feed ends with it.
func (p *process) stop() {
	if p.feed != nil {
		p.feed.Close()
	} else {
		p.cmd.Process.Signal(syscall.SIGTERM)
	}
	ended := make(chan struct{})
	go func() {
		p.cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-ended
	}
}

// ask sends a command and returns its answer.
func (p *process) ask(command string) (string, error) {
	fmt.Fprintln(p.out, command)
	if err := p.out.Flush(); err != nil {
		return "", err
	}
	p.feed.SetReadDeadline(time.Now().Add(30 * time.Second))
	answer, err := p.reply.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// cpu is the processor time used so far, in nanoseconds, that of threads which have
// ended included; 0 where the system has no such clock.
func (p *process) cpu() time.Duration {
	var t unix.Timespec
	// The id is made as clock_getcpuclockid(3) does it.
	if unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// collectedRSS is the resident memory in bytes after a collection of garbage.
func (p *process) collectedRSS() int {
	if _, err := p.ask("G"); err != nil {
		return 0
	}
	return p.rss()
}

// rss is the resident memory in bytes.
func (p *process) rss() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kb int
	fmt.Sscan(rest, &kb)
	return kb << 10
}
