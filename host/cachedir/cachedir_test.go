package cachedir

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The test binary is also another process that has a file in use.
func TestMain(m *testing.M) {
	if path := os.Getenv("SLUICE_TEST_USE"); path != "" {
		_, err := Use(path)
		fmt.Println("used", err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fill makes files of 100 bytes that were used so many days ago.
func fill(t *testing.T, now time.Time, days map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	for name, n := range days {
		path := filepath.Join(dir, name)
		used := now.Add(-time.Duration(n) * 24 * time.Hour)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, 100), 0o555), os.Chtimes(path, used, used))
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestPrune(t *testing.T) {
	now := time.Now()
	days := map[string]int{"a": 40, "b": 10, "sub/c": 31, "sub/d": 1, ".new-1": 2, ".new-2": 0}
	for _, test := range []struct {
		limits Limits
		want   []string
	}{
		{Limits{30 * 24 * time.Hour, 1000}, []string{".new-2", "b", "sub/d"}},
		{Limits{35 * 24 * time.Hour, 1000}, []string{".new-2", "b", "sub/c", "sub/d"}},
		{Limits{100 * 24 * time.Hour, 250}, []string{".new-2", "b", "sub/d"}},
		{Limits{100 * 24 * time.Hour, 100}, []string{".new-2", "sub/d"}},
		{Limits{100 * 24 * time.Hour, 0}, []string{".new-2"}},
	} {
		dir := fill(t, now, days)
		if err := Prune(dir, now, test.limits); err != nil {
			t.Fatal(err)
		}
		if got := left(t, dir); !slices.Equal(got, test.want) {
			t.Errorf("%+v leaves %v, want %v", test.limits, got, test.want)
		}
	}
	if err := Prune(filepath.Join(t.TempDir(), "none"), now, Limits{}); err != nil {
		t.Errorf("a directory that isn't there: %v", err)
	}
}

// What is in use stays, whichever process uses it, and however old it is; afterwards it was used
// just now.
func TestWhatIsInUseStays(t *testing.T) {
	now := time.Now()
	dir := fill(t, now, map[string]int{"mine": 40, "other": 40, "nobody": 40})
	mine, err := Use(filepath.Join(dir, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SLUICE_TEST_USE="+filepath.Join(dir, "other"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "used <nil>\n" {
		t.Fatal(line, err)
	}
	later := now.Add(1000 * time.Hour)
	if err := Prune(dir, later, Limits{Unused: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if got := left(t, dir); !slices.Equal(got, []string{"mine", "other"}) {
		t.Errorf("left are %v, want those in use", got)
	}
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	mine.Release()
	if err := Prune(dir, time.Now(), Limits{Unused: time.Hour, Size: 1000}); err != nil {
		t.Fatal(err)
	}
	if got := left(t, dir); len(got) != 2 {
		t.Errorf("left are %v, want both, which were just used", got)
	}
	if err := Prune(dir, later, Limits{Unused: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if got := left(t, dir); len(got) != 0 {
		t.Errorf("left are %v, want none, long after", got)
	}
	if _, err := Use(filepath.Join(dir, "mine")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("using what is gone: %v", err)
	}
}

// A file that is taken into use while it is pruned is either gone for the user, who then makes it
// anew, or stays.
func TestUseAndPruneAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	ended := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := Prune(dir, time.Now().Add(time.Hour), Limits{}); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 2000 {
		h, err := Use(path)
		if errors.Is(err, fs.ErrNotExist) {
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Error(err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("a file in use is gone: %v", err)
		}
		h.Release()
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
