package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/tetratelabs/wazero"
)

// Guests are installed by a process of their own. Compiling takes time and
// memory that grow with the square of a function and worse, and can't be
// interrupted: fifteen kilobytes of nested loops are enough for a quarter of a
// minute. The process is this same program, which notices by the variable below
// that it is to install a guest and do nothing else.
const installerVariable = "SLUICE_SANDBOX_INSTALL"

// Limits of an installation.
const (
	installCPU    = time.Minute
	installWall   = 10 * time.Minute // on a machine with other things to do
	installMemory = 2 << 30
)

// errInstall is the exit code of an installer that printed why; others die of
// their limits.
const exitInstall = 3

func init() {
	if dir := os.Getenv(installerVariable); dir != "" {
		os.Exit(installer(dir, os.Stdin, os.Stdout, os.Stderr))
	}
}

// installation is what the installer is told, before the guest's bytes.
type installation struct {
	Name   string
	Memory int64
	Image  string // file to write
	CPU    time.Duration
}

// runInstaller installs a guest: afterwards its image is in file and its code in
// the cache.
func (rt *Runtime) runInstaller(ctx context.Context, m *manifest.Manifest, log *plainLog, bin []byte, file string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the installer: %w", err)
	}
	head, err := json.Marshal(installation{Name: m.Name, Memory: m.Limits.Memory, Image: file, CPU: rt.installCPU})
	if err != nil {
		return fmt.Errorf("tell the installer: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, installWall)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = []string{installerVariable + "=" + rt.dir}
	cmd.Dir = rt.dir
	cmd.Stdin = io.MultiReader(bytes.NewReader(binary.LittleEndian.AppendUint32(nil, uint32(len(head)))), bytes.NewReader(head), bytes.NewReader(bin))
	var reason, printed bounded
	cmd.Stdout, cmd.Stderr = &reason, &printed
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	for line := range strings.Lines(printed.String()) {
		log.line(slog.LevelWarn, strings.TrimSpace(line))
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("install: %w", context.Cause(ctx))
	case errors.As(err, &exit) && exit.ExitCode() == exitInstall:
		return errors.New(reason.String())
	case errors.As(err, &exit):
		return fmt.Errorf("takes more than %v of processor time or %d MiB of memory to install (%w)", rt.installCPU, installMemory>>20, err)
	}
	return fmt.Errorf("run the installer: %w", err)
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, 64<<10-b.Len()))])
	return len(p), nil
}

// installer is the main function of the installing process.
func installer(dir string, stdin io.Reader, stdout, stderr io.Writer) int {
	if err := installFrom(dir, stdin, stderr); err != nil {
		fmt.Fprint(stdout, err)
		return exitInstall
	}
	return 0
}

func installFrom(dir string, stdin io.Reader, stderr io.Writer) error {
	in, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	var what installation
	if len(in) < 4 || uint64(binary.LittleEndian.Uint32(in)) > uint64(len(in)-4) {
		return errors.New("the installer was told nothing")
	}
	n := 4 + int(binary.LittleEndian.Uint32(in))
	if err := json.Unmarshal(in[4:n], &what); err != nil {
		return fmt.Errorf("read what to install: %w", err)
	}
	if err := limitInstaller(what.CPU, installMemory); err != nil {
		return fmt.Errorf("limit the installer: %w", err)
	}
	ctx := context.Background()
	m := &manifest.Manifest{Name: what.Name, Limits: manifest.Limits{Memory: what.Memory}}
	pre, err := install(ctx, m, newPlainLog(slog.New(&lineHandler{w: stderr})), in[n:])
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp(dir, stagePrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	cache, err := wazero.NewCompilationCacheWithDir(stage)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)
	r := wazero.NewRuntimeWithConfig(ctx, runtimeConfig(cache))
	defer r.Close(ctx)
	if _, err := r.CompileModule(ctx, pre.code); err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	code, err := adopt(dir, stage)
	if err != nil {
		return fmt.Errorf("keep the code: %w", err)
	}
	if err := writeFile(what.Image+codeSuffix, []byte(strings.Join(code, "\n")+"\n")); err != nil {
		return err
	}
	return writePrepared(what.Image, pre)
}

// lineHandler prints what a guest logs while it is installed, and why it can't
// be frozen, a line each, for the host to log under the plugin's name.
type lineHandler struct{ w io.Writer }

func (h *lineHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.Value.String()
		return true
	})
	_, err := fmt.Fprintln(h.w, strings.TrimPrefix(strings.ReplaceAll(text, "\n", " "), logMessage+" "))
	return err
}

func (h *lineHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *lineHandler) WithGroup(string) slog.Handler      { return h }
