//go:build !linux

package redistest

import "os/exec"

// Launch starts a command. Where there is no signal of a parent's death it
// outlives a process that is killed.
func Launch(cmd *exec.Cmd) error { return cmd.Start() }
