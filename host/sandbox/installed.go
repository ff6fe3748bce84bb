package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicehq/sluice/host/cachedir"
)

// What is installed of a guest is its image and the machine code of it. The engine keeps the code under
// names of its own, which are therefore listed beside the image: what is in use can be told from what
// isn't, and a guest whose code has gone is installed again, by the installer, and not compiled in the
// host.

// codeSuffix is appended to an image's path.
const codeSuffix = ".code"

// stagePrefix is how directories begin that an installer puts code into.
const stagePrefix = "install-"

// adopt moves the code that an installer's engine wrote into stage to where the host's looks for it,
// and returns the paths below dir.
func adopt(dir, stage string) (code []string, err error) {
	err = filepath.WalkDir(stage, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(stage, path)
		if err != nil {
			return err
		}
		rel = filepath.Join("code", rel)
		to := filepath.Join(dir, rel)
		if err := private(filepath.Dir(to)); err != nil {
			return err
		}
		code = append(code, rel)
		return os.Rename(path, to)
	})
	if err == nil && len(code) == 0 {
		err = errors.New("the engine has kept no code")
	}
	return code, err
}

// installedFiles are those of the guest whose image is at path. They may be gone: errNoImage is for a
// list that is.
func installedFiles(path string) ([]string, error) {
	b, err := os.ReadFile(path + codeSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoImage
	}
	if err != nil {
		return nil, err
	}
	files := []string{path, path + codeSuffix}
	for line := range strings.Lines(string(b)) {
		rel := strings.TrimSuffix(line, "\n")
		if !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("read %s: %w", path+codeSuffix, errImage)
		}
		files = append(files, filepath.Join(filepath.Dir(filepath.Dir(path)), rel))
	}
	return files, nil
}

// holdInstalled takes the files of a guest into use. errNoImage says that one of them is gone.
func holdInstalled(path string) (release func(), err error) {
	files, err := installedFiles(path)
	if err != nil {
		return nil, err
	}
	var holds []*cachedir.Hold
	release = func() {
		for _, h := range holds {
			h.Release()
		}
	}
	for _, file := range files {
		h, err := cachedir.Use(file)
		if err != nil {
			release()
			if errors.Is(err, fs.ErrNotExist) {
				err = errNoImage
			}
			return nil, err
		}
		holds = append(holds, h)
	}
	return release, nil
}

// hold keeps the files of a guest for as long as the runtime is there. What has gone meanwhile will be
// installed again when it is needed again.
func (rt *Runtime) hold(path string) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.held[path] != nil {
		return
	}
	release, err := holdInstalled(path)
	if err != nil {
		rt.log.Debug("files of a guest can't be held", "error", err)
		return
	}
	rt.held[path] = release
}
