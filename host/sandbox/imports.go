package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/proto/guest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// minChunk is what the smallest chunk counts for towards the output limit.
const minChunk = 16

// hostFunc implements an import: arguments in, count or -errno out.
type hostFunc func(c *call, mem api.Memory, arg []uint64) int32

var hostFuncs = map[string]hostFunc{
	guest.ImportInputLen:  inputLen,
	guest.ImportInputRead: inputRead,
	guest.ImportOutput:    output,
	guest.ImportEmit:      emit,
	guest.ImportHTTPOpen:  httpOpen,
	guest.ImportHTTPHead:  httpHead,
	guest.ImportHTTPRead:  httpRead,
	guest.ImportHTTPClose: httpClose,
	guest.ImportLog:       logLine,
	guest.ImportLastError: lastError,
}

// defineImports makes the modules that guests import from. Functions are
// registered without reflection: that alone is the difference between 0.1 and
// 2.4 µs a call.
func defineImports(ctx context.Context, r wazero.Runtime) error {
	if err := defineWASI(ctx, r); err != nil {
		return err
	}
	i32 := api.ValueTypeI32
	params := []api.ValueType{i32, i32, i32, i32}
	b := r.NewHostModuleBuilder(guest.Module)
	for name, f := range hostFuncs {
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
			c := callOf(ctx)
			if c == nil || c.loading {
				stack[0] = result(fail(guest.ENOSYS))
				return
			}
			c.checkStack()
			stack[0] = result(f(c, m.Memory(), stack))
		}), params[:signatures[name]], params[:1]).Export(name)
	}
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(yield), nil, params[:1]).Export(guest.ImportYield)
	_, err := b.Instantiate(ctx)
	return err
}

// A call that has used more than polite of fuel makes room for others after
// each slice, instead of using up the time slices of the scheduler, which are
// thirty times as long. An ordinary answer takes less. Making room costs a
// wake-up of another processor when there is one that has nothing to do.
const (
	polite = 10 * quantum
	slice  = 4 * quantum
)

// yield is called by the code that the rewriting put into the guest. Being in
// Go code for a moment is what lets the scheduler and the garbage collector
// have their turn.
func yield(ctx context.Context, _ api.Module, stack []uint64) {
	stack[0] = quantum
	if c := callOf(ctx); c != nil {
		c.checkStack()
		if c.spend(quantum); c.fuel > c.polite {
			c.polite = c.fuel + slice
			runtime.Gosched()
		}
	}
	if ctx.Err() != nil {
		panic(sys.NewExitError(sys.ExitCodeContextCanceled)) // ends the call; result knows why
	}
}

// spend counts what a call takes of the processor, in fuel.
func (c *call) spend(fuel int64) {
	if c.fuel += fuel; c.budget > 0 && c.fuel > c.budget {
		c.stopWith(pluginError("used more than its limit of %v of processor time", c.plugin.m.Limits.CPU))
	}
}

// spendOn counts the host's work on n bytes for a guest. Between two moments at
// which the guest yields it may call the host a thousand times, so that one that
// is to stop is stopped here too, when the host has done as much for it as the
// guest may do by itself.
func (c *call) spendOn(n int) {
	fuel := int64(n) / bytesPerFuel
	c.spend(fuel)
	if c.favours += fuel; c.favours > quantum {
		c.favours = 0
		if c.Err() != nil {
			panic(sys.NewExitError(sys.ExitCodeContextCanceled)) // as in yield
		}
	}
}

// bytesPerFuel is the rate at which the guest pays for its own bulk operations,
// and decoding how many times as much it costs to make something of the bytes.
const (
	bytesPerFuel = 8
	decoding     = 100
)

func result(v int32) uint64 { return uint64(uint32(v)) }

func fail(e guest.Errno) int32 { return -int32(e) }

func ptr(v uint64) uint32 { return uint32(v) }

// broken remembers why an import failed, for last_error.
func (c *call) broken(err error) int32 {
	if c.Err() != nil {
		return fail(guest.ECANCELED)
	}
	c.last = sdk.AsError(err)
	return fail(guest.EIO)
}

func inputLen(c *call, _ api.Memory, _ []uint64) int32 { return int32(len(c.input)) }

func inputRead(c *call, mem api.Memory, arg []uint64) int32 {
	c.spendOn(len(c.input))
	return give(mem, arg[0], arg[1], c.input)
}

// give writes b into the guest's buffer p of n bytes.
func give(mem api.Memory, p, n uint64, b []byte) int32 {
	if ptr(n) < uint32(len(b)) {
		return fail(guest.E2BIG)
	}
	if !mem.Write(ptr(p), b) {
		return fail(guest.EFAULT)
	}
	return int32(len(b))
}

func output(c *call, mem api.Memory, arg []uint64) int32 {
	kind, n := ptr(arg[0]), ptr(arg[2])
	if kind > guest.OutputError {
		return fail(guest.EINVAL)
	}
	if n > guest.MaxOutput {
		return fail(guest.E2BIG)
	}
	b, ok := mem.Read(ptr(arg[1]), n)
	if !ok {
		return fail(guest.EFAULT)
	}
	c.spendOn(len(b))
	c.output[kind] = append(make([]byte, 0, n), b...)
	return 0
}

// emit is called for every token, so what a text doesn't need is elsewhere.
func emit(c *call, mem api.Memory, arg []uint64) int32 {
	if c.Err() != nil {
		return fail(guest.ECANCELED)
	}
	if c.emit == nil {
		return fail(guest.ENOSYS)
	}
	n := ptr(arg[2])
	if n > guest.MaxChunk {
		return fail(guest.E2BIG)
	}
	b, ok := mem.Read(ptr(arg[1]), n)
	if !ok {
		return fail(guest.EFAULT)
	}
	if c.left -= max(int64(n), minChunk); c.left < 0 {
		return c.emittedTooMuch()
	}
	c.spendOn(len(b))
	if kind := ptr(arg[0]); kind != guest.KindText {
		return c.emitOther(kind, b)
	}
	if !utf8.Valid(b) {
		return c.emittedNoText()
	}
	if n == 0 {
		return 0
	}
	return c.deliver(c.texts.text(b))
}

// deliver hands a chunk to whoever wants the answer.
func (c *call) deliver(chunk sdk.Chunk) int32 {
	if err := c.emit(chunk); err != nil {
		c.emitErr = err
		c.cancel()
		return fail(guest.ECANCELED)
	}
	return 0
}

func (c *call) emittedTooMuch() int32 {
	c.stopWith(pluginError("emitted more than its limit of %d bytes", c.plugin.m.Limits.Output))
	return fail(guest.ECANCELED)
}

func (c *call) emittedNoText() int32 {
	c.last = pluginError("emitted text that is not UTF-8")
	return fail(guest.EINVAL)
}

func (c *call) emitOther(kind uint32, b []byte) int32 {
	if kind == guest.KindRefusal {
		if !utf8.Valid(b) {
			return c.emittedNoText()
		}
		if len(b) == 0 {
			return 0
		}
		return c.deliver(sdk.Refusal(b))
	}
	chunk, err := sdk.DecodeChunk(kind, b)
	if err != nil {
		c.last = pluginError("emitted a malformed chunk of kind %d: %v", kind, err)
		return fail(guest.EINVAL)
	}
	if !plausible(chunk) {
		if call, ok := chunk.(sdk.ToolCall); ok {
			chunk = sdk.ToolCall{Index: call.Index} // the rest may be megabytes
		}
		c.stopWith(pluginError("emitted a chunk that can't be: %+v", chunk))
		return fail(guest.ECANCELED)
	}
	return c.deliver(chunk)
}

// maxTokens is more than any model takes or gives in one answer, and maxCalls
// more than it calls tools.
const (
	maxTokens = 1 << 31
	maxCalls  = 1 << 16
)

// plausible refuses numbers that nobody counted: the host adds them up.
func plausible(c sdk.Chunk) bool {
	switch c := c.(type) {
	case sdk.Usage:
		for _, n := range []int{c.Input, c.Output, c.Reasoning, c.CacheRead, c.CacheWrite} {
			if n < 0 || n > maxTokens {
				return false
			}
		}
	case sdk.ToolCall:
		return c.Index >= 0 && c.Index < maxCalls
	}
	return true
}

func httpOpen(c *call, mem api.Memory, arg []uint64) int32 {
	if c.Err() != nil {
		return fail(guest.ECANCELED)
	}
	if ptr(arg[1]) > guest.MaxMeta || int64(ptr(arg[3])) > c.plugin.m.Limits.RequestBody {
		return fail(guest.E2BIG)
	}
	meta, ok := mem.Read(ptr(arg[0]), ptr(arg[1]))
	if !ok {
		return fail(guest.EFAULT)
	}
	body, ok := mem.Read(ptr(arg[2]), ptr(arg[3]))
	if !ok {
		return fail(guest.EFAULT)
	}
	if len(c.streams) >= c.plugin.m.Limits.OpenRequests {
		return fail(guest.EMFILE)
	}
	c.spendOn(decoding * len(meta))
	var req sdk.HTTPRequest
	if err := req.UnmarshalBinary(meta); err != nil {
		c.last = pluginError("made a malformed HTTP request: %v", err)
		return fail(guest.EINVAL)
	}
	header := make(http.Header, len(req.Header))
	for name, v := range req.Header {
		header[name] = []string{v}
	}
	out := &egress.Request{Method: req.Method, URL: req.URL, Header: header, Length: int64(len(body))}
	if len(body) > 0 {
		// A response may begin before the request has been sent, so the body
		// must not be the guest's memory.
		c.spendOn(len(body))
		out.Body = bytes.NewReader(bytes.Clone(body))
	}
	resp, err := c.plugin.gate.Do(c, out)
	if err != nil {
		return c.broken(err)
	}
	if c.streams == nil {
		c.streams = map[int32]*egress.Response{}
	}
	c.handle++
	c.streams[c.handle] = resp
	return c.handle
}

func httpHead(c *call, mem api.Memory, arg []uint64) int32 {
	resp := c.streams[int32(ptr(arg[0]))]
	if resp == nil {
		return fail(guest.EBADF)
	}
	head := sdk.HTTPResponse{Status: resp.Status, Header: make(sdk.Header, len(resp.Header))}
	for name, values := range resp.Header {
		head.Header[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	b, err := head.MarshalBinary()
	if err != nil {
		return c.broken(err)
	}
	c.spendOn(decoding * len(b))
	return give(mem, arg[1], arg[2], b)
}

func httpRead(c *call, mem api.Memory, arg []uint64) int32 {
	resp := c.streams[int32(ptr(arg[0]))]
	if resp == nil {
		return fail(guest.EBADF)
	}
	// The guest is parked in this call, so its memory can be read into directly.
	// The result is an i32: no more than 1 GiB at once.
	buf, ok := mem.Read(ptr(arg[1]), ptr(arg[2]))
	if !ok {
		return fail(guest.EFAULT)
	}
	if len(buf) == 0 {
		return fail(guest.EINVAL)
	}
	buf = buf[:min(len(buf), 1<<20)]
	for {
		n, err := resp.Body.Read(buf)
		switch {
		case n > 0:
			c.spendOn(n)
			return int32(n)
		case errors.Is(err, io.EOF):
			return 0
		case err != nil:
			return c.broken(err)
		}
	}
}

func httpClose(c *call, _ api.Memory, arg []uint64) int32 {
	h := int32(ptr(arg[0]))
	resp := c.streams[h]
	if resp == nil {
		return fail(guest.EBADF)
	}
	resp.Body.Close()
	delete(c.streams, h)
	return 0
}

var levels = [...]slog.Level{
	guest.LogDebug: slog.LevelDebug, guest.LogInfo: slog.LevelInfo, guest.LogWarn: slog.LevelWarn, guest.LogError: slog.LevelError,
}

func logLine(c *call, mem api.Memory, arg []uint64) int32 {
	if ptr(arg[0]) >= uint32(len(levels)) {
		return fail(guest.EINVAL)
	}
	b, ok := mem.Read(ptr(arg[1]), min(ptr(arg[2]), guest.MaxLogLine))
	if !ok {
		return fail(guest.EFAULT)
	}
	c.spendOn(decoding * len(b))
	c.plugin.log.line(levels[ptr(arg[0])], strings.ToValidUTF8(string(b), "\uFFFD"))
	return 0
}

func lastError(c *call, mem api.Memory, arg []uint64) int32 {
	if c.last == nil {
		return 0
	}
	b, err := c.last.MarshalBinary()
	if err != nil {
		return fail(guest.EINVAL)
	}
	c.spendOn(decoding * len(b))
	return give(mem, arg[0], arg[1], b)
}
