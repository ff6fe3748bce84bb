package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/guest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// onePage is a module that has a page of memory and nothing else.
var onePage = []byte("\x00asm\x01\x00\x00\x00\x05\x03\x01\x00\x01\x07\x0a\x01\x06memory\x02\x00")

// FuzzImports calls what a guest may call, with arguments and a memory of any
// content: every call comes back, with an answer that the ABI has, and leaves
// alone what it wasn't given.
func FuzzImports(f *testing.F) {
	ours, theirs := slices.Sorted(maps.Keys(hostFuncs)), slices.Sorted(maps.Keys(wasi))
	args := func(v ...uint32) (b []byte) {
		for _, a := range v {
			b = binary.LittleEndian.AppendUint32(b, a)
		}
		return b
	}
	clock := append(make([]byte, 16), args(1, 0, 1000, 0)...)
	request, err := (&sdk.HTTPRequest{URL: "https://a.example/", Header: sdk.Header{"x": "y"}}).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	_, usage := sdk.EncodeChunk(nil, sdk.Usage{Input: 1, Output: 2})
	for i := range len(ours) + len(theirs) {
		f.Add(byte(i), args(1, 0, 20, 64, 0, 0, 0, 0, 0), []byte("some text"))
		f.Add(byte(i), args(^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)), []byte{})
	}
	f.Add(byte(slices.Index(ours, guest.ImportHTTPOpen)), args(0, uint32(len(request)), 0, 0), request)
	f.Add(byte(slices.Index(ours, guest.ImportEmit)), args(guest.KindUsage, 0, uint32(len(usage))), usage)
	f.Add(byte(len(ours)+slices.Index(theirs, "poll_oneoff")), args(0, 1024, 1, 2048), clock)
	f.Add(byte(len(ours)+slices.Index(theirs, "fd_write")), args(2, 0, 2, 100), args(0, 8, 8, 8))

	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	mod, err := r.Instantiate(ctx, onePage)
	if err != nil {
		f.Fatal(err)
	}
	m := &manifest.Manifest{Name: "fuzzed", Limits: manifest.Limits{Output: 1 << 20, RequestBody: 1 << 16, OpenRequests: 2, Memory: 1 << 16, CPU: time.Hour}}
	log, _ := newLog(f)
	gate, err := egress.New(m, egress.Options{Log: log})
	if err != nil {
		f.Fatal(err)
	}
	defer gate.Close()
	p := &Plugin{m: m, log: newPlainLog(log), gate: gate, stop: ctx}
	f.Fuzz(func(t *testing.T, which byte, raw, content []byte) {
		mem := mod.Memory()
		all, _ := mem.Read(0, mem.Size())
		clear(all)
		copy(all, content)
		arg := make([]uint64, 9)
		for i := range arg {
			if len(raw) >= 4 {
				arg[i], raw = uint64(binary.LittleEndian.Uint32(raw)), raw[4:]
			}
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond) // a guest may sleep for years
		defer cancel()
		c, release := p.newCall(ctx, []byte("input"), func(sdk.Chunk) error { return nil })
		defer release()
		before := bytes.Clone(all)
		if n := int(which) % (len(ours) + len(theirs)); n < len(ours) {
			name := ours[n]
			if v := hostFuncs[name](c, mem, arg); v < -int32(guest.ECANCELED) {
				t.Errorf("%s answers %d", name, v)
			}
			if (name == guest.ImportEmit || name == guest.ImportOutput || name == guest.ImportLog) && !bytes.Equal(all, before) {
				t.Errorf("%s writes to memory", name)
			}
		} else if v := wasi[theirs[n-len(ours)]].f(c, mem, arg); v > 76 {
			t.Errorf("%s answers %d", theirs[n-len(ours)], v)
		}
	})
}

// A guest that is to stop can't have the host work for it until it next yields,
// which is a thousand calls away.
func TestHostStopsWorkingForGuestThatIsToStop(t *testing.T) {
	mod, err := newMemory(t)
	if err != nil {
		t.Fatal(err)
	}
	mem := mod.Memory()
	log, _ := newLog(t)
	p := &Plugin{m: &manifest.Manifest{Name: "greedy", Limits: manifest.Limits{RequestBody: 1 << 16, OpenRequests: 2}}, log: newPlainLog(log), stop: t.Context()}
	size := uint64(mem.Size())
	for name, arg := range map[string][]uint64{
		guest.ImportInputRead: {0, size},
		guest.ImportOutput:    {guest.OutputResult, 0, size},
		guest.ImportLog:       {guest.LogInfo, 0, size},
		guest.ImportLastError: {0, size},
		guest.ImportHTTPOpen:  {0, size, 0, 0}, // malformed
	} {
		ctx, cancel := context.WithCancel(t.Context())
		c, release := p.newCall(ctx, make([]byte, size), nil)
		c.last = pluginError("%s", strings.Repeat("x", 10_000))
		cancel()
		calls, answer := 0, int32(0)
		func() {
			defer func() {
				if e := recover(); e != nil {
					if exit, ok := e.(*sys.ExitError); !ok || exit.ExitCode() != sys.ExitCodeContextCanceled {
						t.Errorf("%s: %v", name, e)
					}
					answer = fail(guest.ECANCELED)
				}
			}()
			for ; calls < 100 && answer != fail(guest.ECANCELED); calls++ {
				answer = hostFuncs[name](c, mem, arg)
			}
		}()
		if release(); answer != fail(guest.ECANCELED) {
			t.Errorf("%s: still answers %d after %d calls", name, answer, calls)
		}
	}
}

// A thousand empty pieces of output are work too.
func TestEmptyOutputIsCounted(t *testing.T) {
	mod, err := newMemory(t)
	if err != nil {
		t.Fatal(err)
	}
	log, _ := newLog(t)
	p := &Plugin{m: &manifest.Manifest{Name: "greedy"}, log: newPlainLog(log), stop: t.Context()}
	c, release := p.newCall(t.Context(), nil, nil)
	defer release()
	if errno := fdWrite(c, mod.Memory(), []uint64{1, 0, maxIovecs, maxIovecs * 8}); errno != wasiOK {
		t.Fatal(errno)
	}
	if c.fuel < 10*maxIovecs {
		t.Errorf("%d pieces cost %d units of fuel", maxIovecs, c.fuel)
	}
}

// What a guest says of its end goes into logs: it is no longer than an honest one.
func TestLastWordsAreBounded(t *testing.T) {
	log, _ := newLog(t)
	p := &Plugin{m: &manifest.Manifest{Name: "talker", Limits: manifest.Limits{Output: 1 << 20}}, log: newPlainLog(log), stop: t.Context()}
	c, release := p.newCall(t.Context(), nil, discard)
	defer release()
	c.output[guest.OutputError] = append(binary.AppendUvarint([]byte{3<<3 | 2}, 1<<20), strings.Repeat("x", 1<<20)...)
	_, err := c.result(t.Context(), guest.Failed, nil)
	if n := len(err.Error()); n < 1000 || n > maxMessage+100 {
		t.Errorf("its error has %d bytes", n)
	}
	c.output[guest.OutputError] = []byte("\x1a\x0aa\x1b[2Jb\nc\x00\x07")
	if _, err := c.result(t.Context(), guest.Failed, nil); err.Error() != "a[2Jb\nc" {
		t.Errorf("its error is %q", err)
	}
	if err := c.stdio.write(slog.LevelInfo, []byte("\x1b]0;title\aboom\r\n")); err != nil {
		t.Fatal(err)
	}
	if got := c.stdio.excerpt(); got != "]0;titleboom" {
		t.Errorf("it printed %q", got)
	}
	kind, call := sdk.EncodeChunk(nil, sdk.ToolCall{Index: -1, Arguments: strings.Repeat("x", 1<<20)})
	c.emitOther(kind, call)
	if c.fatal == nil || len(c.fatal.Message) > maxMessage {
		t.Errorf("a chunk that can't be: %.200v", c.fatal)
	}
}

// newMemory is an instance of onePage.
func newMemory(t *testing.T) (api.Module, error) {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	t.Cleanup(func() { r.Close(context.Background()) })
	return r.Instantiate(t.Context(), onePage)
}
