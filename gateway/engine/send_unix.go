//go:build unix && !linux

package engine

import "golang.org/x/sys/unix"

// send writes what the kernel takes at once to a socket, which doesn't block.
func send(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, nil
		}
		return max(n, 0), err
	}
}
