//go:build unix && !linux

package native

import (
	"context"
	"net"
	"syscall"
)

// attributes give the process a group of its own. There is no parent-death signal here: the end of
// its standard input tells the process that the host is gone.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// reap waits for the process and kills what is left of its group.
func (r *procRunner) reap() error {
	err := r.cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reaped = true
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	return err
}

// dialBelow connects to a socket. There is no box here that keeps the plugin from other ones.
func dialBelow(ctx context.Context, _, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}
