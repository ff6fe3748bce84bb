package native

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/host/cachedir"
	"github.com/sluicehq/sluice/host/manifest"
)

// keep puts the artifact into the store, under its digest, and returns its path there, where it stays
// at least until it is released. The store is the host's alone, so what was checked is what runs,
// whatever happens to the file the manifest lies beside. What has not been used for long is removed.
func keep(cacheDir string, m *manifest.Manifest) (string, *cachedir.Hold, error) {
	dir, err := filepath.Abs(filepath.Join(cacheDir, "store"))
	if err != nil {
		return "", nil, fmt.Errorf("store artifact: %w", err)
	}
	if err := privateDir(dir); err != nil {
		return "", nil, fmt.Errorf("store artifact: %w", err)
	}
	b, err := m.Read() // checks the digest
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, m.SHA256)
	hold, err := keepAt(path, m.SHA256, b)
	if err != nil {
		return "", nil, fmt.Errorf("store artifact: %w", err)
	}
	if err := cachedir.Prune(dir, time.Now(), cachedir.Default); err != nil {
		hold.Release()
		return "", nil, fmt.Errorf("prune stored artifacts: %w", err)
	}
	return path, hold, nil
}

// keepAt has the bytes at path, in use.
func keepAt(path, sum string, b []byte) (*cachedir.Hold, error) {
	for {
		hold, err := cachedir.Use(path)
		switch {
		case err == nil:
			if got, err := digest(path); err == nil && got == sum {
				return hold, nil
			}
			hold.Release()
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
		if err := writeProgram(path, b); err != nil {
			return nil, err
		}
	}
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func writeProgram(path string, b []byte) (err error) {
	// A process forked while the file is open for writing holds it open until it executes, and
	// until then nobody can execute the file.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o555)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// privateDir makes a directory that only this user can reach, or checks that it is one.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d", dir, st.Uid)
	case info.Mode().Perm()&0o077 != 0:
		return os.Chmod(dir, 0o700)
	}
	return nil
}
