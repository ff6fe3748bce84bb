package sdk

import (
	"context"
	"time"
	"unsafe"
)

//go:wasmimport wasi_snapshot_preview1 poll_oneoff
func importPoll(in, out unsafe.Pointer, subscriptions uint32, events unsafe.Pointer) uint32

// clockSubscription is WASI's, for a clock.
type clockSubscription struct {
	userdata  uint64
	tag       uint64 // an 8-bit 0, padded
	clock     uint32
	_         uint32
	timeout   uint64 // ns
	precision uint64
	flags     uint64 // 16 bits, padded; 0: relative
}

const clockMonotonic = 1

// Sleep pauses for d, or until nobody wants the answer any more: then it returns an error, to be
// returned. In a sandboxed plugin it is the only pause that notices.
func Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return AsError(err)
	}
	if d <= 0 {
		return nil
	}
	// The host ends the wait early when nobody wants the answer; Go's own sleep would only go to
	// sleep again.
	until := time.Now().Add(d)
	in := clockSubscription{clock: clockMonotonic, timeout: uint64(d)}
	var out [32]byte
	var n uint32
	importPoll(unsafe.Pointer(&in), unsafe.Pointer(&out), 1, unsafe.Pointer(&n))
	if time.Now().Before(until) {
		jobCtx.cancel()
		return errUnwanted
	}
	return nil
}
