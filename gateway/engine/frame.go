package engine

import (
	"encoding/binary"
	"errors"
)

// WebSocket opcodes, RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

var (
	errFrame    = errors.New("websocket protocol violation")
	errTooLarge = errors.New("message too large")
)

// parseFrame reads the frame at the start of data, as a client sends it, and
// unmasks its payload in place. n is 0 while the frame isn't whole, and nothing
// is changed then. A frame with more than limit bytes is an error as soon as its
// header is there.
func parseFrame(data []byte, limit int) (op byte, fin bool, payload []byte, n int, err error) {
	if len(data) < 2 {
		return 0, false, nil, 0, nil
	}
	op, fin = data[0]&0xf, data[0]&0x80 != 0
	if data[0]&0x70 != 0 || data[1]&0x80 == 0 { // an extension's bit; no mask
		return 0, false, nil, 0, errFrame
	}
	switch op {
	case opContinuation, opText, opBinary:
	case opClose, opPing, opPong:
		if !fin || data[1]&0x7f > 125 {
			return 0, false, nil, 0, errFrame
		}
	default:
		return 0, false, nil, 0, errFrame
	}
	size, head := uint64(data[1]&0x7f), 2
	switch size {
	case 126:
		if len(data) < 4 {
			return 0, false, nil, 0, nil
		}
		size, head = uint64(binary.BigEndian.Uint16(data[2:])), 4
	case 127:
		if len(data) < 10 {
			return 0, false, nil, 0, nil
		}
		size, head = binary.BigEndian.Uint64(data[2:]), 10
	}
	if size > uint64(limit) && op < opClose {
		return 0, false, nil, 0, errTooLarge
	}
	end := head + 4 + int(size)
	if len(data) < end {
		return 0, false, nil, 0, nil
	}
	payload = data[head+4 : end : end]
	unmask(payload, [4]byte(data[head:]))
	return op, fin, payload, end, nil
}

func unmask(p []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i&3]
	}
}

// assembler joins the fragments of a message.
type assembler struct {
	op   byte // of the message begun, 0 if none
	data []byte
}

// add takes a data frame and returns the message it completes, if any. Its
// memory is the frame's, or the assembler's until the next call.
func (a *assembler) add(op byte, fin bool, payload []byte, limit int) (byte, []byte, bool, error) {
	if (op == opContinuation) != (a.op != 0) {
		return 0, nil, false, errFrame
	}
	if a.op == 0 {
		if fin {
			return op, payload, true, nil
		}
		a.op, a.data = op, append([]byte(nil), payload...)
		return 0, nil, false, nil
	}
	if len(a.data)+len(payload) > limit {
		return 0, nil, false, errTooLarge
	}
	a.data = append(a.data, payload...)
	if !fin {
		return 0, nil, false, nil
	}
	op, payload = a.op, a.data
	a.op, a.data = 0, nil
	return op, payload, true, nil
}
