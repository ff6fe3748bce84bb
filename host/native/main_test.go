package native

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/proto/provider"
	"github.com/sluicehq/sluice/sdk"
)

// The test binary is also the plugin that the tests run: a host's cookie in the environment makes
// it one.
func TestMain(m *testing.M) {
	if os.Getenv(provider.CookieKey) == "" {
		var err error
		if storeDir, err = os.MkdirTemp("", "sluice-store"); err != nil {
			panic(err)
		}
		code := m.Run()
		os.RemoveAll(storeDir)
		os.Exit(code)
	}
	switch os.Getenv("TEST_PLUGIN") {
	case "protocol 2":
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: 2, MagicCookieKey: provider.CookieKey, MagicCookieValue: provider.CookieValue},
			VersionedPlugins: map[int]goplugin.PluginSet{2: {provider.PluginName: later{}}},
			GRPCServer:       func(opts []grpc.ServerOption) *grpc.Server { return grpc.NewServer(opts...) },
		})
	case "dies at start":
		fmt.Fprintln(os.Stderr, "no licence for this machine")
		os.Exit(3)
	case "never answers":
		select {}
	case "endless line":
		for {
			if _, err := fmt.Print(strings.Repeat("x", 1000)); err != nil {
				os.Exit(1)
			}
		}
	case "leads a group":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "not a plugin":
		fmt.Println("hello, world")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "runaway":
		if err := leaveGroup(); err != nil {
			panic(err)
		}
		select {}
	default:
		if mode := os.Getenv("TEST_PLUGIN"); strings.HasPrefix(mode, "hello ") {
			shakeHands(mode)
			os.Exit(0)
		}
		sdk.Register(sdk.Provider{Name: "fault", Version: "1.0.0", Generate: misbehave})
		sdk.Main()
	}
	os.Exit(0)
}

// later is the service of a later protocol.
type later struct{ connection }

func (later) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error { return nil }

// storeDir is shared by all tests, so that the test binary is stored once.
var storeDir string

// Of the prompt "paced".
const (
	pace        = 5 * time.Millisecond
	pacedTokens = 400
)

// misbehave does what the prompt says.
func misbehave(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	word, rest, _ := strings.Cut(req.Prompt(), " ")
	switch word {
	case "env":
		return emit(sdk.Text(strings.Join(os.Environ(), "\n")))
	case "exe":
		path, err := os.Executable()
		if err != nil {
			return err
		}
		return emit(sdk.Text(path))
	case "settings":
		return emit(sdk.Text(req.Settings))
	case "log":
		sdk.Logger().Warn("a warning", "answer", 42)
		fmt.Fprintln(os.Stdout, "to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
		return nil
	case "exit":
		if err := emit(sdk.Text("last words")); err != nil {
			return err
		}
		slog.Error("about to exit")
		os.Exit(7)
	case "panic":
		if err := emit(sdk.Text("last words")); err != nil {
			return err
		}
		panic("out of luck")
	case "crash":
		go func() { panic("in a goroutine") }()
		<-ctx.Done()
		return ctx.Err()
	case "pid":
		return emit(sdk.Text(fmt.Sprint(os.Getpid())))
	case "child": // a grandchild of the host that holds the outputs open, in the plugin's group
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		return emit(sdk.Text(fmt.Sprint(cmd.Process.Pid)))
	case "hang":
		if err := emit(sdk.Text("hanging")); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	case "flood":
		for {
			if err := emit(sdk.Text(strings.Repeat("x", 1000))); err != nil {
				return err
			}
		}
	case "tokens":
		for {
			if err := emit(sdk.Text("a token of 20 bytes.")); err != nil {
				return err
			}
		}
	case "paced":
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for range pacedTokens {
			<-tick.C
			if err := emit(sdk.Text("a token of 20 bytes.")); err != nil {
				return err
			}
		}
		return nil
	case "cancelled":
		return sdk.Errorf(sdk.Cancelled, "I don't feel like it")
	case "fetch":
		resp, err := sdk.Do(ctx, sdk.HTTPRequest{URL: rest})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		return emit(sdk.Text(b))
	}
	return attack(ctx, word, rest, emit)
}

// fixture is a manifest for a program. Its memory limit leaves room for the race detector.
func fixture(t testing.TB, name, program string) *manifest.Manifest {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	limits := manifest.Defaults()
	limits.Memory = 2 << 30
	return &manifest.Manifest{
		Name: name, Version: "1.0.0", Protocol: 1, Runtime: manifest.Native,
		Dir: filepath.Dir(program), Artifact: filepath.Base(program), SHA256: hex.EncodeToString(sum[:]),
		Models: []manifest.Model{{Name: name}}, Limits: limits, Config: []byte(`{"from":"operator"}`),
	}
}

// self is the test binary's plugin in one of its modes.
func self(t *testing.T, mode string) (*manifest.Manifest, Options) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := fixture(t, "fault", exe)
	m.Env = []string{"TEST_PLUGIN", "TEST_NAMED"}
	o := options(t)
	o.LookupEnv = func(name string) (string, bool) {
		v, ok := map[string]string{"TEST_PLUGIN": mode, "TEST_NAMED": "named", "TEST_SECRET": "not named"}[name]
		return v, ok
	}
	return m, o
}

// options are for a box without namespaces, in which a plugin sees its own process number. The
// tests of boxes choose others.
func options(t *testing.T) Options {
	t.Helper()
	level := box.Find()
	level.Namespaces, level.Root = false, false
	run, err := os.MkdirTemp("", "sl") // short, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	return Options{
		Log:      slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		CacheDir: storeDir, RunDir: run, StartTimeout: 30 * time.Second, Box: &level,
	}
}

func launch(t *testing.T, m *manifest.Manifest, o Options) *Plugin {
	t.Helper()
	p, err := Start(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(ended()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// keepRunning runs the supervisor until the test ends.
func keepRunning(t *testing.T, p *Plugin) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func prompt(text string) *sdk.Request {
	return &sdk.Request{JobID: "test", Attempt: 1, Model: "fault", Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(text)}}}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(30 * time.Second)
	defer end.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			t.Fatalf("it is still not so that %s", what)
		case <-tick.C:
		}
	}
}

// syncBuffer is a log to look into.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
