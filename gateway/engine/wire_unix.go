//go:build unix

package engine

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawRead waits until the descriptor is readable and reads into a buffer of the
// pool, so that an idle connection holds none. The caller gives the buffer back.
func (w *wire) rawRead() (*[]byte, int, error) {
	w.readBuf, w.readN, w.readErr = nil, 0, nil
	if w.readFunc == nil {
		w.readFunc = func(fd uintptr) bool {
			if w.readBuf == nil {
				w.readBuf = readBuffers.Get().(*[]byte)
			}
			for {
				n, err := unix.Read(int(fd), *w.readBuf)
				switch err {
				case unix.EINTR:
					continue
				case unix.EAGAIN:
					readBuffers.Put(w.readBuf)
					w.readBuf = nil
					return false
				case nil:
					if w.readN = n; n == 0 {
						w.readErr = io.EOF
					}
				default:
					w.readErr = err
				}
				return true
			}
		}
	}
	err := w.raw.Read(w.readFunc)
	buf := w.readBuf
	w.readBuf = nil
	if err == nil {
		err = w.readErr
	}
	if err != nil && buf != nil {
		readBuffers.Put(buf)
		buf = nil
	}
	return buf, w.readN, err
}

func rawOf(nc any) syscall.RawConn {
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}
