package box

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// devices are those every program may expect.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// makeRoot gives the process, which is in a mount namespace of its own, a root directory with
// nothing in it but what the spec names, each at its usual path. Sockets of other services, which
// neither a network namespace nor Landlock keeps away, are not there.
func makeRoot(s *Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	root := filepath.Join(s.Dir, RootDir)
	if err := unix.Mount("box", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=256k,nr_inodes=512,mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	show := []string{s.Path}
	if s.Path == "/proc/self/exe" {
		show = nil // a probe
	}
	for _, path := range append(show, s.Files...) {
		if err := bind(root, path, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
			return err
		}
	}
	for _, path := range devices {
		if err := bind(root, path, unix.MOUNT_ATTR_NOSUID); err != nil {
			return err
		}
	}
	if err := bind(root, s.Dir, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
		return err
	}
	// Where it is not allowed, as in some containers, there is none: programs do without.
	proc := filepath.Join(root, "proc")
	if err := os.Mkdir(proc, 0o555); err == nil {
		_ = unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if err := unix.MountSetattr(-1, root, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return os.Chdir(s.Dir)
}

// bind shows path below root, with all below it. What is not there is left out.
func bind(root, path string, attr uint64) error {
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	at := filepath.Join(root, path)
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o444); err == nil {
			f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(path, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if err := unix.MountSetattr(-1, at, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr}); err != nil {
		return fmt.Errorf("restrict %s: %w", path, err)
	}
	return nil
}
