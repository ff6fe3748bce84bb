package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/host/native/cgroup"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// attack is what a hostile plugin tries. It emits "done", or what stopped it.
func attack(ctx context.Context, word, rest string, emit sdk.Emit) error {
	try := func(err error) error {
		if err != nil {
			return emit(sdk.Text("no: " + err.Error()))
		}
		return emit(sdk.Text("done"))
	}
	switch word {
	case "read":
		_, err := os.ReadFile(rest)
		return try(err)
	case "write":
		return try(os.WriteFile(rest, []byte("x"), 0o600))
	case "dial":
		network, addr, _ := strings.Cut(rest, " ")
		c, err := net.DialTimeout(network, addr, 3*time.Second)
		if err == nil {
			_, err = c.Write([]byte("secrets"))
			c.Close()
		}
		return try(err)
	case "signal":
		pid, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		return try(syscall.Kill(pid, 0))
	case "dump":
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
			return err
		}
		return emit(sdk.Text(fmt.Sprint(l.Cur, " ", l.Max)))
	case "unshare":
		return try(unix.Unshare(unix.CLONE_NEWUSER))
	case "escape": // a child in a session of its own, which outlives its parent
		cmd := exec.Command("/bin/sleep", rest)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return try(cmd.Start())
	case "multiply":
		n := 0
		for ctx.Err() == nil {
			if err := exec.Command("/bin/sleep", rest).Start(); err != nil {
				return emit(sdk.Text(fmt.Sprint("stopped after ", n, ": ", err)))
			}
			n++
		}
		return ctx.Err()
	case "grow":
		var all [][]byte
		for ctx.Err() == nil {
			b := make([]byte, 16<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		return emit(sdk.Text(fmt.Sprint(len(all))))
	case "babble":
		for i := range 100_000 {
			fmt.Fprintln(os.Stderr, "line", i)
			fmt.Fprintln(os.Stdout, "1|1|unix|/tmp/x|grpc|\x00\xff")
		}
		return emit(sdk.Text("done"))
	case "stay":
		if err := emit(sdk.Text("staying")); err != nil {
			return err
		}
		select {}
	}
	return sdk.Errorf(sdk.Invalid, "what is %q?", word)
}

// boxed is the test binary's plugin in a box of one level, behind a gate that lets nothing out.
func boxed(t *testing.T, level box.Level) (*Plugin, Options) {
	t.Helper()
	m, o := self(t, "")
	o.Box = &level
	gate, err := egress.New(m, egress.Options{Log: o.Log})
	if err != nil {
		t.Fatal(err)
	}
	o.Egress = gate
	p := launch(t, m, o)
	return p, o
}

// full is the tightest box, without a control group.
func full(t *testing.T) box.Level {
	t.Helper()
	level := box.Find()
	if err := level.Check([]string{box.Network, box.Files, box.Processes, box.Sockets}); err != nil {
		t.Skipf("this machine's boxes have only %s", level)
	}
	return level
}

func answer(t *testing.T, p *Plugin, attack string) string {
	t.Helper()
	tr := sdktest.Record(t.Context(), p.Provider(), prompt(attack))
	if tr.Err != nil {
		return "no: " + tr.Err.Error()
	}
	return tr.Text()
}

// TestHostilePlugin: what a plugin tries against its host comes to nothing, in the tightest box
// and in those of machines that can't make it, as far as they say so.
func TestHostilePlugin(t *testing.T) {
	full := full(t)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a plugin reached a server") }))
	defer inside.Close()
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	dir := t.TempDir()
	secret, socket := filepath.Join(dir, "key"), filepath.Join(dir, "s")
	if err := os.WriteFile(secret, []byte("hunter2"), 0o644); err != nil {
		t.Fatal(err)
	}
	service, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	abstract, err := net.Listen("unix", "@"+filepath.Base(filepath.Dir(dir))+".sluice-test")
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	host := strconv.Itoa(os.Getpid())
	attacks := []struct {
		name, prompt string
		needs        func(box.Level) bool
	}{
		{"exfiltration through the gate", "fetch " + inside.URL, func(box.Level) bool { return true }},
		{"metadata service through the gate", "fetch http://169.254.169.254/latest/meta-data/", func(box.Level) bool { return true }},
		{"loopback", "dial tcp " + inside.Listener.Addr().String(), func(l box.Level) bool { return l.Gives(box.Network) }},
		{"datagram", "dial udp " + datagrams.LocalAddr().String(), func(l box.Level) bool { return l.Gives(box.Network) }},
		{"abstract socket", "dial unix " + abstract.Addr().String(), func(l box.Level) bool { return l.Namespaces || l.Landlock >= 6 }},
		{"socket of another service", "dial unix " + socket, func(l box.Level) bool { return l.Gives(box.Sockets) }},
		{"shadow", "read /etc/shadow", func(l box.Level) bool { return l.Gives(box.Files) }},
		{"users", "read /etc/passwd", func(l box.Level) bool { return l.Gives(box.Files) }},
		{"a key", "read " + secret, func(l box.Level) bool { return l.Gives(box.Files) }},
		{"home", "read " + filepath.Join(home, ".profile"), func(l box.Level) bool { return l.Gives(box.Files) }},
		{"the host's environment", "read /proc/" + host + "/environ", func(l box.Level) bool { return l.Gives(box.Files) }},
		{"writing into its directory", "write ./file", func(l box.Level) bool { return l.Limits }},
		{"writing elsewhere", "write " + filepath.Join(dir, "new"), func(l box.Level) bool { return l.Gives(box.Files) }},
		{"writing beside its source", "write " + filepath.Join(cwd, "new"), func(l box.Level) bool { return l.Gives(box.Files) }},
		{"signal to the host", "signal " + host, func(l box.Level) bool { return l.Namespaces || l.Landlock >= 6 }},
		{"user namespace of its own", "unshare", func(l box.Level) bool { return l.Seccomp }},
	}
	for _, level := range []box.Level{
		full,
		{Namespaces: true, Root: true, Limits: true},
		{Landlock: full.Landlock, Seccomp: true, Limits: true},
	} {
		t.Run(level.String(), func(t *testing.T) {
			p, _ := boxed(t, level)
			if st := p.State(); st.Box != level {
				t.Errorf("its state says %s", st.Box)
			}
			for _, a := range attacks {
				if !a.needs(level) {
					continue
				}
				if got := answer(t, p, a.prompt); !strings.HasPrefix(got, "no: ") {
					t.Errorf("%s: %s", a.name, got)
				} else {
					t.Logf("%s: %s", a.name, got)
				}
			}
			if got := answer(t, p, "dump"); got != "1 1" { // core(5): no limit but this one is kept of dumps that are piped
				t.Errorf("the limits of its core dumps are %s", got)
			}
			env := answer(t, p, "env")
			if strings.Contains(env, "HOME=") || strings.Contains(env, "TEST_SECRET") {
				t.Errorf("its environment is %s", env)
			}
			if got := answer(t, p, "pid"); got == "" {
				t.Error("it does not answer any more")
			}
		})
	}
}

// Where only its name keeps other plugins from a gate, it has too many letters to be tried.
func TestRunDirectoriesCantBeGuessed(t *testing.T) {
	p, _ := boxed(t, box.Level{})
	name := strings.TrimPrefix(filepath.Base(p.dir.path), runPrefix)
	if len(name) < 10 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		t.Errorf("the directory of its gate is called %s", name)
	}
	if strings.Trim(name, "0123456789") == "" {
		t.Errorf("%s is a number", name)
	}
}

// The same attacks succeed without a box, or they would prove nothing.
func TestAttacksAreReal(t *testing.T) {
	p, o := boxed(t, box.Level{})
	for _, prompt := range []string{"read /etc/passwd", "write ./file", "signal " + strconv.Itoa(os.Getpid()), "dial unix " + filepath.Join(p.dir.path, "egress")} {
		if got := answer(t, p, prompt); got != "done" {
			t.Errorf("%s: %s", prompt, got)
		}
	}
	if err := box.Find().Check(nil); err != nil {
		t.Error(err)
	}
	o.RequireBox = []string{box.Network}
	m, _ := self(t, "")
	if _, err := Start(t.Context(), m, o); err == nil || !strings.Contains(err.Error(), `its box must guarantee "network", which this machine can't: it has nothing`) {
		t.Errorf("error is %v, want that the box isn't good enough", err)
	}
}

// grouped is a level with a control group.
func grouped(t *testing.T, level box.Level) box.Level {
	t.Helper()
	if _, err := cgroup.Find(); err != nil {
		t.Skip("there is no control group to divide: ", err)
	}
	level.Cgroup = true
	return level
}

func TestNothingOutlivesABox(t *testing.T) {
	t.Run("namespaces", func(t *testing.T) { nothingOutlives(t, full(t)) })
	t.Run("control group", func(t *testing.T) { nothingOutlives(t, grouped(t, box.Level{Limits: true})) })
}

func nothingOutlives(t *testing.T, level box.Level) {
	p, _ := boxed(t, level)
	const mark = "98765.25"
	if got := answer(t, p, "escape "+mark); got != "done" {
		t.Fatal(got)
	}
	eventually(t, "the child runs", func() bool { return countProcesses(t, mark) == 1 })
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the child is gone", func() bool { return countProcesses(t, mark) == 0 })
}

// countProcesses counts those that have word as an argument.
func countProcesses(t *testing.T, word string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(b), "\x00"+word+"\x00") {
			n++
		}
	}
	return n
}

func TestForkBomb(t *testing.T) {
	t.Run("namespaces", func(t *testing.T) { forkBomb(t, full(t)) })
	t.Run("control group", func(t *testing.T) { forkBomb(t, grouped(t, box.Level{Limits: true})) })
}

func forkBomb(t *testing.T, level box.Level) {
	p, _ := boxed(t, level)
	if got := p.State().Box; got != level {
		t.Errorf("its box is %s, want %s", got, level)
	}
	keepRunning(t, p)
	const mark = "98765.75"
	got := answer(t, p, "multiply "+mark)
	t.Log(got)
	if !strings.Contains(got, "resource temporarily unavailable") && !strings.Contains(got, "died") {
		t.Errorf("it ended with %s", got)
	}
	if p.State().Restarts == 0 { // stopped by the limit: the children are still there
		if n := countProcesses(t, mark); n > MaxTasks {
			t.Errorf("it has %d children", n)
		}
	} else if level.Gives(box.Tasks) {
		t.Errorf("the system was to keep the limit, and the process was lost to %v", p.State().Death)
	}
	if p.State().Restarts == 0 {
		if err := p.Close(ended()); err != nil {
			t.Error(err)
		}
	} else {
		eventually(t, "it is up again", func() bool { return p.State().Up })
	}
	eventually(t, "its children are gone", func() bool { return countProcesses(t, mark) == 0 })
}

func TestMemoryBomb(t *testing.T) {
	t.Run("looked at", func(t *testing.T) { memoryBomb(t, full(t)) })
	t.Run("control group", func(t *testing.T) { memoryBomb(t, grouped(t, full(t))) })
}

func memoryBomb(t *testing.T, level box.Level) {
	m, o := self(t, "")
	o.Box = &level
	m.Limits.Memory = 128 << 20
	o.UsageInterval = 20 * time.Millisecond
	p := launch(t, m, o)
	keepRunning(t, p)
	tr := sdktest.Record(t.Context(), p.Provider(), prompt("grow"))
	if e := sdk.AsError(tr.Err); e == nil || e.Kind != sdk.Unavailable || e.Fault != sdk.Plugin {
		t.Errorf("%q, %v; want that the plugin died", tr.Text(), tr.Err)
	}
	eventually(t, "it is up again", func() bool { return p.State().Up })
	t.Log(p.State().Death)
	if level.Cgroup && !strings.Contains(p.State().Death.Error(), "it needed more memory than its limit") {
		t.Errorf("it died of %v, want of its limit", p.State().Death)
	}
}

func TestBabble(t *testing.T) {
	m, o := self(t, "")
	var log syncBuffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	p := launch(t, m, o)
	if got := answer(t, p, "babble"); got != "done" {
		t.Error(got)
	}
	if got := answer(t, p, "pid"); got == "" {
		t.Error("it does not answer any more")
	}
	if n := len(log.String()); n > 2<<20 {
		t.Errorf("it wrote %d bytes into the log", n)
	}
}

// A handler that ignores its cancellation is found, and its process replaced, while the other
// calls of that process go on.
func TestWorkForNobodyEnds(t *testing.T) {
	m, o := self(t, "")
	o.HealthInterval, o.Overstay = 20*time.Millisecond, 100*time.Millisecond
	p := launch(t, m, o)
	keepRunning(t, p)
	first := p.State().PID

	ctx, cancel := context.WithCancel(t.Context())
	err := p.Provider().Generate(ctx, prompt("stay"), func(sdk.Chunk) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want the cancellation", err)
	}
	proceed, answered := make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{})
	bystander := prompt("exe")
	bystander.JobID = "bystander"
	go func() {
		answered <- p.Provider().Generate(t.Context(), bystander, func(sdk.Chunk) error {
			close(begun)
			<-proceed
			return nil
		})
	}()
	<-begun
	eventually(t, "another process serves", func() bool { s := p.State(); return s.PID != first && s.Replaced == 1 })
	if gone(first) {
		t.Error("the process was ended with a call under way")
	}
	close(proceed)
	if err := <-answered; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	eventually(t, "the process is gone", func() bool { return gone(first) })
	if s := p.State(); s.Restarts != 0 {
		t.Errorf("state is %+v, want no restart", s)
	}
}

// A plugin that never stops working, and whose calls never end, doesn't get process after process.
func TestReplacedProcessesAreBounded(t *testing.T) {
	m, o := self(t, "")
	var log syncBuffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	o.HealthInterval, o.Overstay = 20*time.Millisecond, 100*time.Millisecond
	p := launch(t, m, o)
	keepRunning(t, p)
	held, release := context.WithCancel(t.Context())
	defer release()
	var calls sync.WaitGroup
	defer calls.Wait()
	defer release()
	for i := range maxDraining + 1 {
		hanging := prompt("hang")
		hanging.JobID = fmt.Sprint("hanging ", i)
		begun := make(chan struct{})
		calls.Go(func() {
			_ = p.Provider().Generate(held, hanging, func(sdk.Chunk) error { close(begun); return nil })
		})
		<-begun
		ctx, cancel := context.WithCancel(t.Context())
		if err := p.Provider().Generate(ctx, prompt("stay"), func(sdk.Chunk) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v, want the cancellation", err)
		}
		if i < maxDraining {
			eventually(t, "the process is replaced", func() bool { return p.State().Replaced == i+1 })
			continue
		}
		eventually(t, "the log says that it isn't replaced", func() bool {
			return strings.Contains(log.String(), "not replaced before others have drained")
		})
		if st := p.State(); st.Replaced != maxDraining || !st.Up {
			t.Errorf("state is %+v", st)
		}
	}
	release()
	eventually(t, "it is replaced when others have drained", func() bool { return p.State().Replaced == maxDraining+1 })
}

// Of several processes, one that dies takes only its own calls along, and the least busy gets the
// next.
func TestSeveralProcesses(t *testing.T) {
	m, o := self(t, "")
	m.Limits.Processes = 3
	p := launch(t, m, o)
	keepRunning(t, p)
	if n := len(p.State().PIDs); n != 3 {
		t.Fatalf("there are %d processes, want 3", n)
	}
	const each = 10
	failed := make(chan error, 3*each)
	begun := make(chan struct{}, 3*each)
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 3 * each {
		req := prompt("hang")
		req.JobID = fmt.Sprint(i)
		go func() {
			failed <- p.Provider().Generate(ctx, req, func(sdk.Chunk) error { begun <- struct{}{}; return nil })
		}()
	}
	for range 3 * each {
		<-begun
	}
	victim := p.State().PIDs[1]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range each {
		wantDeath(t, <-failed, "plugin fault died: signal: killed", "")
	}
	eventually(t, "there are three again", func() bool { return len(p.State().PIDs) == 3 })
	if s := p.State(); s.Calls != 2*each || s.Restarts != 1 {
		t.Errorf("state is %+v, want %d calls still under way", s, 2*each)
	}
	cancel()
	for range 2 * each {
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("another process's call: %v", err)
		}
	}
}

// TestKillUnderStreams is the kill of a process that serves a hundred streams: every one of them
// gets an error that may be tried again, those of another plugin go on, and there is a process
// again within a second.
func TestKillUnderStreams(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	keepRunning(t, p)
	other := launch(t, m, o)
	const streams = 100
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ends, otherEnds := make(chan error, streams), make(chan error, streams)
	begun := make(chan struct{}, 2*streams)
	for i := range streams {
		for to, ends := range map[*Plugin]chan error{p: ends, other: otherEnds} {
			req := prompt("tokens")
			req.JobID = fmt.Sprint(i)
			n := 0
			go func() {
				ends <- to.Provider().Generate(ctx, req, func(sdk.Chunk) error {
					if n++; n == 1 {
						begun <- struct{}{}
					}
					return nil
				})
			}()
		}
	}
	for range 2 * streams {
		<-begun
	}
	killed := time.Now()
	if err := syscall.Kill(p.State().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	retryable := 0
	for range streams {
		if e := sdk.AsError(<-ends); e != nil && e.Retryable() && e.Fault == sdk.Plugin {
			retryable++
		}
	}
	eventually(t, "it is up again", func() bool { return p.State().Up })
	t.Logf("%d of %d streams failed with an error to be tried again; up again after %v", retryable, streams, time.Since(killed).Round(time.Millisecond))
	if retryable != streams {
		t.Errorf("%d of %d streams failed with an error to be tried again", retryable, streams)
	}
	if len(otherEnds) > 0 {
		t.Errorf("%d streams of the other plugin ended", len(otherEnds))
	}
	cancel()
	for range streams {
		if err := <-otherEnds; !errors.Is(err, context.Canceled) {
			t.Errorf("a stream of the other plugin: %v", err)
		}
	}
}

func TestCircuitOpens(t *testing.T) {
	m, o := self(t, "")
	o.BackoffMin, o.BackoffMax = time.Millisecond, time.Hour
	var log syncBuffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	p := launch(t, m, o)
	keepRunning(t, p)
	for n := range crashLoop {
		eventually(t, "it is up", func() bool { s := p.State(); return s.Up && s.Restarts == n })
		wantDeath(t, sdktest.Record(t.Context(), p.Provider(), prompt("exit")).Err, "plugin fault died: exit status 7", "about to exit")
	}
	eventually(t, "the circuit is open", func() bool { return p.State().Open })
	s := p.State()
	if s.Up || s.Restarts != crashLoop || !strings.Contains(s.Death.Error(), "exit status 7") || time.Until(s.RetryAt) < 40*time.Minute {
		t.Errorf("state is %+v", s)
	}
	e := sdk.AsError(sdktest.Record(t.Context(), p.Provider(), prompt("pid")).Err)
	if e == nil || e.Kind != sdk.Unavailable || e.Wait < 40*time.Minute || !strings.Contains(e.Message, "died 5 times in a row") {
		t.Errorf("error is %v", e)
	}
	eventually(t, "the log says so", func() bool { return strings.Count(log.String(), "its circuit is open") == 1 })
}
