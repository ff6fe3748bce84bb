package native

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluicehq/sluice/host/native/box"
)

// A socket's path must fit into 108 bytes, and go-plugin appends about 40.
const maxRunDir = 60

const runPrefix = "p-"

// DefaultRunDir is the user's runtime directory, or a directory below the one for temporary files.
func DefaultRunDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "sluice")
	}
	return filepath.Join(os.TempDir(), "sluice-"+strconv.Itoa(os.Geteuid()))
}

// runDir is the private directory of one plugin's sockets. A lock tells the directories in use
// from the ones that a host left when it was killed.
type runDir struct {
	path   string
	lock   *os.File
	egress net.Listener
}

// newRunDir also removes what dead hosts left in base.
func newRunDir(base string) (_ *runDir, err error) {
	base, err = filepath.Abs(base)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := privateDir(base); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	all, err := lockFile(filepath.Join(base, "lock"), syscall.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	defer all.Close()
	if err := sweep(base); err != nil {
		return nil, fmt.Errorf("sweep run directory: %w", err)
	}
	d := new(runDir)
	// Where there are no namespaces, that its name can't be guessed is what keeps other plugins from the
	// egress gate of this one, which puts its secrets in: a directory that they can't read they can go
	// through all the same.
	d.path = filepath.Join(base, runPrefix+strings.ToLower(rand.Text()[:10])) // of 32 characters each
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	defer func() {
		if err != nil {
			d.remove()
		}
	}()
	if len(d.path) > maxRunDir {
		return nil, fmt.Errorf("run directory: %s is too long for a socket's path: choose a shorter one", d.path)
	}
	if d.lock, err = lockFile(filepath.Join(d.path, "lock"), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(d.path, box.RootDir), 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if d.egress, err = net.Listen("unix", filepath.Join(d.path, "egress")); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	return d, nil
}

// remove is for when nobody uses it any more.
func (d *runDir) remove() {
	if d.egress != nil {
		d.egress.Close()
	}
	os.RemoveAll(d.path)
	if d.lock != nil {
		d.lock.Close()
	}
}

func sweep(base string) error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), runPrefix) {
			continue
		}
		dir := filepath.Join(base, e.Name())
		lock, err := lockFile(filepath.Join(dir, "lock"), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			continue // in use
		}
		err = os.RemoveAll(dir)
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lockFile holds the lock until the file is closed, or the process is gone.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
