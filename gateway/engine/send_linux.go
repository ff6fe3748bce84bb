package engine

import (
	"syscall"
	"unsafe"
)

// send writes to a socket without blocking: write(2) without what it does for
// files. It is no raw system call, although that would spare the scheduler a tenth
// of the processor: on a busy machine a process of one runnable thread then gets
// too small a share of it, and events wait for hundreds of milliseconds.
func send(fd uintptr, b []byte) (int, error) {
	n, _, errno := syscall.Syscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
