//go:build unix && !linux

package engine

import "golang.org/x/sys/unix"

// send writes to a socket, which doesn't block.
func send(fd uintptr, b []byte) (int, error) { return unix.Write(int(fd), b) }
