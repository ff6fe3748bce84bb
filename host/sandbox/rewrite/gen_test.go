package rewrite

// program makes small modules out of arbitrary bytes: valid, terminating, with
// every kind of control flow. Each export run(i32) i32 works on memory, locals
// and globals.
//
// Global 0 counts markers that the code passes, to compare the fuel charged
// with the work done; global 1 is the fuel of the program itself, which ends
// loops and recursion.
type program struct {
	src   []byte
	code  []byte
	depth int // open blocks
	funcs int
}

const (
	markerCode = 4 * 3 // weight of a marker
	nLocals    = 4     // param 0 and three more
)

func (p *program) next(n int) int {
	if len(p.src) == 0 {
		return 0
	}
	c := int(p.src[0])
	p.src = p.src[1:]
	return c % n
}

func (p *program) op(b ...byte) { p.code = append(p.code, b...) }

func (p *program) konst(v int64) { p.code = putS(append(p.code, opI32Const), v) }

func (p *program) marker() {
	p.op(opGlobalGet, 0, opI32Const, 1, opI32Add, opGlobalSet, 0)
}

// spend leaves 1 on the stack while there is program fuel.
func (p *program) spend() {
	p.op(opGlobalGet, 1, opI32Const, 1, opI32Sub, opGlobalSet, 1, opGlobalGet, 1, opI32Const, 0, 0x4a) // i32.gt_s
}

// expr leaves an i32 on the stack.
func (p *program) expr(level int) {
	switch p.next(10) {
	case 0, 1:
		p.op(opLocalGet, byte(p.next(nLocals)))
	case 2:
		p.konst(int64(int8(p.next(256))))
	case 3:
		if level > 4 {
			p.konst(7)
			return
		}
		p.expr(level + 1)
		p.expr(level + 1)
		p.op([]byte{opI32Add, opI32Sub, 0x6c, 0x71, 0x73, 0x74, 0x6d, 0x70, 0x46, 0x48}[p.next(10)]) // divisions may trap
	case 4:
		p.address(level)
		p.op(0x2d, 0) // i32.load8_u
		p.code = putU(p.code, uint64(p.next(256)))
	case 5:
		p.op(opMemorySize, 0)
	case 6:
		if level > 3 {
			p.konst(1)
			return
		}
		p.expr(level + 1)
		p.op(opIf, typeI32)
		p.expr(level + 1)
		p.op(opElse)
		p.expr(level + 1)
		p.op(opEnd)
	case 7:
		p.konst(int64(p.next(3)))
		p.op(opMemoryGrow, 0)
	case 8:
		// i64 and floats, back to i32
		p.expr(level + 1)
		p.op(0xac, 0x50) // i64.extend_i32_s; i64.eqz
	default:
		p.op(opGlobalGet, 0)
	}
}

func (p *program) address(level int) {
	if level > 4 {
		p.konst(8)
	} else {
		p.expr(level + 1)
	}
	if p.next(8) != 0 { // mostly within memory
		p.konst(0xffff)
		p.op(0x71)
	}
}

func (p *program) block(level int) {
	for n := p.next(6); n > 0 && level < 6; n-- {
		p.stmt(level)
	}
}

func (p *program) stmt(level int) {
	p.marker()
	switch p.next(12) {
	case 0, 1:
		p.expr(0)
		p.op(opLocalSet, byte(p.next(nLocals)))
	case 2:
		p.address(0)
		p.expr(0)
		p.op(0x36, 2)
		p.code = putU(p.code, uint64(p.next(200)))
	case 3:
		p.op(opBlock, 0x40)
		p.depth++
		p.block(level + 1)
		p.depth--
		p.op(opEnd)
	case 4:
		p.expr(0)
		p.op(opIf, 0x40)
		p.depth++
		p.block(level + 1)
		if p.next(2) == 0 {
			p.op(opElse)
			p.block(level + 1)
		}
		p.depth--
		p.op(opEnd)
	case 5: // while there is program fuel
		p.op(opBlock, 0x40, opLoop, 0x40)
		p.depth += 2
		p.spend()
		p.op(opI32Eqz, opBrIf, 1)
		p.block(level + 1)
		p.expr(0)
		p.op(opBrIf, 0)
		p.depth -= 2
		p.op(opEnd, opEnd)
	case 6:
		p.expr(0)
		p.op(opBrIf)
		p.code = putU(p.code, p.target())
	case 7:
		p.expr(0)
		n := p.next(4)
		p.op(opBrTable, byte(n))
		for range n + 1 {
			p.code = putU(p.code, p.target())
		}
		p.marker() // dead code
	case 8:
		p.spend()
		p.op(opIf, 0x40)
		p.expr(0)
		p.op(opCall, byte(p.next(p.funcs)))
		p.op(opLocalSet, 1, opEnd)
	case 9: // fill and copy, some over a piece long, some out of bounds
		p.address(0)
		p.expr(0)
		if p.next(4) == 0 {
			p.konst(int64(p.next(64)) << 14)
		} else {
			p.konst(int64(p.next(256)))
		}
		if p.next(2) == 0 {
			p.op(opMisc, miscMemFill, 0)
		} else {
			p.op(opMisc, miscMemCopy, 0, 0)
		}
	case 10:
		if p.next(4) == 0 {
			p.expr(0)
			p.op(opCallIndirect, 1, 0, opLocalSet, 2)
			return
		}
		p.expr(0)
		p.expr(0)
		if p.next(2) == 0 { // mostly within the table
			p.konst(3)
			p.op(0x71)
		}
		p.op(opCallIndirect, byte(2*p.next(2)), 0, opLocalSet, 2)
	default:
		if p.next(3) == 0 {
			p.expr(0)
			p.op(opReturn)
			p.marker()
		}
	}
}

// target is the label of any open block or loop; the function's own has a
// result and is left out.
func (p *program) target() uint64 { return uint64(p.next(p.depth + 1)) }

// generate builds a module of up to three functions.
func generate(src []byte) *Module {
	p := &program{src: src}
	p.funcs = 1 + p.next(3)
	m := &Module{
		types:   []funcType{{[]byte{typeI32}, []byte{typeI32}}, {nil, []byte{typeI32}}, {[]byte{typeI32}, []byte{typeI32}}}, // the last like the first
		memory:  &limits{min: 1 + uint32(p.next(12)), max: 16, bounded: true},
		tables:  []table{{typ: typeFuncref, limits: limits{min: 4}}},
		globals: []global{{typ: typeI32, mutable: true, init: constExpr{op: opI32Const}}, {typ: typeI32, mutable: true, init: constExpr{op: opI32Const, num: 300}}},
		exports: []export{{"memory", kindMemory, 0}, {"markers", kindGlobal, 0}},
		elems:   []elem{{offset: constExpr{op: opI32Const}, funcs: []uint32{0}}, {offset: constExpr{op: opI32Const, num: 2}, funcs: []uint32{uint32(p.funcs - 1), uint32(p.funcs)}}},
		data:    []segment{{offset: constExpr{op: opI32Const, num: 10}, init: []byte("some data to begin with")}},
	}
	for range p.funcs {
		p.code, p.depth = nil, 0
		p.spend()
		p.op(opI32Eqz, opIf, 0x40, opI32Const, 42, opReturn, opEnd)
		p.op(opBlock, 0x40)
		p.block(0)
		for p.next(3) != 0 {
			p.stmt(0)
		}
		p.op(opEnd, opLocalGet, 1, opEnd)
		m.funcs = append(m.funcs, 0)
		m.code = append(m.code, body{[]locals{{nLocals - 1, typeI32}}, p.code})
	}
	m.funcs, m.code = append(m.funcs, 1), append(m.code, body{code: []byte{opI32Const, 7, opEnd}})
	m.exports = append(m.exports, export{"run", kindFunc, uint32(p.funcs - 1)})
	return m
}
