// Package cachedir keeps directories of files that can be made anew from growing for ever: what nobody
// has used for long goes, and what was used the longest ago when there is too much, but nothing that a
// process has in use, this one or another.
package cachedir

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Limits say what is kept of what is not in use.
type Limits struct {
	Unused time.Duration // since the last use
	Size   int64         // bytes of all files of a directory
}

// Default are the limits of a host.
var Default = Limits{Unused: 30 * 24 * time.Hour, Size: 4 << 30}

// newFile is how the names of files begin that are being written.
const newFile = ".new-"

// Hold is a file in use.
type Hold struct{ f *os.File }

// Use takes a file into use until the hold is released or the process ends. A file that isn't there,
// or goes at that moment, is fs.ErrNotExist.
func Use(path string) (*Hold, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := lock(f, syscall.LOCK_SH); err != nil {
		f.Close()
		return nil, err
	}
	held, err := f.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Stat(path); err == nil && !os.SameFile(held, there) {
			err = &fs.PathError{Op: "use", Path: path, Err: fs.ErrNotExist} // it was replaced while we waited
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	h := &Hold{f}
	h.touch()
	return h, nil
}

// Release ends the use; it counts as the last one. On a nil hold it does nothing.
func (h *Hold) Release() {
	if h != nil {
		h.touch()
		h.f.Close()
	}
}

// touch may fail on a file of somebody else's, or one that is gone; then it is pruned a little early.
func (h *Hold) touch() {
	now := time.Now()
	_ = os.Chtimes(h.f.Name(), now, now)
}

func lock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// Prune removes files of a directory, and of those below it, until what is left is within the limits
// or in use.
func Prune(dir string, now time.Time, l Limits) error {
	type file struct {
		path string
		used time.Time
		size int64
	}
	var files []file
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || strings.HasPrefix(d.Name(), newFile) && now.Sub(info.ModTime()) < time.Hour {
			return nil
		}
		files = append(files, file{path, info.ModTime(), info.Size()})
		total += info.Size()
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.path, b.path)) })
	for _, over := range []func(f file) bool{
		func(f file) bool {
			return now.Sub(f.used) >= l.Unused || strings.HasPrefix(filepath.Base(f.path), newFile)
		},
		func(file) bool { return total > l.Size },
	} {
		kept := files[:0]
		for _, f := range files {
			if !over(f) {
				kept = append(kept, f)
				continue
			}
			gone, err := remove(f.path)
			if err != nil {
				return err
			}
			if gone {
				total -= f.size
			}
		}
		files = kept
	}
	return nil
}

// remove removes a file unless it is in use.
func remove(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if lock(f, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return false, nil // whatever the reason: it stays
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}
