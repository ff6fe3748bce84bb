package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/cachedir"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// For the test binary as a host: where its directories are.
const (
	hostDir   = "SLUICE_TEST_HOST_DIR"
	hostStore = "SLUICE_TEST_HOST_STORE"
	hostBox   = "SLUICE_TEST_HOST_BOX" // set: the tightest there is
)

// orphan is an argument of the process that the plugin of a killed host has started, in a session of
// its own.
const orphan = "98765.5"

// TestHostToBeKilled is no test of its own: TestKilledHostLeavesNothing runs it in a process.
func TestHostToBeKilled(t *testing.T) {
	dir := os.Getenv(hostDir)
	if dir == "" {
		t.Skip("only as the host in another test")
	}
	m, o := self(t, "")
	o.Log, o.RunDir, o.CacheDir = slog.New(slog.DiscardHandler), dir, os.Getenv(hostStore)
	if os.Getenv(hostBox) != "" {
		o.Box = nil
	}
	p, err := Start(context.Background(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(hostBox) != "" {
		if got := answer(t, p, "escape "+orphan); got != "done" {
			t.Fatal(got)
		}
	}
	fmt.Println("plugin", p.State().PID)
	select {}
}

func TestKilledHostLeavesNothing(t *testing.T) {
	t.Run("in a box without namespaces", func(t *testing.T) { killHost(t, "") })
	t.Run("in the tightest box", func(t *testing.T) {
		full(t)
		killHost(t, hostBox+"=tightest")
	})
}

func killHost(t *testing.T, env string) {
	dir := options(t).RunDir
	cmd := exec.Command(os.Args[0], "-test.run=^TestHostToBeKilled$", "-test.v")
	cmd.Env = append(os.Environ(), hostDir+"="+dir, hostStore+"="+storeDir, env)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for in := bufio.NewScanner(out); pid == 0 && in.Scan(); {
		if _, text, ok := strings.Cut(in.Text(), "plugin "); ok {
			pid, _ = strconv.Atoi(text)
		}
	}
	if pid == 0 || gone(pid) {
		t.Error("the host has started no plugin")
	}
	if env != "" && pid != 0 {
		eventually(t, "the plugin's own child runs", func() bool { return countProcesses(t, orphan) == 1 })
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is ours: killed
	if pid == 0 {
		return
	}
	eventually(t, "the plugin is gone", func() bool { return gone(pid) })
	eventually(t, "so are its children", func() bool { return countProcesses(t, orphan) == 0 })

	// The next host sweeps what the killed one could not.
	if left, err := filepath.Glob(filepath.Join(dir, runPrefix+"*")); err != nil || len(left) != 1 {
		t.Fatalf("the killed host left %v, %v; want its directory", left, err)
	}
	d, err := newRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, runPrefix+"*"))
	if err != nil || len(left) != 1 || left[0] != d.path {
		t.Errorf("after the sweep there are %v, %v; want %s only", left, err, d.path)
	}
	// And leaves alone what is in use.
	other, err := newRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.path); err != nil {
		t.Errorf("a directory in use was swept: %v", err)
	}
	d.remove()
	other.remove()
	wantEmpty(t, dir)
}

// TestLifeline: where there is no parent-death signal the end of its standard input ends a plugin.
func TestLifeline(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	p.slots[0].proc.runner.ask()
	<-p.slots[0].proc.runner.exited
	if p.slots[0].proc.runner.reason != "exit status 0" {
		t.Errorf("it ended with %s, want exit status 0", p.slots[0].proc.runner.reason)
	}
}

func TestStoreIsCheckedAndRepaired(t *testing.T) {
	dir, src := t.TempDir(), filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(src, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := fixture(t, "x", src)
	keep := func(dir string, m *manifest.Manifest) (string, error) {
		path, hold, err := keep(dir, m)
		hold.Release()
		return path, err
	}
	path, err := keep(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("tampered"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err = keep(dir, m); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "#!/bin/sh\n" {
		t.Errorf("the store holds %q, %v; want the artifact", b, err)
	}
	if err := os.WriteFile(src, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := keep(dir, m); err == nil {
		t.Error("an artifact that isn't the manifest's was taken")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the store holds %v, %v; want one file", entries, err)
	}
}

// A new version finds the store's old ones: those in use stay, those unused for long go.
func TestStoreIsPruned(t *testing.T) {
	dir, src := t.TempDir(), filepath.Join(t.TempDir(), "program")
	version := func(text string) (string, *cachedir.Hold) {
		t.Helper()
		if err := os.WriteFile(src, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		path, hold, err := keep(dir, fixture(t, "x", src))
		if err != nil {
			t.Fatal(err)
		}
		return path, hold
	}
	used, hold := version("1")
	defer hold.Release()
	unused, released := version("2")
	released.Release()
	recent, released := version("3")
	released.Release()
	long := time.Now().Add(-cachedir.Default.Unused - time.Hour)
	if err := errors.Join(os.Chtimes(used, long, long), os.Chtimes(unused, long, long)); err != nil {
		t.Fatal(err)
	}
	current, last := version("4")
	defer last.Release()
	for path, want := range map[string]bool{used: true, unused: false, recent: true, current: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v; want it there: %v", path, err, want)
		}
	}
}

func TestRunDirIsPrivate(t *testing.T) {
	base := options(t).RunDir
	if err := os.Chmod(base, 0o777); err != nil {
		t.Fatal(err)
	}
	d, err := newRunDir(base)
	if err != nil {
		t.Fatal(err)
	}
	defer d.remove()
	for _, dir := range []string{base, d.path} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, want 0700", dir, info.Mode().Perm())
		}
	}
	if _, err := newRunDir(filepath.Join(base, strings.Repeat("long", 20))); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("error is %v, want that the path is too long", err)
	}
}

// TestEgress: a hosted plugin reaches what its manifest allows, through the gate, and is told what
// it may not reach.
func TestEgress(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
			w.Write([]byte(`{"error":{"message":"slow down","code":"rate_limit_exceeded"}}`))
		case "/cut":
			w.Write([]byte("half of "))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Write([]byte(r.Method + " " + r.URL.RequestURI()))
		}
	}))
	defer upstream.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	mf, err := manifest.Parse([]byte("name: fault\nversion: 1.0.0\nprotocol: 1\nruntime: native\nartifact: " + filepath.Base(exe) +
		"\nmodels: [{name: fault}]\negress: [\"" + upstream.URL + "\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	mf.SHA256, mf.Dir = fixture(t, "fault", exe).SHA256, filepath.Dir(exe)
	mf.Limits.Memory = 2 << 30
	mf.AllowPrivate = []string{"127.0.0.1"}
	_, o := self(t, "")
	gate, err := egress.New(mf, egress.Options{Log: o.Log})
	if err != nil {
		t.Fatal(err)
	}
	o.Egress = gate
	p := launch(t, mf, o)
	for _, test := range []struct {
		url, text string
		err       *sdk.Error
	}{
		{upstream.URL + "/a%2Fb?q=1&r=%20", "GET /a%2Fb?q=1&r=%20", nil},
		{upstream.URL + "/busy", "", &sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Message: "upstream answered 429: slow down", Status: 429, Code: "rate_limit_exceeded", Wait: 7e9}},
		{upstream.URL + "/cut", "", &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream}},
		{"http://127.0.0.1:1/", "", &sdk.Error{Kind: sdk.Denied, Fault: sdk.Plugin}},
		{"relative", "", &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin}},
	} {
		c := sdktest.Case{Name: test.url, Request: prompt("fetch " + test.url), Text: test.text, Err: test.err}
		tr := sdktest.Record(t.Context(), p.Provider(), c.Request)
		if tr.Err == nil {
			tr.Chunks = append(tr.Chunks, sdk.Finish{Reason: sdk.FinishStop}) // which fetch leaves out
		}
		c.Check(t, tr)
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	m, o := self(t, "")
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	p, err := Start(t.Context(), m, o) // once, for what stays open for good
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := count()
	for range 3 {
		p, err := Start(t.Context(), m, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all descriptors are closed", func() bool { return count() <= before })
}
