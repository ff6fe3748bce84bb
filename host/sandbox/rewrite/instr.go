package rewrite

// Opcodes that the rewriting cares about.
// https://webassembly.github.io/spec/core/binary/instructions.html
const (
	opUnreachable  = 0x00
	opNop          = 0x01
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opDrop         = 0x1a
	opSelect       = 0x1b
	opSelectTyped  = 0x1c
	opLocalGet     = 0x20
	opLocalSet     = 0x21
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opTableGet     = 0x25
	opTableSet     = 0x26
	opLoadFirst    = 0x28
	opStoreLast    = 0x3e
	opMemorySize   = 0x3f
	opMemoryGrow   = 0x40
	opI32Const     = 0x41
	opI64Const     = 0x42
	opF32Const     = 0x43
	opF64Const     = 0x44
	opNumericFirst = 0x45
	opNumericLast  = 0xc4
	opRefNull      = 0xd0
	opRefIsNull    = 0xd1
	opRefFunc      = 0xd2
	opMisc         = 0xfc
	opVector       = 0xfd

	miscTruncLast  = 7
	miscMemInit    = 8
	miscDataDrop   = 9
	miscMemCopy    = 10
	miscMemFill    = 11
	miscTableInit  = 12
	miscElemDrop   = 13
	miscTableCopy  = 14
	miscTableGrow  = 15
	miscTableSize  = 16
	miscTableFill  = 17
	vecConst       = 12
	vecShuffle     = 13
	vecLast        = 255
	blockEmpty     = -64 // the block type without a result
	maxNesting     = 10_000
	maxBranchTable = 65_536
)

// instr is one decoded instruction.
type instr struct {
	op     byte
	sub    uint32   // after opMisc and opVector
	a, b   uint64   // immediates: indices, align and offset
	num    int64    // constants and block types
	raw    []byte   // immediates copied as they are
	labels []uint32 // br_table, the default last
}

// read decodes one instruction and refuses what is not in the list: the
// sandbox doesn't run what it can't meter.
func (in *instr) read(r *reader) {
	*in = instr{op: r.u8(), labels: in.labels[:0]}
	switch op := in.op; {
	case op == opUnreachable, op == opNop, op == opElse, op == opEnd, op == opReturn, op == opDrop, op == opSelect, op == opRefIsNull,
		op >= opNumericFirst && op <= opNumericLast:
	case op == opBlock, op == opLoop, op == opIf:
		if in.num = r.sleb(33); in.num < 0 {
			switch in.num {
			case blockEmpty, typeI32 - 128, typeI64 - 128, typeF32 - 128, typeF64 - 128, typeV128 - 128, typeFuncref - 128, typeExtern - 128:
			default:
				bad("has a block of type %d, which is not supported here", in.num)
			}
		}
	case op == opBr, op == opBrIf, op == opCall, op >= opLocalGet && op <= opTableSet, op == opRefFunc:
		in.a = uint64(r.u32())
	case op == opBrTable:
		n := r.count()
		if n > maxBranchTable {
			bad("has a branch table of %d labels", n)
		}
		for ; n >= 0; n-- {
			in.labels = append(in.labels, r.u32())
		}
	case op == opCallIndirect:
		in.a, in.b = uint64(r.u32()), uint64(r.u32())
	case op == opSelectTyped:
		if r.u8() != 1 {
			bad("has a malformed select")
		}
		in.a = uint64(r.valType())
	case op >= opLoadFirst && op <= opStoreLast:
		in.memarg(r)
	case op == opMemorySize, op == opMemoryGrow:
		r.zero()
	case op == opI32Const:
		in.num = r.sleb(32)
	case op == opI64Const:
		in.num = r.sleb(64)
	case op == opF32Const:
		in.raw = r.bytes(4)
	case op == opF64Const:
		in.raw = r.bytes(8)
	case op == opRefNull:
		in.a = uint64(r.refType())
	case op == opMisc:
		in.misc(r)
	case op == opVector:
		in.vector(r)
	case op == 0xfe:
		bad("uses atomic instructions; threads are not supported here")
	case op >= 0x06 && op <= 0x0a, op == 0x18, op == 0x19, op == 0x1f:
		bad("uses exceptions, which are not supported here")
	case op >= 0x12 && op <= 0x15:
		bad("uses tail calls or typed references, which are not supported here")
	default:
		bad("uses opcode %#x, which is not known here", op)
	}
}

func (r *reader) zero() {
	if r.u8() != 0 {
		bad("names a second memory")
	}
}

func (in *instr) memarg(r *reader) {
	in.a, in.b = uint64(r.u32()), uint64(r.u32())
	if in.a > 4 {
		bad("has an access aligned to 2^%d bytes, or to another memory", in.a)
	}
}

func (in *instr) misc(r *reader) {
	switch in.sub = r.u32(); in.sub {
	case miscMemInit:
		in.a = uint64(r.u32())
		r.zero()
	case miscMemCopy:
		r.zero()
		r.zero()
	case miscMemFill:
		r.zero()
	case miscDataDrop, miscElemDrop, miscTableGrow, miscTableSize, miscTableFill:
		in.a = uint64(r.u32())
	case miscTableInit, miscTableCopy:
		in.a, in.b = uint64(r.u32()), uint64(r.u32())
	default:
		if in.sub > miscTruncLast {
			bad("uses opcode 0xfc %d, which is not known here", in.sub)
		}
	}
}

func (in *instr) vector(r *reader) {
	in.sub = r.u32()
	switch s := in.sub; {
	case s > vecLast:
		bad("uses opcode 0xfd %d, which is not known here", s)
	case s <= 11, s == 92, s == 93:
		in.memarg(r)
	case s >= 84 && s <= 91:
		in.memarg(r)
		in.raw = r.bytes(1)
	case s == vecConst, s == vecShuffle:
		in.raw = r.bytes(16)
	case s >= 21 && s <= 34:
		in.raw = r.bytes(1)
	}
}

// put writes the instruction.
func (in *instr) put(b []byte) []byte {
	b = append(b, in.op)
	switch op := in.op; {
	case op == opBlock, op == opLoop, op == opIf, op == opI32Const, op == opI64Const:
		b = putS(b, in.num)
	case op == opBr, op == opBrIf, op == opCall, op >= opLocalGet && op <= opTableSet, op == opRefFunc:
		b = putU(b, in.a)
	case op == opBrTable:
		b = putU(b, uint64(len(in.labels)-1))
		for _, l := range in.labels {
			b = putU32(b, l)
		}
	case op == opCallIndirect, op >= opLoadFirst && op <= opStoreLast:
		b = putU(putU(b, in.a), in.b)
	case op == opSelectTyped:
		b = append(b, 1, byte(in.a))
	case op == opMemorySize, op == opMemoryGrow:
		b = append(b, 0)
	case op == opF32Const, op == opF64Const:
		b = append(b, in.raw...)
	case op == opRefNull:
		b = append(b, byte(in.a))
	case op == opMisc:
		b = in.putMisc(putU32(b, in.sub))
	case op == opVector:
		b = putU32(b, in.sub)
		if s := in.sub; s <= 11 || s >= 84 && s <= 93 {
			b = putU(putU(b, in.a), in.b)
		}
		b = append(b, in.raw...)
	}
	return b
}

func (in *instr) putMisc(b []byte) []byte {
	switch in.sub {
	case miscMemInit:
		return append(putU(b, in.a), 0)
	case miscMemCopy:
		return append(b, 0, 0)
	case miscMemFill:
		return append(b, 0)
	case miscDataDrop, miscElemDrop, miscTableGrow, miscTableSize, miscTableFill:
		return putU(b, in.a)
	case miscTableInit, miscTableCopy:
		return putU(putU(b, in.a), in.b)
	}
	return b
}
