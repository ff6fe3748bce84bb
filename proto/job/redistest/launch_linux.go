package redistest

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
)

// Launch starts a command that is killed when this process ends, however it
// ends, and that has none of its descriptors but the standard ones: one that
// outlived its test would hold whatever lock the test was run under. The caller
// waits for the command as usual. May be called by any goroutine.
func Launch(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	closeOnExec()
	errs := make(chan error, 1)
	keeper() <- func() { errs <- cmd.Start() }
	return <-errs
}

// keeper starts commands on a thread that lasts as long as the process: the
// kernel sends the signal when the thread ends that started the command.
var keeper = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range work {
			start()
		}
	}()
	return work
})

// closeOnExec keeps to this process what it was given itself. What Go opens is
// marked so already.
func closeOnExec() {
	entries, _ := os.ReadDir("/proc/self/fd") // without it there is nothing to be done
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}
