//go:build unix

package host

import (
	"io/fs"
	"syscall"
)

// inode tells a file from another that has taken its place.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
