package job

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// read reads what has arrived, or waits for something. The raw system call doesn't block, so it can spare the
// scheduler's bookkeeping for calls that may: with a few messages at a time that wakes the runtime's monitor each
// time, for more than the reading costs.
func (d *direct) read(b []byte) (n int, err error) {
	if d.raw == nil {
		return d.nc.Read(b)
	}
	var errno syscall.Errno
	err = d.raw.Read(func(fd uintptr) bool {
		for {
			got, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
			if e == syscall.EINTR {
				continue
			}
			if e == syscall.EAGAIN {
				return false
			}
			n, errno = int(got), e
			return true
		}
	})
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
