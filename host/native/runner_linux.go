package native

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes give the process a group of its own, and the kernel the order to kill it when the
// thread that started it ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// reap waits for the process and kills what is left of its group while it is dead but not yet
// reaped: until then its number can't be given to another.
func (r *procRunner) reap() error {
	for unix.Waitid(unix.P_PID, r.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	r.reaped = true
	return r.cmd.Wait()
}
