package job

import (
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// plainEvery is how long one may read without the scheduler's knowledge while there is always something to read.
const plainEvery = 5 * time.Millisecond

// read reads what has arrived, or waits for something.
//
// The system call is a raw one: it doesn't block, and one that the scheduler knows of wakes the runtime's monitor
// whenever the process has been idle, so with a few messages at a time for more than the reading costs. But the
// monitor is also what gives other goroutines and other connections their turn while this goroutine never waits: a
// reader that has not waited for plainEvery makes a system call that wakes it.
func (d *direct) read(b []byte) (n int, err error) {
	if d.raw == nil {
		return d.nc.Read(b)
	}
	if now := time.Now(); now.Sub(d.waited) > plainEvery {
		d.waited = now
		return d.nc.Read(b)
	}
	var errno syscall.Errno
	waited := false
	err = d.raw.Read(func(fd uintptr) bool {
		for {
			got, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
			switch e {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				waited = true
				return false
			}
			n, errno = int(got), e
			return true
		}
	})
	if waited {
		d.waited = time.Now()
	}
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, os.NewSyscallError("read", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
