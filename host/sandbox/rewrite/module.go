// Package rewrite changes a WebAssembly module when it is installed, so that a
// guest can be stopped, metered and copied whatever its code does.
//
// [Module.Meter] puts a counter into the code that calls back into the host on
// schedule; [Module.Freeze] turns a module that has run its initialisation
// into one that starts where that ended.
//
// The decoder is the sandbox's wall: it takes nothing it doesn't know, and
// everything is written anew from what was decoded, in its shortest form, so
// that there is one reading of the result only.
package rewrite

import (
	"bytes"
	"fmt"
	"slices"
)

// Version changes whenever the same input gives another output.
const Version = 6

// Limits of what is taken. The compiler's time and memory grow with these.
const (
	maxFunctions = 200_000
	maxBody      = 1 << 20 // bytes of one function
	maxLocals    = 50_000
	maxTable     = 1 << 20 // elements
)

const magic = "\x00asm\x01\x00\x00\x00"

// Section ids. https://webassembly.github.io/spec/core/binary/modules.html
const (
	secCustom    = 0
	secType      = 1
	secImport    = 2
	secFunction  = 3
	secTable     = 4
	secMemory    = 5
	secGlobal    = 6
	secExport    = 7
	secStart     = 8
	secElement   = 9
	secCode      = 10
	secData      = 11
	secDataCount = 12
)

// rank is the order in which sections may come.
var rank = map[byte]int{
	secType: 1, secImport: 2, secFunction: 3, secTable: 4, secMemory: 5, secGlobal: 6, secExport: 7,
	secStart: 8, secElement: 9, secDataCount: 10, secCode: 11, secData: 12,
}

const (
	typeI32     = 0x7f
	typeI64     = 0x7e
	typeF32     = 0x7d
	typeF64     = 0x7c
	typeV128    = 0x7b
	typeFuncref = 0x70
	typeExtern  = 0x6f

	kindFunc   = 0
	kindTable  = 1
	kindMemory = 2
	kindGlobal = 3
)

// Module is a decoded module. It is not safe for concurrent use.
type Module struct {
	types     []funcType
	imports   []importFunc
	funcs     []uint32 // type of each function defined here
	tables    []table
	memory    *limits
	globals   []global
	exports   []export
	start     *uint32
	elems     []elem
	dataCount *uint32
	code      []body
	data      []segment

	metered     bool
	fuel        int // index of the fuel global in globals, once metered
	quantum     int32
	tableWrites bool
	drops       bool
}

type funcType struct{ params, results []byte }

type importFunc struct {
	module, name string
	typ          uint32
}

type table struct {
	typ byte
	limits
}

type limits struct {
	min, max uint32
	bounded  bool
}

type global struct {
	typ     byte
	mutable bool
	init    constExpr
}

type export struct {
	name  string
	kind  byte
	index uint32
}

// constExpr is one constant instruction; more aren't allowed.
type constExpr struct {
	op  byte
	num int64  // i32.const, i64.const, global.get, ref.func; the heap type of ref.null
	raw []byte // f32.const, f64.const, v128.const
}

type elem struct {
	flag   uint32
	table  uint32
	offset constExpr
	kind   byte
	funcs  []uint32
	exprs  []constExpr
}

type body struct {
	locals []locals
	code   []byte // with the final end
}

type locals struct {
	n   uint32
	typ byte
}

type segment struct {
	flag   uint32
	offset constExpr
	init   []byte
}

// Parse decodes a module. Its errors complete a sentence that begins with the
// module.
func Parse(b []byte) (m *Module, err error) {
	defer catch(&err)
	if !bytes.HasPrefix(b, []byte(magic)) {
		bad("is not a WebAssembly module")
	}
	m = &Module{}
	r := &reader{b: b, p: len(magic)}
	last := 0
	for r.more() {
		id := r.u8()
		sec := &reader{b: r.bytes(int(r.u32()))}
		if id == secCustom {
			sec.name()
			continue // names and debugging data go stale when code moves
		}
		at, ok := rank[id]
		if !ok {
			bad("has a section of kind %d, which is not supported here", id)
		}
		if at <= last {
			bad("has its sections out of order")
		}
		last = at
		m.section(id, sec)
		sec.end(fmt.Sprintf("section %d", id))
	}
	if len(m.code) != len(m.funcs) {
		bad("declares %d functions and has %d", len(m.funcs), len(m.code))
	}
	if m.dataCount != nil && int64(*m.dataCount) != int64(len(m.data)) {
		bad("declares %d data segments and has %d", *m.dataCount, len(m.data))
	}
	return m, nil
}

func (m *Module) section(id byte, r *reader) {
	switch id {
	case secStart:
		i := r.u32()
		m.start = &i
		return
	case secDataCount:
		n := r.u32()
		m.dataCount = &n
		return
	}
	for n := r.count(); n > 0; n-- {
		switch id {
		case secType:
			if f := r.u8(); f != 0x60 {
				bad("has a type of form %#x, which is not supported here", f)
			}
			m.types = append(m.types, funcType{r.valTypes(), r.valTypes()})
		case secImport:
			m.importFunc(r)
		case secFunction:
			m.funcs = append(m.funcs, m.typeIndex(r.u32()))
		case secTable:
			t := table{typ: r.refType()}
			t.limits = r.limits("table")
			m.tables = append(m.tables, t)
		case secMemory:
			if m.memory != nil {
				bad("has more than one memory")
			}
			l := r.limits("memory")
			m.memory = &l
		case secGlobal:
			g := global{typ: r.valType()}
			switch r.u8() {
			case 0:
			case 1:
				g.mutable = true
			default:
				bad("has a malformed global")
			}
			g.init = r.constExpr()
			m.globals = append(m.globals, g)
		case secExport:
			e := export{name: r.name(), kind: r.u8()}
			if e.kind > kindGlobal {
				bad("exports something of kind %d, which is not supported here", e.kind)
			}
			e.index = r.u32()
			m.exports = append(m.exports, e)
		case secElement:
			m.elems = append(m.elems, r.elem())
		case secCode:
			m.code = append(m.code, r.body())
		case secData:
			m.data = append(m.data, r.segment())
		}
	}
	if len(m.funcs) > maxFunctions {
		bad("has more than %d functions", maxFunctions)
	}
}

func (m *Module) importFunc(r *reader) {
	im := importFunc{module: r.name(), name: r.name()}
	kind := r.u8()
	if kind != kindFunc {
		what := map[byte]string{kindTable: "table", kindMemory: "memory", kindGlobal: "global"}[kind]
		bad("imports the %s %s.%s; a guest may import functions only", what, im.module, im.name)
	}
	im.typ = m.typeIndex(r.u32())
	m.imports = append(m.imports, im)
}

func (m *Module) typeIndex(i uint32) uint32 {
	if int64(i) >= int64(len(m.types)) {
		bad("names type %d of %d", i, len(m.types))
	}
	return i
}

// typeOf is the type of a function, imported or not.
func (m *Module) typeOf(f uint32) funcType {
	n := uint32(len(m.imports))
	switch {
	case f < n:
		return m.types[m.imports[f].typ]
	case int64(f-n) < int64(len(m.funcs)):
		return m.types[m.funcs[f-n]]
	}
	bad("calls function %d of %d", f, len(m.imports)+len(m.funcs))
	return funcType{}
}

func (r *reader) valType() byte {
	t := r.u8()
	switch t {
	case typeI32, typeI64, typeF32, typeF64, typeV128, typeFuncref, typeExtern:
		return t
	}
	bad("has a value of type %#x, which is not supported here", t)
	return 0
}

func (r *reader) refType() byte {
	t := r.u8()
	if t != typeFuncref && t != typeExtern {
		bad("has a reference of type %#x, which is not supported here", t)
	}
	return t
}

func (r *reader) valTypes() []byte {
	out := make([]byte, r.count())
	for i := range out {
		out[i] = r.valType()
	}
	return out
}

func (r *reader) limits(what string) limits {
	var l limits
	switch f := r.u8(); f {
	case 0:
	case 1:
		l.bounded = true
	case 2, 3:
		bad("has a shared %s; threads are not supported here", what)
	default:
		bad("has a 64-bit %s, or one of another kind that is not supported here", what)
	}
	l.min = r.u32()
	if l.bounded {
		l.max = r.u32()
	}
	return l
}

func (r *reader) constExpr() constExpr {
	e := constExpr{op: r.u8()}
	switch e.op {
	case opI32Const:
		e.num = r.sleb(32)
	case opI64Const:
		e.num = r.sleb(64)
	case opF32Const:
		e.raw = r.bytes(4)
	case opF64Const:
		e.raw = r.bytes(8)
	case opGlobalGet, opRefFunc:
		e.num = int64(r.u32())
	case opRefNull:
		e.num = int64(r.refType())
	case opVector:
		if r.u32() != vecConst {
			bad("has a constant expression that is not supported here")
		}
		e.raw = r.bytes(16)
	default:
		bad("has a constant expression with opcode %#x, which is not supported here", e.op)
	}
	if r.u8() != opEnd {
		bad("has a constant expression of more than one instruction")
	}
	return e
}

// elem reads an element segment: bit 0 of its flag says passive or
// declarative, bit 1 that a table or kind is given, bit 2 that the items are
// expressions.
func (r *reader) elem() elem {
	e := elem{flag: r.u32()}
	if e.flag > 7 {
		bad("has an element segment of kind %d", e.flag)
	}
	if e.flag&1 == 0 {
		if e.flag&2 != 0 {
			e.table = r.u32()
		}
		e.offset = r.constExpr()
	}
	if e.flag&3 != 0 {
		if e.flag&4 != 0 {
			e.kind = r.refType()
		} else if e.kind = r.u8(); e.kind != 0 {
			bad("has a malformed element segment")
		}
	}
	for n := r.count(); n > 0; n-- {
		if e.flag&4 != 0 {
			e.exprs = append(e.exprs, r.constExpr())
		} else {
			e.funcs = append(e.funcs, r.u32())
		}
	}
	return e
}

func (r *reader) body() body {
	r = &reader{b: r.bytes(int(r.u32()))}
	if len(r.b) > maxBody {
		bad("has a function of more than %d bytes", maxBody)
	}
	var out body
	total := uint64(0)
	for n := r.count(); n > 0; n-- {
		l := locals{r.u32(), r.valType()}
		if total += uint64(l.n); total > maxLocals {
			bad("has a function of more than %d locals", maxLocals)
		}
		out.locals = append(out.locals, l)
	}
	out.code = r.b[r.p:]
	return out
}

func (r *reader) segment() segment {
	s := segment{flag: r.u32()}
	switch s.flag {
	case 0:
		s.offset = r.constExpr()
	case 1:
	case 2:
		if r.u32() != 0 {
			bad("has data for another memory")
		}
		s.flag = 0
		s.offset = r.constExpr()
	default:
		bad("has a data segment of kind %d", s.flag)
	}
	s.init = r.bytes(int(r.u32()))
	return s
}

// LimitMemory caps the memory at pages of 64 KiB. It is an error if the module
// needs more than that to start.
func (m *Module) LimitMemory(pages uint32) error {
	if m.memory == nil {
		return fmt.Errorf("has no memory")
	}
	if m.memory.min > pages {
		return fmt.Errorf("needs %d KiB of memory to start, its limit is %d KiB", uint64(m.memory.min)*64, uint64(pages)*64)
	}
	if !m.memory.bounded || m.memory.max > pages {
		m.memory.bounded, m.memory.max = true, pages
	}
	return nil
}

// Imports reports whether the module imports the function.
func (m *Module) Imports(module, name string) bool {
	return slices.ContainsFunc(m.imports, func(im importFunc) bool { return im.module == module && im.name == name })
}
