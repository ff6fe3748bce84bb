package box

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// name is what this program is called when it is to make a box.
const name = "sluice: box"

// order is what Wrap tells the program it starts.
type order struct {
	Spec
	Level Level
	Probe bool // tell what can be had instead of executing anything
}

func init() {
	if len(os.Args) == 2 && os.Args[0] == name {
		enter(os.Args[1])
	}
}

// Wrap makes cmd start in a box. Its Path is what Spec.Path says from then on; its SysProcAttr,
// environment and files are kept.
func (l Level) Wrap(cmd *exec.Cmd, s Spec) error {
	if l == (Level{}) || l == (Level{Cgroup: true}) {
		return nil
	}
	return l.wrap(cmd, order{Spec: s, Level: l})
}

func (l Level) wrap(cmd *exec.Cmd, o order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("describe the box: %w", err)
	}
	cmd.Path, cmd.Args = "/proc/self/exe", []string{name, string(b)}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if l.Namespaces {
		// The user is nobody inside, so that the program has no capability; the preparation has
		// the one it needs.
		a := cmd.SysProcAttr
		a.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getegid(), Size: 1}}
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	return nil
}

const nobody = 65534

// Find tells what box this machine can make. It is found out once, by making one.
func Find() Level { return found() }

var found = sync.OnceValue(func() Level {
	for _, try := range []Level{
		{Namespaces: true, Root: true, Landlock: landlockABI(), Seccomp: true, Limits: true},
		{Landlock: landlockABI(), Seccomp: true, Limits: true},
	} {
		if l, err := try.probe(); err == nil {
			// What root has started, whatever it is called inside, has no limit of processes. See
			// copy_process in the kernel's fork.c.
			l.Tasks = l.Limits && l.Namespaces && os.Geteuid() != 0
			return l
		}
	}
	return Level{}
})

// probe makes a box and has it tell what it is made of.
func (l Level) probe() (Level, error) {
	dir, err := os.MkdirTemp("", "box-")
	if err != nil {
		return Level{}, err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, RootDir), 0o700); err != nil {
		return Level{}, err
	}
	var out, errs bytes.Buffer
	cmd := &exec.Cmd{Dir: dir, Env: []string{}, Stdout: &out, Stderr: &errs}
	o := order{Probe: true, Level: l, Spec: Spec{Path: "/proc/self/exe", Dir: dir, Limit: Limit{Files: 64}}}
	if err := l.wrap(cmd, o); err != nil {
		return Level{}, err
	}
	if err := cmd.Run(); err != nil {
		return Level{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	var got Level
	err = json.Unmarshal(out.Bytes(), &got)
	return got, err
}

// enter makes the box around this process and executes the program in it. It does not return.
func enter(text string) {
	runtime.LockOSThread() // most of what makes the box is the thread's, and goes on with exec
	var o order
	fail := func(what string, err error) {
		fmt.Fprintf(os.Stderr, "box: %s: %v\n", what, err)
		os.Exit(126)
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fail("read the order", err)
	}
	got := Level{Namespaces: o.Level.Namespaces}
	// Each step is left out if it can't be done and that is what is to be found out.
	step := func(what string, wanted bool, do func() error) bool {
		if !wanted {
			return false
		}
		err := do()
		if err != nil && !o.Probe {
			fail(what, err)
		}
		return err == nil
	}
	got.Root = step("make its root", o.Level.Root && got.Namespaces, func() error { return makeRoot(&o.Spec) })
	got.Limits = step("limit its resources", o.Level.Limits, func() error {
		dropCapabilities()
		if err := o.Limit.set(got.Namespaces); err != nil {
			return err
		}
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	})
	if step("restrict its files", o.Level.Landlock > 0, func() error { return restrictFiles(&o.Spec, o.Level.Landlock, got.Root) }) {
		got.Landlock = o.Level.Landlock
	}
	got.Seccomp = step("filter its system calls", o.Level.Seccomp, filterCalls)
	if o.Probe {
		b, err := json.Marshal(got)
		if err != nil {
			fail("tell the level", err)
		}
		_, _ = os.Stdout.Write(b)
		os.Exit(0)
	}
	fail("execute "+o.Path, syscall.Exec(o.Path, []string{o.Path}, os.Environ()))
}

// dropCapabilities gives up what the preparation needed. There is none to give up outside a user
// namespace, unless the host is root: then the program keeps none either.
func dropCapabilities() {
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) // needs a capability that an ordinary user lacks, and then there is nothing to drop
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	_ = unix.Capset(&hdr, &data[0])
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) // which a change of capabilities may have cleared
}

func (l Limit) set(ownUsers bool) error {
	set := func(resource int, n int64) error {
		return unix.Setrlimit(resource, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)})
	}
	// One byte is too little for a file, and the only limit that a program which dumps are piped to heeds.
	if err := set(unix.RLIMIT_CORE, 1); err != nil {
		return err
	}
	if err := set(unix.RLIMIT_FSIZE, 0); err != nil {
		return err
	}
	for _, r := range []struct {
		resource int
		n        int64
	}{{unix.RLIMIT_DATA, l.Data}, {unix.RLIMIT_NOFILE, l.Files}, {unix.RLIMIT_NPROC, l.Tasks}} {
		if r.n <= 0 || r.resource == unix.RLIMIT_NPROC && !ownUsers {
			continue
		}
		var have unix.Rlimit
		if err := unix.Getrlimit(r.resource, &have); err != nil {
			return err
		}
		if have.Max < uint64(r.n) {
			r.n = int64(have.Max)
		}
		if err := set(r.resource, r.n); err != nil {
			return err
		}
	}
	return nil
}
