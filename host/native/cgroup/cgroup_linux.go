package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Parent is where groups are made: a group that was delegated to this process. Safe for concurrent
// use.
type Parent struct{ dir string }

// Names of the groups in a parent.
const (
	prefix = "sluice-plugin-" // of a plugin's process
	leaf   = "sluice-host"    // of this process, as a group with limits for its children has no processes itself
)

// controllers are what a parent must be able to hand on.
var controllers = []string{"memory", "pids"}

// Find finds where this process may make groups. It is found out once. What it does not find is no
// error of the machine's: the error says what is missing.
func Find() (*Parent, error) { return found() }

var found = sync.OnceValues(func() (*Parent, error) {
	mount, err := mountPoint("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := ownGroup("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(mount, own)
	var reasons []error
	// A service may have been put into a part of its own group already.
	for _, dir := range []string{filepath.Dir(dir), dir} {
		if len(dir) < len(mount) {
			continue
		}
		if err := prepare(dir); err != nil {
			reasons = append(reasons, err)
			continue
		}
		p := &Parent{dir}
		p.sweep()
		return p, nil
	}
	return nil, errors.Join(reasons...)
})

// mountPoint is where version 2 is mounted as a whole.
func mountPoint(mountinfo string) (string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		// 31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw
		head, tail, ok := strings.Cut(in.Text(), " - ")
		fields := strings.Fields(head)
		if ok && strings.HasPrefix(tail, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return strings.ReplaceAll(fields[4], `\040`, " "), nil
		}
	}
	return "", errors.New("control groups of version 2 are not mounted")
}

// ownGroup is this process's group, as a path below the mount point.
func ownGroup(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			if strings.Contains(path, "..") || strings.HasSuffix(path, " (deleted)") {
				break
			}
			return path, nil
		}
	}
	return "", errors.New("this process is in no control group of version 2")
}

// prepare makes a group one that has limits for its children: it needs to be ours, and empty, for
// which this process goes into a part of its own.
func prepare(dir string) error {
	if err := delegated(dir); err != nil {
		return err
	}
	have, err := words(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if !slices.Contains(have, c) {
			return fmt.Errorf("control group %s can't limit %s: the controllers it has are %q", dir, c, have)
		}
	}
	enabled, err := words(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	if slices.Contains(enabled, controllers[0]) && slices.Contains(enabled, controllers[1]) {
		return nil
	}
	if err := empty(dir); err != nil {
		return err
	}
	return write(filepath.Join(dir, "cgroup.subtree_control"), "+"+strings.Join(controllers, " +"))
}

// delegated says why a group is not this process's to divide. That it may be written to is not enough
// where systemd looks after groups, as root may write to all of them: systemd marks those that it has
// given away.
func delegated(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err != nil {
		return fmt.Errorf("control group %s is the machine's", dir) // only the root has no type
	}
	if err := unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK); err != nil {
		return fmt.Errorf("control group %s is not ours to write to: %w", dir, err)
	}
	if _, err := os.Stat("/run/systemd/system"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, mark := range []string{"user.delegate", "trusted.delegate"} {
		value := make([]byte, 8)
		if n, err := unix.Getxattr(dir, mark, value); err == nil && strings.Trim(string(value[:n]), "\x00") == "1" {
			return nil
		}
	}
	return fmt.Errorf("control group %s is systemd's; a service that sets Delegate=yes has one of its own", dir)
}

// empty moves this process, and what it has started, into a part of the group. Others are not ours to
// move.
func empty(dir string) error {
	part := filepath.Join(dir, leaf)
	if err := os.Mkdir(part, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for range 100 { // a child may be born meanwhile
		pids, err := words(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if !ours(pid) {
				return fmt.Errorf("control group %s holds process %s, which is none of ours", dir, pid)
			}
			if err := write(filepath.Join(part, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return fmt.Errorf("control group %s never becomes empty", dir)
}

// ours reports whether a process is this one or descends from it.
func ours(pid string) bool {
	self := strconv.Itoa(os.Getpid())
	for range 100 {
		if pid == self {
			return true
		}
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			return errors.Is(err, fs.ErrNotExist) // gone, whosever it was
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] == "0" {
			return false
		}
		pid = fields[1]
	}
	return false
}

// sweep removes the groups that hosts which were killed have left, with all that is in them.
func (p *Parent) sweep() {
	left, err := filepath.Glob(filepath.Join(p.dir, prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		if g, err := hold(dir); err == nil {
			g.Remove()
		}
	}
}

// Group is a group for one process and its children. Its methods do nothing on a nil one. Safe for
// concurrent use.
type Group struct {
	dir  string
	lock *os.File // held for as long as the group is in use
}

// hold takes a group that nobody else holds.
func hold(dir string) (*Group, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return &Group{dir: dir, lock: f}, nil
}

// New makes a group. Remove it.
func (p *Parent) New(l Limit) (_ *Group, err error) {
	dir, err := os.MkdirTemp(p.dir, prefix)
	if err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	g, err := hold(dir)
	if err != nil {
		os.Remove(dir)
		return nil, fmt.Errorf("hold control group: %w", err)
	}
	defer func() {
		if err != nil {
			g.Remove()
		}
	}()
	for _, set := range []struct{ file, value string }{
		{"memory.max", strconv.FormatInt(l.Memory, 10)},
		{"memory.oom.group", "1"}, // what is left of a plugin after one of its processes is gone is of no use
		{"pids.max", strconv.FormatInt(l.Tasks, 10)},
	} {
		if err := write(filepath.Join(dir, set.file), set.value); err != nil {
			return nil, fmt.Errorf("limit control group: %w", err)
		}
	}
	// Not there where the kernel doesn't count what was swapped out.
	if err := write(filepath.Join(dir, "memory.swap.max"), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("limit control group: %w", err)
	}
	return g, nil
}

// Enter has a process begin its life in the group.
func (g *Group) Enter(a *syscall.SysProcAttr) {
	if g != nil {
		a.UseCgroupFD, a.CgroupFD = true, int(g.lock.Fd())
	}
}

// Kill ends all processes of the group at once, whatever sessions and process groups they have gone
// into.
func (g *Group) Kill() {
	if g == nil {
		return
	}
	if write(filepath.Join(g.dir, "cgroup.kill"), "1") == nil {
		return
	}
	// Kernels before 5.14: until there is none, as one may be born meanwhile.
	for range 100 {
		pids, err := words(filepath.Join(g.dir, "cgroup.procs"))
		if err != nil || len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			if n, err := strconv.Atoi(pid); err == nil && n > 0 {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}

// Overran reports whether the group's limit of memory has ended processes of it.
func (g *Group) Overran() bool {
	if g == nil {
		return false
	}
	events, err := words(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return false
	}
	at := slices.Index(events, "oom_kill")
	return at >= 0 && at+1 < len(events) && events[at+1] != "0"
}

// Remove ends the group and what is in it. It waits for the kernel to have ended it, but not for long:
// what is left then is the next host's to sweep.
func (g *Group) Remove() {
	if g == nil {
		return
	}
	g.Kill()
	end := time.Now().Add(2 * time.Second)
	for {
		err := os.Remove(g.dir)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
		g.wait(end)
	}
	g.lock.Close()
}

// wait returns when the group may be empty.
func (g *Group) wait(end time.Time) {
	f, err := os.Open(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		return
	}
	defer f.Close()
	b := make([]byte, 256)
	if n, err := f.Read(b); err != nil || strings.Contains(string(b[:n]), "populated 0") {
		_, _ = unix.Poll(nil, 1) // it is only a moment until it can be removed
		return
	}
	// The file is ready for what poll calls an exceptional condition when its content has changed.
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
	_, _ = unix.Poll(fds, int(max(time.Until(end).Milliseconds(), 1)))
}

func words(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	return strings.Fields(string(b)), err
}

// write writes in one go and makes no file.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
