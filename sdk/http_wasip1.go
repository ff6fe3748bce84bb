package sdk

import (
	"context"
	"io"
	"unsafe"
)

//go:wasmimport sluice_v1 http_open
func importHTTPOpen(meta unsafe.Pointer, metaLen uint32, body unsafe.Pointer, bodyLen uint32) int32

//go:wasmimport sluice_v1 http_head
func importHTTPHead(h int32, p unsafe.Pointer, n uint32) int32

//go:wasmimport sluice_v1 http_read
func importHTTPRead(h int32, p unsafe.Pointer, n uint32) int32

//go:wasmimport sluice_v1 http_close
func importHTTPClose(h int32) int32

// maxHead is the most that http_head writes.
const maxHead = 64 << 10

// send asks the host. The host knows when nobody wants the answer any more, so of ctx only what
// the plugin itself did with it matters.
func send(ctx context.Context, req HTTPRequest) (*HTTPResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, AsError(err)
	}
	meta, err := req.MarshalBinary()
	if err != nil {
		return nil, err
	}
	h := importHTTPOpen(pointer(meta), uint32(len(meta)), pointer(req.Body), uint32(len(req.Body)))
	if h < 0 {
		return nil, result("http_open", h)
	}
	body := &hostBody{ctx: ctx, handle: h}
	head := make([]byte, maxHead)
	n := importHTTPHead(h, pointer(head), uint32(len(head)))
	resp := new(HTTPResponse)
	if err = result("http_head", n); err == nil {
		err = resp.UnmarshalBinary(head[:n])
	}
	if err != nil {
		body.Close()
		return nil, err
	}
	resp.Body = body
	return resp, nil
}

// hostBody is a response body that the host reads.
type hostBody struct {
	ctx    context.Context
	handle int32
	closed bool
}

func (b *hostBody) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, errBodyClosed
	case len(p) == 0:
		return 0, nil
	}
	if err := b.ctx.Err(); err != nil {
		return 0, AsError(err)
	}
	n := importHTTPRead(b.handle, pointer(p), uint32(len(p)))
	if n == 0 {
		return 0, io.EOF
	}
	if n < 0 {
		return 0, result("http_read", n)
	}
	return int(n), nil
}

func (b *hostBody) Close() error {
	if !b.closed {
		b.closed = true
		importHTTPClose(b.handle)
	}
	return nil
}
