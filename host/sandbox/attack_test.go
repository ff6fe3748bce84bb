package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/guest"
	"github.com/sluicehq/sluice/sdk"
)

// installed writes a plugin directory around a module and loads its manifest.
func installed(tb testing.TB, bin []byte, limits string) *manifest.Manifest {
	tb.Helper()
	src, out := tb.TempDir(), tb.TempDir()
	text := "name: attack\nversion: 0.1.0\nprotocol: 1\nruntime: wasm\nartifact: attack.wasm\nmodels: [{name: a}]\nlimits: {" + limits + "}\n"
	for name, b := range map[string][]byte{"plugin.yaml": []byte(text), "attack.wasm": bin} {
		if err := os.WriteFile(filepath.Join(src, name), b, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	m, err := manifest.Build(tb.Context(), filepath.Join(src, "plugin.yaml"), out)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func attackModule(tb testing.TB) []byte { return module(tb, "attack") }

func module(tb testing.TB, name string) []byte {
	tb.Helper()
	bin, err := os.ReadFile("testdata/" + name + ".wasm")
	if err != nil {
		tb.Fatal(err)
	}
	return bin
}

// A guest that can't be frozen runs its initialisation for every job.
func TestUnfreezableGuest(t *testing.T) {
	p, log := load(t, installed(t, module(t, "table"), "memory: 1MiB"))
	if p.reusable || !strings.Contains(log.String(), "writes to its tables") {
		t.Error("a guest that writes to its tables was frozen")
	}
	for range 3 {
		if text, err := collect(t.Context(), p, ask("a", "")); text != "1" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
	}
}

// Whatever a guest runs in, a deadline ends it.
func TestHostileCodeIsStopped(t *testing.T) {
	p, _ := load(t, installed(t, attackModule(t), "memory: 64MiB, output: 4GiB, cpu: 24h"))
	for _, export := range []string{
		"spin", "spin_if", "spin_table", "fib", "mutual", "fill", "copy", "grow", "grow_nothing", "host_calls", "scheduler",
		"random", "writev", "log_flood", "emit_flood", "emit_empty",
	} {
		t.Run(export, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := p.invoke(ctx, export, nil, func(sdk.Chunk) error { return nil })
			wantError(t, err, sdk.Unavailable, sdk.Upstream, "deadline")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
}

// rawGuest is a guest of one function that does everything, and the exports the
// ABI wants.
func rawGuest(body string) []byte {
	section := func(id byte, b string) string { return string(id) + leb(len(b)) + b }
	exports, count := "", 0
	add := func(name string, kind, index byte) {
		exports += leb(len(name)) + name + string([]byte{kind, index})
		count++
	}
	add("memory", 2, 0)
	add(guest.ExportABI, 0, 0)
	for _, name := range []string{guest.ExportDescribe, guest.ExportConfigure} {
		add(name, 0, 1)
	}
	add(guest.ExportGenerate, 0, 2)
	funcs := []string{"\x00\x41\x80\x80\x04\x0b", "\x00\x41\x00\x0b", body}
	code := leb(len(funcs))
	for _, f := range funcs {
		code += leb(len(f)) + f
	}
	return []byte("\x00asm\x01\x00\x00\x00" + section(1, "\x01\x60\x00\x01\x7f") + section(3, "\x03\x00\x00\x00") +
		section(5, "\x01\x00\x01") + section(7, leb(count)+exports) + section(10, code))
}

func leb(n int) string {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return string(append(b, byte(n)))
}

// Loops whose body is very large, in a straight line and in
// blocks that are all jumped out of or none.
func TestGiantLoopsAreStopped(t *testing.T) {
	// Small enough to be compiled in a moment, which TestCompileBombs is about.
	for name, part := range map[string]string{
		"straight": "\x20\x00\x41\x01\x6a\x21\x00",                     // local 0 += 1
		"divide":   "\x20\x00\x41\x07\x6e\x21\x00",                     // local 0 /= 7
		"blocks":   "\x02\x40\x20\x00\x41\x01\x6a\x22\x00\x0d\x00\x0b", // block; br_if out; end
		"memory":   "\x41\x00\x28\x02\x00\x1a",                         // load; drop
	} {
		t.Run(name, func(t *testing.T) {
			n := 256 << 10 / len(part)
			if name == "blocks" {
				n = 4000
			}
			body := "\x01\x01\x7f" + "\x03\x40" + strings.Repeat(part, n) + "\x0c\x00\x0b\x41\x00\x0b"
			p, _ := load(t, installed(t, rawGuest(body), "memory: 1MiB, cpu: 24h"))
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := collect(ctx, p, ask("a", ""))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	m := installed(t, rawGuest("\x00"+strings.Repeat("\x01", 1<<20)+"\x41\x00\x0b"), "memory: 1MiB")
	log, _ := newLog(t)
	rt, err := NewRuntime(t.Context(), Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(context.Background())
	if _, err := rt.Load(t.Context(), m, nil); err == nil || !strings.Contains(err.Error(), "function of more than") {
		t.Errorf("a function over the limit: %v", err)
	}
}

// Small modules that would keep the compiler busy for minutes, and its memory
// full, are given up.
func TestCompileBombs(t *testing.T) {
	const n = 3000
	use := ""
	for i := range n {
		use += "\x20" + leb(i) + "\x41\x01\x6a\x21" + leb(i)
	}
	bomb := rawGuest("\x01" + leb(n) + "\x7f" + strings.Repeat("\x03\x40", n) + use + strings.Repeat("\x41\x01\x0d\x00\x0b", n) + "\x41\x00\x0b")
	m := installed(t, bomb, "memory: 1MiB")
	log, _ := newLog(t)
	rt, err := NewRuntime(t.Context(), Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(context.Background())
	rt.installCPU = time.Second
	if _, err := rt.Load(t.Context(), m, nil); err == nil || !strings.Contains(err.Error(), "takes more than 1s of processor time") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	rt.installCPU = time.Hour
	if _, err := rt.Load(ctx, m, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
}

// Without a deadline, what a guest may use up ends it.
func TestHostileCodeRunsOut(t *testing.T) {
	p, log := load(t, installed(t, attackModule(t), "memory: 64MiB, output: 1MiB, cpu: 50ms"))
	for export, want := range map[string]string{
		"spin": "limit of 50ms of processor time", "fib": "processor time", "fill": "processor time", "grow": "processor time",
		"grow_nothing": "processor time", "host_calls": "processor time", "log_flood": "processor time", "writev": "processor time",
		"emit_flood": "emitted more than its limit of 1048576 bytes", "emit_empty": "emitted more than",
		"overflow": "its stack was larger than 16777216 bytes", "hold": "its stack was larger than", "unreachable": "unreachable", "divide": "divide by zero", "wild": "out of bounds",
	} {
		t.Run(export, func(t *testing.T) {
			_, err := p.invoke(t.Context(), export, nil, func(sdk.Chunk) error { return nil })
			wantError(t, err, sdk.Internal, sdk.Plugin, want)
		})
	}
	if n := strings.Count(log.String(), "plugin log"); n > 1000 {
		t.Errorf("%d lines in the log", n)
	}
}

func TestStackCanBeSeen(t *testing.T) {
	p, _ := load(t, installed(t, attackModule(t), "memory: 64MiB"))
	in, err := p.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.put(t.Context(), in, false)
	if s := stackOf(in.mod.ExportedFunction("spin")); s == nil || len(*s) == 0 {
		t.Error("the engine no longer shows its stack: deep recursion isn't limited")
	}
}

// Ranges and messages that make no sense are the guest's problem.
func TestBadArguments(t *testing.T) {
	p, _ := load(t, installed(t, attackModule(t), "memory: 64MiB"))
	for export, want := range map[string]guest.Errno{
		"emit_huge": guest.E2BIG, "emit_outside": guest.EFAULT, "emit_wrapping": guest.EFAULT, "emit_negative": guest.E2BIG,
		"emit_kind": guest.EINVAL, "emit_garbage": guest.EINVAL, "emit_not_utf8": guest.EINVAL,
		"read_outside": guest.EFAULT, "read_short": guest.E2BIG,
		"output_kind": guest.EINVAL, "output_huge": guest.E2BIG, "output_outside": guest.EFAULT,
		"open_outside": guest.EFAULT, "open_huge_meta": guest.E2BIG, "open_huge_body": guest.E2BIG, "open_garbage": guest.EINVAL,
		"head_bad": guest.EBADF, "http_read_bad": guest.EBADF, "close_bad": guest.EBADF,
		"log_outside": guest.EFAULT, "log_level": guest.EINVAL,
	} {
		t.Run(export, func(t *testing.T) {
			c, release := p.newCall(t.Context(), []byte("the input"), func(sdk.Chunk) error {
				t.Error("something was emitted")
				return nil
			})
			defer release()
			code, err := p.run(c, export)
			if err != nil || code != fail(want) {
				t.Errorf("returned %d, %v, want %d", code, err, fail(want))
			}
		})
	}
}

// TestNotAPlugin: what can't be run says why and what to do.
func TestNotAPlugin(t *testing.T) {
	raw := func(parts ...string) []byte { return []byte("\x00asm\x01\x00\x00\x00" + strings.Join(parts, "")) }
	memory := "\x05\x03\x01\x00\x01"
	tests := map[string]struct {
		bin  []byte
		want string
	}{
		"nothing":        {nil, "is not a WebAssembly module"},
		"text":           {[]byte("hello"), "-buildmode=c-shared"},
		"native program": {[]byte("\x7fELF\x02"), "runtime: native"},
		"component":      {[]byte("\x00asm\x0d\x00\x01\x00"), "component"},
		"cut":            {attackModule(t)[:200], "ends early"},
		"no memory":      {raw(), "no memory"},
		"no exports":     {raw(memory), "no export sluice_abi"},
		"command": {raw("\x01\x04\x01\x60\x00\x00", "\x03\x02\x01\x00", memory, "\x07\x0a\x01\x06_start\x00\x00", "\x0a\x04\x01\x02\x00\x0b"),
			"WASI command"},
		"another host":  {patch(t, "sluice_v1", "sluice_v9"), "guest ABI v9, this host speaks v1"},
		"own imports":   {patch(t, "sluice_v1", "env_____1"), `from "env_____1"`},
		"newer import":  {patch(t, "last_error", "lust_error"), "ABI 1.0 doesn't have"},
		"older guest":   {patch(t, "\x41\x80\x80\x04\x0b", "\x41\x80\x80\x00\x0b"), "rebuild the plugin with a newer sdk"},
		"newer guest":   {patch(t, "\x41\x80\x80\x04\x0b", "\x41\x80\x80\x08\x0b"), "use a newer sluice"},
		"newer minor":   {patch(t, "\x41\x80\x80\x04\x0b", "\x41\x81\x80\x04\x0b"), "needs guest ABI 1.1"},
		"no generate":   {patch(t, "sluice_generate", "sluice_genezate"), "lacks the export sluice_generate"},
		"too much":      {attackModule(t), "its limit is 16384 KiB"},
		"shared memory": {raw("\x05\x04\x01\x03\x01\x02"), "threads are not supported"},
		"64-bit memory": {raw("\x05\x03\x01\x04\x01"), "64-bit memory"},
		"two memories":  {raw("\x05\x05\x02\x00\x01\x00\x01"), "more than one memory"},
		"exceptions":    {raw(memory, "\x0d\x03\x01\x00\x00"), "section of kind 13"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			limits := "memory: 64MiB"
			if name == "too much" {
				limits = "memory: 16MiB"
			}
			m := installed(t, tt.bin, limits)
			log, _ := newLog(t)
			rt, err := NewRuntime(t.Context(), Options{Log: log})
			if err != nil {
				t.Fatal(err)
			}
			defer rt.Close(context.Background())
			gate, err := egress.New(m, egress.Options{Log: log})
			if err != nil {
				t.Fatal(err)
			}
			_, err = rt.Load(t.Context(), m, gate)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "plugin attack, attack.wasm") {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// patch changes bytes of the attack module.
func patch(t *testing.T, old, with string) []byte {
	t.Helper()
	bin := string(attackModule(t))
	if !strings.Contains(bin, old) {
		t.Fatalf("no %q in the module", old)
	}
	return []byte(strings.ReplaceAll(bin, old, with))
}
