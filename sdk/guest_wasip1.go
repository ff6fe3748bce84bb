package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
	"unsafe"
)

var errUnwanted = &Error{Kind: Cancelled, Fault: Caller, Message: "nobody wants the answer any more"}

// The guest's side of the sandbox ABI; package proto/guest documents it. The host runs one call
// in one instance, then throws the instance away.

//go:wasmimport sluice_v1 input_len
func importInputLen() int32

//go:wasmimport sluice_v1 input_read
func importInputRead(p unsafe.Pointer, n uint32) int32

//go:wasmimport sluice_v1 output
func importOutput(kind uint32, p unsafe.Pointer, n uint32) int32

//go:wasmimport sluice_v1 emit
func importEmit(kind uint32, p unsafe.Pointer, n uint32) int32

//go:wasmimport sluice_v1 last_error
func importLastError(p unsafe.Pointer, n uint32) int32

const (
	abiVersion = 1<<16 | 0

	outputResult = 0
	outputError  = 1

	codeOK     = 0
	codeFailed = 1

	eIO       = -5
	e2BIG     = -7
	eINVAL    = -22
	eCanceled = -125
)

// Main does nothing in a sandboxed plugin: the host calls the provider itself.
func Main() {}

//go:wasmexport sluice_abi
func exportABI() int32 { return abiVersion }

// exportWarm runs once, before the host freezes the module into the snapshot that every job
// starts from: what it touches is warm in all of them. Afterwards a job costs the pages of memory
// that it writes to, so the collector's work is done here, and the rehearsal comes again after it:
// it is then that the allocator gets the memory from which a job's first objects are taken.
//
//go:wasmexport sluice_warm
func exportWarm() {
	call(rehearse)
	runtime.GC()
	call(rehearse)
}

// rehearse does what jobs do.
func rehearse(ctx context.Context) ([]byte, error) {
	req := Request{
		JobID: "warm", Messages: []Message{{Role: RoleUser, Parts: []Part{TextPart("warm")}}},
		Settings: Settings(`{"warm":"1s"}`), Options: map[string]json.RawMessage{"warm": json.RawMessage("1")},
	}
	b, err := req.MarshalBinary()
	if err == nil {
		err = req.UnmarshalBinary(b)
	}
	var n int
	if _, e := req.Option("warm", &n); err == nil {
		err = e
	}
	req.Settings.Duration("warm", time.Second)
	if err != nil {
		panic(err)
	}
	Sleep(ctx, time.Nanosecond)
	emit(Text("warm")) // which fails
	return nil, nil
}

//go:wasmexport sluice_describe
func exportDescribe() int32 {
	return call(func(context.Context) ([]byte, error) {
		if registered.Generate == nil {
			return nil, errNotRegistered
		}
		d := registered.Describe()
		return d.MarshalBinary()
	})
}

//go:wasmexport sluice_configure
func exportConfigure() int32 {
	return call(func(ctx context.Context) ([]byte, error) {
		s, err := inputSettings()
		if err == nil && registered.Check != nil {
			err = registered.Check(ctx, s)
		}
		return nil, err
	})
}

//go:wasmexport sluice_generate
func exportGenerate() int32 { return generate(registered.Generate) }

//go:wasmexport sluice_resume
func exportResume() int32 { return generate(registered.Resume) }

//go:wasmexport sluice_count_tokens
func exportCountTokens() int32 {
	return call(func(ctx context.Context) ([]byte, error) {
		if registered.CountTokens == nil {
			return nil, errNotSupported
		}
		req, err := inputRequest()
		if err != nil {
			return nil, err
		}
		n, err := registered.CountTokens(ctx, req)
		return EncodeTokenCount(n), err
	})
}

//go:wasmexport sluice_list_models
func exportListModels() int32 {
	return call(func(ctx context.Context) ([]byte, error) {
		if registered.ListModels == nil {
			return nil, errNotSupported
		}
		s, err := inputSettings()
		if err != nil {
			return nil, err
		}
		models, err := registered.ListModels(ctx, s)
		return EncodeModels(models), err
	})
}

// jobCtx is the context of the one call of this instance: imports that learn that nobody wants
// the answer cancel it.
var jobCtx struct {
	context.Context
	cancel context.CancelFunc
}

// call runs one export. A panic is let through: it traps, and the host has its text from stderr.
func call(f func(ctx context.Context) ([]byte, error)) int32 {
	jobCtx.Context, jobCtx.cancel = context.WithCancel(context.Background())
	defer jobCtx.cancel()
	b, err := f(jobCtx.Context)
	if err == nil {
		importOutput(outputResult, pointer(b), uint32(len(b)))
		return codeOK
	}
	e := AsError(err)
	if e.Kind == Cancelled && jobCtx.Err() != nil {
		return eCanceled
	}
	b, _ = e.MarshalBinary()
	importOutput(outputError, pointer(b), uint32(len(b)))
	return codeFailed
}

func generate(f func(context.Context, *Request, Emit) error) int32 {
	return call(func(ctx context.Context) ([]byte, error) {
		if f == nil {
			return nil, errNotSupported
		}
		req, err := inputRequest()
		if err != nil {
			return nil, err
		}
		return nil, f(ctx, req, emit)
	})
}

// emit is on the path of every token, so text takes the shortest way: the host reads the string
// where it lies.
func emit(c Chunk) error {
	if text, ok := c.(Text); ok {
		if n := importEmit(KindText, unsafe.Pointer(unsafe.StringData(string(text))), uint32(len(text))); n != 0 {
			return textRefused(KindText, string(text), n)
		}
		return nil
	}
	return emitOther(c)
}

func emitOther(c Chunk) error {
	if text, ok := c.(Refusal); ok {
		if n := importEmit(KindRefusal, unsafe.Pointer(unsafe.StringData(string(text))), uint32(len(text))); n != 0 {
			return textRefused(KindRefusal, string(text), n)
		}
		return nil
	}
	b := encoded
	encoded = nil // should another goroutine come here while this one is made to wait
	kind, b := EncodeChunk(b[:0], c)
	n := importEmit(kind, pointer(b), uint32(len(b)))
	encoded = b
	return result("emit", n)
}

// encoded is memory for a chunk on its way out.
var encoded []byte

// textRefused tries a text again that isn't UTF-8: the host looks whether it is, which it does
// faster than a guest could.
func textRefused(kind uint32, s string, n int32) error {
	if n == eINVAL && !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
		n = importEmit(kind, unsafe.Pointer(unsafe.StringData(s)), uint32(len(s)))
	}
	return result("emit", n)
}

func inputRequest() (*Request, error) {
	b, err := input()
	if err != nil {
		return nil, err
	}
	req := new(Request)
	return req, req.UnmarshalBinary(b)
}

func inputSettings() (s Settings, err error) {
	b, err := input()
	if err != nil {
		return nil, err
	}
	return s, s.UnmarshalBinary(b)
}

func input() ([]byte, error) {
	n := importInputLen()
	if n <= 0 {
		return nil, result("input_len", n)
	}
	b := make([]byte, n)
	n = importInputRead(pointer(b), uint32(len(b)))
	return b, result("input_read", n)
}

// result turns a negative answer of an import into an error.
func result(what string, n int32) error {
	switch {
	case n >= 0:
		return nil
	case n == eCanceled:
		jobCtx.cancel()
		return errUnwanted
	case n == eIO:
		b := make([]byte, 2*maxMessage)
		if n := importLastError(pointer(b), uint32(len(b))); n > 0 {
			e := new(Error)
			if e.UnmarshalBinary(b[:n]) == nil {
				return e
			}
		}
	case n == e2BIG:
		return &Error{Kind: Internal, Fault: Plugin, Message: what + ": larger than the host allows"}
	}
	return &Error{Kind: Internal, Fault: Plugin, Message: fmt.Sprintf("%s: %v", what, syscall.Errno(-n))}
}

func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }
