//go:build !linux

package embedded

import "syscall"

// childAttributes put the child into a group of its own, so that a Ctrl-C at
// the terminal reaches only us.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
