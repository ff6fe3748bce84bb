package rewrite

import "slices"

const (
	// maxTargets bounds the functions that one dispatcher calls, each of which
	// is a block around those before it.
	maxTargets = maxNesting - 100
)

// dropTable replaces a table that nothing writes to by code: an indirect call
// becomes the call of a function that has the index in a branch table. Every
// instance would have a table of its own, with an object per element, which for
// a Go guest is more than all else it needs.
//
// A call through an empty element, past the end, or of a function of another
// type traps, as it did before. What can't be replaced stays as it is.
func (m *Module) dropTable() {
	slots, ok := m.constantTable()
	if !ok {
		return
	}
	d := &dispatchers{m: m, slots: slots, first: uint32(len(m.imports) + len(m.funcs))}
	code := make([][]byte, len(m.code))
	for i := range m.code {
		if code[i], ok = d.rewrite(m.code[i].code); !ok {
			return
		}
	}
	for _, t := range d.types {
		b, ok := d.function(t)
		if !ok {
			return
		}
		d.funcs = append(d.funcs, m.addType(append(slices.Clone(t.params), typeI32), t.results))
		d.code = append(d.code, body{code: b})
	}
	for i := range m.code {
		m.code[i].code = code[i]
	}
	m.funcs, m.code = append(m.funcs, d.funcs...), append(m.code, d.code...)
	m.tables, m.elems = nil, nil
	m.exports = slices.DeleteFunc(m.exports, func(e export) bool { return e.kind == kindTable })
}

// constantTable is what the module's only table holds: a function by its index
// or -1, for each element.
func (m *Module) constantTable() (slots []int64, ok bool) {
	if len(m.tables) != 1 || m.tables[0].typ != typeFuncref || m.tableWrites || m.drops {
		return nil, false
	}
	slots = slices.Repeat([]int64{-1}, int(m.tables[0].min))
	for _, e := range m.elems {
		if e.flag&1 != 0 {
			continue // used by instructions only, which there are none of
		}
		items := e.functions()
		if e.offset.op != opI32Const || items == nil {
			return nil, false
		}
		at := int64(uint32(e.offset.num))
		if at+int64(len(items)) > int64(len(slots)) {
			return nil, false
		}
		copy(slots[at:], items)
	}
	return slots, true
}

// functions are the items of a segment as in a table, nil if they aren't
// constants.
func (e *elem) functions() []int64 {
	items := make([]int64, 0, len(e.funcs)+len(e.exprs))
	for _, f := range e.funcs {
		items = append(items, int64(f))
	}
	for _, x := range e.exprs {
		switch x.op {
		case opRefFunc:
			items = append(items, x.num)
		case opRefNull:
			items = append(items, -1)
		default:
			return nil
		}
	}
	return items
}

// dispatchers are the functions that take the place of a table, one for each
// type of function that is called through it.
type dispatchers struct {
	m     *Module
	slots []int64
	first uint32 // index of the first of them
	types []funcType
	funcs []uint32
	code  []body
}

// rewrite replaces the indirect calls of a function. It isn't ok if the code
// needs the table for anything else, or a declaration of the functions in it.
func (d *dispatchers) rewrite(code []byte) (out []byte, ok bool) {
	out = make([]byte, 0, len(code))
	r := &reader{b: code}
	for in := (instr{}); r.more(); {
		start := r.p
		in.read(r)
		switch in.op {
		case opCallIndirect:
			if in.b != 0 {
				return nil, false
			}
			out = putU32(append(out, opCall), d.of(d.m.types[in.a]))
			continue
		case opTableGet, opTableSet, opRefFunc:
			return nil, false
		case opMisc:
			if in.sub >= miscTableInit {
				return nil, false
			}
		}
		out = append(out, code[start:r.p]...)
	}
	return out, true
}

// of is the index of the dispatcher for a type.
func (d *dispatchers) of(t funcType) uint32 {
	i := slices.IndexFunc(d.types, t.equal)
	if i < 0 {
		i = len(d.types)
		d.types = append(d.types, t)
	}
	return d.first + uint32(i)
}

func (t funcType) equal(u funcType) bool {
	return slices.Equal(t.params, u.params) && slices.Equal(t.results, u.results)
}

// function writes a dispatcher, whose last parameter is the index:
//
//	block { block { … block { br_table (index - lowest) } call f0; return } call f1; return … } unreachable
func (d *dispatchers) function(t funcType) (code []byte, ok bool) {
	lowest, highest := -1, -1
	for i, f := range d.slots {
		if f >= 0 && d.m.typeOf(uint32(f)).equal(t) {
			if lowest < 0 {
				lowest = i
			}
			highest = i
		}
	}
	if lowest < 0 {
		return []byte{opUnreachable, opEnd}, true
	}
	if highest-lowest >= maxBranchTable {
		return nil, false
	}
	var targets []uint32 // each once, in the order of their blocks
	label := map[int64]uint32{}
	var labels []uint32
	for _, f := range d.slots[lowest : highest+1] {
		switch l, known := label[f]; {
		case f < 0 || !d.m.typeOf(uint32(f)).equal(t):
			labels = append(labels, ^uint32(0))
		case known:
			labels = append(labels, l)
		default:
			label[f] = uint32(len(targets))
			labels = append(labels, uint32(len(targets)))
			targets = append(targets, uint32(f))
		}
	}
	if len(targets) > maxTargets {
		return nil, false
	}
	outside := uint32(len(targets))
	for range len(targets) + 1 {
		code = append(code, opBlock, 0x40)
	}
	code = putU32(append(code, opLocalGet), uint32(len(t.params)))
	code = append(putS(append(code, opI32Const), int64(int32(lowest))), opI32Sub, opBrTable)
	code = putU(code, uint64(len(labels)))
	for _, l := range labels {
		code = putU32(code, min(l, outside))
	}
	code = append(putU32(code, outside), opEnd)
	for _, f := range targets {
		for p := range t.params {
			code = putU32(append(code, opLocalGet), uint32(p))
		}
		code = append(putU32(append(code, opCall), f), opReturn, opEnd)
	}
	return append(code, opUnreachable, opEnd), true
}
