package engine

import (
	"syscall"
	"unsafe"
)

// maxRaw is the most bytes that are written in a raw system call: more take the
// kernel too long to copy while the scheduler doesn't know.
const maxRaw = 16 << 10

// send writes what the kernel takes at once to a socket: write(2) without what it
// does for files. It is a raw system call, since it doesn't block: one that the
// scheduler knows of wakes the runtime's monitor whenever the process has been
// idle, which with a few events at a time costs a tenth of the processor. Who
// sends without end must make a system call now and then that does wake it, or
// nobody takes the processor from him: reading what to send is one.
func send(fd int, b []byte) (int, error) {
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	for {
		var n uintptr
		var errno syscall.Errno
		if len(b) <= maxRaw {
			n, _, errno = syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		} else {
			n, _, errno = syscall.Syscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		}
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, nil
		default:
			return 0, errno
		}
	}
}
