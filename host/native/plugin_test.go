package native

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

func TestConformance(t *testing.T) {
	program := filepath.Join(t.TempDir(), "echo")
	build := exec.Command("go", "build", "-o", program, "github.com/sluicehq/sluice/plugins/echo")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build echo: %v\n%s", err, out)
	}
	m := fixture(t, "echo", program)
	m.Config = []byte(`{"delay_ms":5}`)
	p := launch(t, m, options(t))
	keepRunning(t, p)
	sdktest.Run(t, p.Provider(), sdktest.Echo("echo"))
}

func TestEnvironmentIsWhatTheManifestNames(t *testing.T) {
	t.Setenv("TEST_LEAK", "the host's")
	m, o := self(t, "")
	p := launch(t, m, o)
	text := sdktest.Record(t.Context(), p.Provider(), prompt("env")).Text()
	var names []string
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, "=")
		if !strings.HasPrefix(name, "PLUGIN_") { // go-plugin's own
			names = append(names, name)
		}
	}
	slices.Sort(names)
	want := []string{"GOMEMLIMIT", "SLUICE_LIFELINE", "SLUICE_PLUGIN", "TEST_NAMED", "TEST_PLUGIN"}
	if !slices.Equal(names, want) {
		t.Errorf("the plugin sees %v, want %v", names, want)
	}
}

func TestRunsFromTheStore(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	text := sdktest.Record(t.Context(), p.Provider(), prompt("exe")).Text()
	if want := filepath.Join(storeDir, "store", m.SHA256); text != want {
		t.Errorf("it runs from %s, want %s", text, want)
	}
	info, err := os.Stat(text)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o555 {
		t.Errorf("its mode is %v, want 0555", info.Mode().Perm())
	}
}

func TestSettingsOfTheOperator(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	if text := sdktest.Record(t.Context(), p.Provider(), prompt("settings")).Text(); text != string(m.Config) {
		t.Errorf("the settings are %s, want the manifest's %s", text, m.Config)
	}
	req := prompt("settings")
	req.Settings = sdk.Settings(`{"own":1}`)
	if text := sdktest.Record(t.Context(), p.Provider(), req).Text(); text != `{"own":1}` {
		t.Errorf("the settings are %s, want the request's", text)
	}
}

func TestOutputGoesToTheLog(t *testing.T) {
	m, o := self(t, "")
	var log syncBuffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	p := launch(t, m, o)
	if tr := sdktest.Record(t.Context(), p.Provider(), prompt("log")); tr.Err != nil {
		t.Fatal(tr.Err)
	}
	for _, want := range []string{
		`level=WARN msg="a warning" provider=fault answer=42`,
		`msg="plugin output" provider=fault stream=stdout text="to stdout"`,
		`msg="plugin output" provider=fault stream=stderr text="to stderr"`,
	} {
		eventually(t, "the log has "+want, func() bool { return strings.Contains(log.String(), want) })
	}
}

func TestStartFails(t *testing.T) {
	for _, test := range []struct {
		mode, want string
		limit      time.Duration
	}{
		{"protocol 2", "start plugin fault: it speaks protocol 2 and this host 1: the host is too old for it, update Sluice", 0},
		{"dies at start", "it is no Sluice plugin, or died at start: exit status 3; it wrote: no licence for this machine", 0},
		{"never answers", "no answer within", time.Second},
		{"not a plugin", "hello, world", 0},
		{"endless line", "Unrecognized remote plugin message: xxxxx", 0},
	} {
		t.Run(test.mode, func(t *testing.T) {
			before := runtime.NumGoroutine()
			m, o := self(t, test.mode)
			if test.limit > 0 {
				o.StartTimeout = test.limit
			}
			_, err := Start(t.Context(), m, o)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > tailSize+2000 {
				t.Errorf("error is %v, want %s", err, test.want)
			}
			eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
			wantEmpty(t, o.RunDir)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		m, o := self(t, "never answers")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("not today")) // before there is a process to kill
		o.StartTimeout = time.Hour
		if _, err := Start(ctx, m, o); err == nil || !strings.Contains(err.Error(), "not today") {
			t.Errorf("error is %v, want the cause", err)
		}
	})
	t.Run("another file than the manifest's", func(t *testing.T) {
		m, o := self(t, "")
		other := *m
		other.SHA256 = strings.Repeat("0", 64)
		if _, err := Start(t.Context(), &other, o); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("error is %v, want one about the digest", err)
		}
	})
	t.Run("manifest of another protocol", func(t *testing.T) {
		m, o := self(t, "")
		m.Protocol = 0
		if _, err := Start(t.Context(), m, o); err == nil || !strings.Contains(err.Error(), "the plugin is too old") {
			t.Errorf("error is %v, want one that says who is too old", err)
		}
	})
}

// wantEmpty checks that nothing but the lock is left.
func wantEmpty(t *testing.T, runDir string) {
	t.Helper()
	entries, err := os.ReadDir(runDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			t.Errorf("%s is left in the run directory", e.Name())
		}
	}
}

func TestDeathFailsCallsAndIsRepaired(t *testing.T) {
	before := runtime.NumGoroutine()
	m, o := self(t, "")
	p, err := Start(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(context.Background()) }()
	// The ways to die, and what is said of it.
	for _, test := range []struct{ prompt, text, message, stderr string }{
		{"exit", "last words", "plugin fault died: exit status 7", "about to exit"},
		{"crash", "", "plugin fault died: exit status 2", "panic: in a goroutine"},
		{"kill", "", "plugin fault died: signal: killed", ""},
	} {
		was := p.State()
		bystander := make(chan error, 1)
		begun := make(chan struct{})
		go func() {
			bystander <- p.Provider().Generate(context.Background(), prompt("hang"), func(sdk.Chunk) error {
				close(begun)
				return nil
			})
		}()
		<-begun
		if test.prompt == "kill" {
			if err := syscall.Kill(was.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			tr := sdktest.Record(context.Background(), p.Provider(), prompt(test.prompt))
			wantDeath(t, tr.Err, test.message, test.stderr)
		}
		wantDeath(t, <-bystander, test.message, test.stderr)
		eventually(t, "it is up again", func() bool { s := p.State(); return s.Up && s.PID != was.PID })
		if tr := sdktest.Record(context.Background(), p.Provider(), prompt("pid")); tr.Err != nil || tr.Text() != strconv.Itoa(p.State().PID) {
			t.Errorf("after %s: %q, %v; want an answer of process %d", test.prompt, tr.Text(), tr.Err, p.State().PID)
		}
	}
	if s := p.State(); s.Restarts != 3 || s.Calls != 0 {
		t.Errorf("state is %+v, want 3 restarts and no calls", s)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := p.Provider().Generate(t.Context(), prompt("pid"), nil); sdk.AsError(err) != errClosed {
		t.Errorf("after Close: %v, want %v", err, errClosed)
	}
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
	wantEmpty(t, o.RunDir)
}

func wantDeath(t *testing.T, err error, message, stderr string) {
	t.Helper()
	e := sdk.AsError(err)
	if e == nil || e.Kind != sdk.Unavailable || e.Fault != sdk.Plugin || e.Message != message {
		t.Errorf("error is %#v, want an Unavailable of the plugin: %s", e, message)
		return
	}
	var exit *ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Stderr, stderr) || len(exit.Stderr) > tailSize {
		t.Errorf("its last words are %+v, want %q among at most 4 KB", exit, stderr)
	}
}

func TestPanicIsOneCallsOwn(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	pid := p.State().PID
	tr := sdktest.Record(t.Context(), p.Provider(), prompt("panic"))
	if e := sdk.AsError(tr.Err); e == nil || e.Kind != sdk.Internal || e.Fault != sdk.Plugin || e.Message != "provider panicked: out of luck" {
		t.Errorf("error is %v, want the panic", tr.Err)
	}
	if tr.Text() != "last words" {
		t.Errorf("text is %q, want what was emitted before the panic", tr.Text())
	}
	if tr := sdktest.Record(t.Context(), p.Provider(), prompt("pid")); tr.Text() != strconv.Itoa(pid) {
		t.Errorf("process is %s, want still %d", tr.Text(), pid)
	}
}

func TestCrashLoopIsSlowedDown(t *testing.T) {
	m, o := self(t, "")
	o.BackoffMin, o.BackoffMax = time.Hour, time.Hour
	p := launch(t, m, o)
	keepRunning(t, p)
	first := p.State().PID
	wantDeath(t, sdktest.Record(t.Context(), p.Provider(), prompt("exit")).Err, "plugin fault died: exit status 7", "")
	eventually(t, "it is up again", func() bool { s := p.State(); return s.Up && s.PID != first })
	wantDeath(t, sdktest.Record(t.Context(), p.Provider(), prompt("exit")).Err, "plugin fault died: exit status 7", "")
	eventually(t, "its second restart is planned", func() bool { return time.Until(p.State().RetryAt) > 40*time.Minute })
	err := sdktest.Record(t.Context(), p.Provider(), prompt("pid")).Err
	if e := sdk.AsError(err); e == nil || e.Kind != sdk.Unavailable || e.Wait < 40*time.Minute {
		t.Errorf("error is %v, want an Unavailable with the time to wait", err)
	}
}

func TestBackoff(t *testing.T) {
	p := &Plugin{opts: Options{BackoffMin: 250 * time.Millisecond, BackoffMax: 30 * time.Second}}
	if d := p.backoff(0); d != 0 {
		t.Errorf("the first restart waits %v, want none", d)
	}
	for n, want := range map[int]time.Duration{1: 250 * time.Millisecond, 2: 500 * time.Millisecond, 3: time.Second, 4: 30 * time.Second, 1000: 30 * time.Second} {
		if d := p.backoff(n); d > want || d < want*4/5-1 {
			t.Errorf("restart %d waits %v, want %v less up to a fifth", n, d, want)
		}
	}
}

func TestSilentProcessIsReplaced(t *testing.T) {
	m, o := self(t, "")
	o.HealthInterval, o.HealthTimeout = 10*time.Millisecond, 200*time.Millisecond
	p := launch(t, m, o)
	keepRunning(t, p)
	pid := p.State().PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another process serves", func() bool { s := p.State(); return s.Up && s.PID != pid })
}

func TestMemoryLimit(t *testing.T) {
	m, o := self(t, "")
	o.UsageInterval = 10 * time.Millisecond
	m.Limits.Memory = 1 << 20 // less than any Go program has
	p := launch(t, m, o)
	pid := p.State().PID
	keepRunning(t, p)
	eventually(t, "the process is replaced", func() bool { return p.State().Restarts > 0 })
	eventually(t, "the process is gone", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

func TestChildrenDieWithIt(t *testing.T) {
	m, o := self(t, "")
	m.Env = append(m.Env, "PATH")
	lookup := o.LookupEnv
	o.LookupEnv = func(name string) (string, bool) {
		if name == "PATH" {
			return os.LookupEnv(name)
		}
		return lookup(name)
	}
	p := launch(t, m, o)
	tr := sdktest.Record(t.Context(), p.Provider(), prompt("child"))
	child, err := strconv.Atoi(tr.Text())
	if err != nil {
		t.Fatal(err, tr.Err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "its child is gone", func() bool { return gone(child) })
}

// gone is so for zombies too: in a container nobody may reap orphans.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestCloseDrains(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	begun, proceed, answered := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		answered <- p.Provider().Generate(ctx, prompt("pid"), func(sdk.Chunk) error {
			close(begun)
			<-proceed
			return nil
		})
	}()
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- p.Close(context.Background()) }()
	<-p.closing
	if err := p.Provider().Generate(t.Context(), prompt("pid"), nil); sdk.AsError(err) != errClosed {
		t.Errorf("a call during Close: %v, want %v", err, errClosed)
	}
	select {
	case <-closed:
		t.Error("Close has returned while a call is under way")
	default:
	}
	close(proceed)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v, want none", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestCloseCutsWhatTakesTooLong(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	begun, answered := make(chan struct{}), make(chan error, 1)
	go func() {
		answered <- p.Provider().Generate(context.Background(), prompt("hang"), func(sdk.Chunk) error {
			close(begun)
			return nil
		})
	}()
	<-begun
	if err := p.Close(ended()); err != nil {
		t.Error(err)
	}
	if e := sdk.AsError(<-answered); e == nil || e.Kind != sdk.Unavailable || e.Fault != sdk.Host {
		t.Errorf("the call under way: %v, want an Unavailable of the host", e)
	}
}

func TestFloodIsHeldBack(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		n := 0
		done <- p.Provider().Generate(ctx, prompt("flood"), func(sdk.Chunk) error {
			if n++; n == 1 {
				close(begun)
				<-ctx.Done()
			}
			return nil
		})
	}()
	<-begun
	// The plugin floods into a stopped stream; others are served all the same, and its memory
	// stays that of some buffers.
	for range 200 {
		if tr := sdktest.Record(t.Context(), p.Provider(), prompt("pid")); tr.Err != nil {
			t.Fatal(tr.Err)
		}
	}
	if used := measure(p.State().PID); used.memory == 0 || used.memory > 256<<20 {
		t.Errorf("the plugin uses %d bytes", used.memory)
	}
	cancel()
	if e := sdk.AsError(<-done); e == nil || e.Kind != sdk.Cancelled {
		t.Errorf("error is %v, want a cancellation", e)
	}
}

func TestOnlyTheHostCancels(t *testing.T) {
	m, o := self(t, "")
	p := launch(t, m, o)
	tr := sdktest.Record(t.Context(), p.Provider(), prompt("cancelled"))
	if e := sdk.AsError(tr.Err); e == nil || e.Kind != sdk.Internal || e.Fault != sdk.Plugin {
		t.Errorf("error is %v, want an Internal of the plugin", tr.Err)
	}
}

func TestUnhostedPluginSpeaksPlainHTTP(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("from upstream")) }))
	defer upstream.Close()
	m, o := self(t, "")
	o.Box = new(box.Level)
	p := launch(t, m, o)
	tr := sdktest.Record(t.Context(), p.Provider(), prompt("fetch "+upstream.URL))
	if tr.Err != nil || tr.Text() != "from upstream" {
		t.Errorf("%q, %v; want the upstream's answer", tr.Text(), tr.Err)
	}
}
