package sandbox

import (
	"time"

	"golang.org/x/sys/unix"
)

// limitInstaller has the kernel end this process when it takes too much, and
// lets whoever has work to do go first.
func limitInstaller(cpu time.Duration, memory uint64) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil {
		return err
	}
	seconds := uint64((cpu + time.Second - 1) / time.Second)
	if err := unix.Setrlimit(unix.RLIMIT_CPU, &unix.Rlimit{Cur: seconds, Max: seconds}); err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: memory, Max: memory})
}
