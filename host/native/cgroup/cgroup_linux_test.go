package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also what runs in the groups: the variable says what it does there.
const task = "SLUICE_TEST_TASK"

func TestMain(m *testing.M) {
	switch os.Getenv(task) {
	case "":
		os.Exit(m.Run())
	case "grow":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			fmt.Println(len(all))
		}
	case "multiply":
		n := 0
		for exec.Command("sleep", "1000").Start() == nil {
			n++
		}
		fmt.Println(n)
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "escape":
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println(cmd.Process.Pid)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	os.Exit(0)
}

func parent(t *testing.T) *Parent {
	t.Helper()
	p, err := Find()
	if err != nil {
		t.Skip("no control group to divide, as systemd-run --user --scope -p Delegate=yes gives one: ", err)
	}
	return p
}

// start runs a task of TestMain's in a group.
func start(t *testing.T, g *Group, what string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), task+"="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	g.Enter(cmd.SysProcAttr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // open until Wait
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func newGroup(t *testing.T, l Limit) *Group {
	t.Helper()
	g, err := parent(t).New(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Remove)
	return g
}

func TestMemory(t *testing.T) {
	g := newGroup(t, Limit{Memory: 64 << 20, Tasks: 100})
	cmd, out := start(t, g, "grow")
	got := 0
	for out.Scan() {
		got, _ = strconv.Atoi(out.Text())
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v, want that it was killed", err)
	}
	if got < 8 || got > 64 {
		t.Errorf("of 64 MiB it got %d", got)
	}
	if !g.Overran() {
		t.Error("the group doesn't say that its limit was the reason")
	}
}

func TestTasks(t *testing.T) {
	g := newGroup(t, Limit{Memory: 256 << 20, Tasks: 40})
	cmd, out := start(t, g, "multiply")
	out.Scan()
	if n, err := strconv.Atoi(out.Text()); err != nil || n < 1 || n >= 40 {
		t.Errorf("of 40 tasks it got %q children", out.Text())
	}
	g.Kill()
	_ = cmd.Wait() // killed
	if g.Overran() {
		t.Error("the group says that its memory was the reason")
	}
}

func TestKillAndSweep(t *testing.T) {
	for _, end := range []string{"kill", "remove", "sweep"} {
		t.Run(end, func(t *testing.T) {
			p := parent(t)
			g := newGroup(t, Limit{Memory: 256 << 20, Tasks: 100})
			cmd, out := start(t, g, "escape")
			out.Scan()
			child, err := strconv.Atoi(out.Text())
			if err != nil {
				t.Fatal(out.Text())
			}
			switch end {
			case "kill":
				g.Kill()
			case "remove":
				g.Remove()
			case "sweep":
				p.sweep()
				if gone(child) {
					t.Error("a group in use was swept")
				}
				g.lock.Close() // as when the host is killed
				p.sweep()
			}
			_ = cmd.Wait() // killed
			wait := time.NewTimer(30 * time.Second)
			defer wait.Stop()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for !gone(child) {
				select {
				case <-tick.C:
				case <-wait.C:
					t.Fatal("a process in a session of its own is left")
				}
			}
			if _, err := os.Stat(g.dir); end != "kill" && !os.IsNotExist(err) {
				t.Errorf("the group is still there: %v", err)
			}
		})
	}
}

// gone is so for zombies too: where the tests run nobody may reap orphans.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestWhereGroupsAre(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for text, want := range map[string]string{
		"31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n":                              "/sys/fs/cgroup",
		"30 23 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n32 23 0:27 / /c\\040g rw - cgroup2 none rw\n": "/c g",
		"31 23 0:26 /part /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n":                                                     "",
		"30 23 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n":                                             "",
		"cgroup2": "",
	} {
		if got, err := mountPoint(file(text)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"0::/system.slice/sluice.service\n": "/system.slice/sluice.service",
		"4:memory:/a\n0::/\n":               "/",
		"0::/../other\n":                    "",
		"0::/a (deleted)\n":                 "",
		"4:memory:/a\n":                     "",
	} {
		if got, err := ownGroup(file(text)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestOurs(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for pid, want := range map[int]bool{os.Getpid(): true, cmd.Process.Pid: true, os.Getppid(): false, 1: false} {
		if got := ours(strconv.Itoa(pid)); got != want {
			t.Errorf("process %d is ours: %v", pid, got)
		}
	}
}

// Without a group nothing is done.
func TestNoGroup(t *testing.T) {
	var g *Group
	var a syscall.SysProcAttr
	g.Enter(&a)
	g.Kill()
	g.Remove()
	if a.UseCgroupFD || g.Overran() {
		t.Error("a group that isn't there does something")
	}
}
