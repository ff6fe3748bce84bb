package native

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MaxTasks is how many processes and threads one process of a plugin may have, itself included.
const MaxTasks = 512

// usage is what a process and its descendants take.
type usage struct {
	memory int64 // resident bytes; pages they share count for each
	tasks  int
}

// measure looks at a process and its descendants. Where the system can't be asked, and for what
// ends meanwhile, it counts nothing. It stops counting at MaxTasks.
func measure(pid int) usage {
	var u usage
	next := []string{strconv.Itoa(pid)}
	for len(next) > 0 && u.tasks <= MaxTasks {
		dir := filepath.Join("/proc", next[0])
		next = next[1:]
		u.memory += resident(dir)
		threads, err := os.ReadDir(filepath.Join(dir, "task"))
		if err != nil {
			continue
		}
		u.tasks += len(threads)
		for _, t := range threads[:min(len(threads), MaxTasks)] {
			b, err := os.ReadFile(filepath.Join(dir, "task", t.Name(), "children"))
			if err == nil {
				next = append(next, strings.Fields(string(b))...)
			}
		}
	}
	return u
}

// resident is the resident size of the process whose directory in /proc this is.
func resident(dir string) int64 {
	b, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// systemFiles are what a program needs that is not whole in itself: libraries, or an interpreter.
func systemFiles(program string) []string {
	f, err := os.Open(program)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil
	}
	whole := false
	if !bytes.Equal(head, []byte("#!")) {
		if e, err := elf.NewFile(f); err == nil {
			whole = true
			for _, p := range e.Progs {
				whole = whole && p.Type != elf.PT_INTERP
			}
		}
	}
	if whole {
		return nil
	}
	return []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"}
}
