package rewrite

import (
	"fmt"
	"slices"
	"testing"
)

// unpaid finds what a metered module could do for nothing, by its code alone,
// without a word from what has written it:
//
//   - a call, or a return, that is reached from a function's entry without a
//     charge, as recursion could be free;
//   - a branch back to a loop without a charge since its head;
//   - more code than reach between two charges;
//   - a heavy instruction that isn't paid at once before it runs.
func (m *Module) unpaid() error {
	helpers := len(m.funcs) - 2
	if m.memory != nil {
		helpers -= 2
	}
	for i := range helpers {
		w := &walk{m: m, weigh: &meter{m: m, imports: uint32(len(m.imports))}, helpers: uint32(len(m.imports) + helpers)}
		if err := w.function(m.code[i].code); err != nil {
			return fmt.Errorf("function %d: %w", i, err)
		}
	}
	return nil
}

// settled is where nothing is owed.
const settled = 1 << 30

// state is that of the worst path to a place: the code since the last charge,
// and how many blocks were open around the outermost function or loop that was
// entered since.
type state struct{ free, owed int }

func worse(a, b *state) *state {
	if a == nil || b == nil {
		if a == nil {
			return b
		}
		return a
	}
	return &state{max(a.free, b.free), min(a.owed, b.owed)}
}

type walkFrame struct {
	op   byte
	end  *state // of the branches to its end; nil for none
	atIf *state
}

type walk struct {
	m       *Module
	weigh   *meter
	helpers uint32 // index of the first
	frames  []walkFrame
	at      *state // nil in dead code
	paid    int    // by the charge just before
}

func (w *walk) function(code []byte) error {
	r := &reader{b: code}
	w.frames, w.at = []walkFrame{{op: opBlock}}, &state{owed: 0}
	for r.more() {
		start := r.p
		if units, ok := w.charge(r); ok {
			if w.paid = units * Unit; w.at != nil {
				w.at = &state{owed: settled}
			}
			continue
		}
		r.p = start
		var in instr
		in.read(r)
		if err := w.step(&in, r); err != nil {
			return fmt.Errorf("at %d: %w", start, err)
		}
		if in.op != opCall || uint32(in.a) != w.helpers+1 {
			w.paid = 0
		}
	}
	return nil
}

// charge reads a charge, if there is one.
func (w *walk) charge(r *reader) (units int, ok bool) {
	fuel := uint64(w.m.fuel)
	for i, want := range []instr{
		{op: opGlobalGet, a: fuel}, {op: opI32Const}, {op: opI32Sub}, {op: opGlobalSet, a: fuel}, {op: opGlobalGet, a: fuel},
		{op: opI32Const}, {op: opI32LeS}, {op: opIf, num: blockEmpty}, {op: opCall, a: uint64(w.helpers)}, {op: opEnd},
	} {
		if !r.more() {
			return 0, false
		}
		var in instr
		in.read(r)
		if i == 1 {
			units, in.num = int(in.num), 0
		}
		if in.op != want.op || in.a != want.a || in.num != want.num {
			return 0, false
		}
	}
	return units, units > 0
}

func (w *walk) step(in *instr, r *reader) error {
	depth := len(w.frames)
	if w.at != nil {
		cost := 0
		if in.op != opCall || uint32(in.a) < w.helpers {
			cost = w.weigh.weight(in)
		} else if uint32(in.a) > w.helpers+1 {
			cost = 48 // fills and copies
		}
		if cost >= heavy && w.paid < cost {
			return fmt.Errorf("%#x costs %d and %d are paid", in.op, cost, w.paid)
		}
		if cost < heavy {
			w.at = &state{w.at.free + cost, w.at.owed}
		}
		if w.at.free > reach {
			return fmt.Errorf("%d bytes of code without a charge", w.at.free)
		}
		own := in.op == opCall && uint32(in.a) < w.helpers && uint32(in.a) >= uint32(len(w.m.imports))
		if (own || in.op == opCallIndirect || in.op == opReturn || in.op == opEnd && depth == 1) && w.at.owed == 0 {
			return fmt.Errorf("%#x before the entry is paid", in.op)
		}
	}
	switch in.op {
	case opBlock, opIf:
		w.frames = append(w.frames, walkFrame{op: in.op, atIf: w.at})
	case opLoop:
		if w.frames = append(w.frames, walkFrame{op: opLoop}); w.at != nil {
			w.at = &state{w.at.free, min(w.at.owed, depth)}
			at := *r
			if _, ok := w.charge(&at); !ok {
				return fmt.Errorf("a loop that doesn't begin with a charge")
			}
		}
	case opElse:
		f := &w.frames[depth-1]
		f.end = worse(f.end, w.at)
		w.at, f.op = f.atIf, opElse
	case opEnd:
		f := w.frames[depth-1]
		w.frames = w.frames[:depth-1]
		w.at = worse(f.end, w.at)
		if f.op == opIf {
			w.at = worse(w.at, f.atIf)
		}
		if w.at != nil && w.at.owed >= depth-1 {
			w.at = &state{w.at.free, settled} // the loop is left
		}
	case opBr, opBrIf:
		in.labels = []uint32{uint32(in.a)}
		fallthrough
	case opBrTable:
		for _, l := range in.labels {
			if err := w.branch(depth - 1 - int(l)); err != nil {
				return err
			}
		}
	}
	if slices.Contains([]byte{opBr, opBrTable, opReturn, opUnreachable}, in.op) {
		w.at = nil
	}
	return nil
}

func (w *walk) branch(to int) error {
	f := &w.frames[to]
	switch {
	case w.at == nil:
	case f.op == opLoop && w.at.owed <= to:
		return fmt.Errorf("a branch to a loop without a charge since its head")
	case to == 0 && w.at.owed == 0:
		return fmt.Errorf("a return before the entry is paid")
	case f.op != opLoop:
		f.end = worse(f.end, w.at)
	}
	return nil
}

// Whatever a function goes straight to, or never reaches, it pays on every way
// to a call and out.
func TestNothingIsFree(t *testing.T) {
	loop := []byte{opLoop, 0x40, opLocalGet, 0, opBrIf, 0, opEnd}
	cat := slices.Concat[[]byte]
	block := func(code ...byte) []byte { return cat([]byte{opBlock, 0x40}, code, []byte{opEnd}) }
	long := slices.Repeat([]byte{opI32Const, 1, opDrop}, 200)
	for name, code := range map[string][]byte{
		"nothing":                       nil,
		"calls itself":                  {opCall, 1},
		"calls through a table":         {opI32Const, 0, opCallIndirect, 0, 0},
		"import, then itself":           {opCall, 0, opCall, 1},
		"import on one way, then self":  {opLocalGet, 0, opIf, 0x40, opCall, 0, opEnd, opCall, 1},
		"import past a branch":          cat(block(opLocalGet, 0, opBrIf, 0, opCall, 0), []byte{opCall, 1}),
		"loop past a branch":            cat(block(append([]byte{opLocalGet, 0, opBrIf, 0}, loop...)...), []byte{opCall, 1}),
		"loop in one arm":               cat([]byte{opLocalGet, 0, opIf, 0x40}, loop, []byte{opElse, opCall, 1, opEnd, opCall, 1}),
		"loop after a return":           cat([]byte{opLocalGet, 0, opIf, 0x40, opReturn, opEnd}, loop),
		"loop after unreachable":        cat([]byte{opLocalGet, 0, opIf, 0x40, opUnreachable, opEnd}, loop, []byte{opCall, 1}),
		"loop in dead code":             cat(block(append([]byte{opBr, 0}, loop...)...), []byte{opCall, 1}),
		"import in dead code":           cat(block(opBr, 0, opCall, 0), []byte{opCall, 1}),
		"dead from the beginning":       cat([]byte{opReturn, opCall, 0}, loop),
		"branch table to the function":  cat(block(opLocalGet, 0, opBrTable, 1, 0, 1), []byte{opCall, 1}),
		"branch table at the end":       cat(block(opCall, 1, opLocalGet, 0, opBrTable, 1, 1, 0), loop),
		"loop of a branch table":        {opLoop, 0x40, opLocalGet, 0, opBrTable, 2, 0, 0, 0, opEnd},
		"itself in a loop":              {opLoop, 0x40, opCall, 1, opLocalGet, 0, opBrIf, 0, opEnd},
		"loop in a loop":                cat([]byte{opLoop, 0x40}, loop, []byte{opLocalGet, 0, opBrIf, 0, opEnd}),
		"loop that goes on from inside": {opLoop, 0x40, opLoop, 0x40, opLocalGet, 0, opBrIf, 1, opEnd, opEnd},
		"long code, then a loop":        cat(long, loop, []byte{opCall, 1}),
		"loop, then long code":          cat(loop, long, []byte{opCall, 1}),
		"long code in a loop":           cat([]byte{opLoop, 0x40}, long, []byte{opLocalGet, 0, opBrIf, 0, opEnd}),
		"grows memory, then itself":     {opI32Const, 0, opMemoryGrow, 0, opDrop, opCall, 1},
		"fill, then itself":             {opI32Const, 0, opI32Const, 0, opI32Const, 0, opMisc, miscMemFill, 0, opCall, 1},
		"a table's element":             {opI32Const, 0, opTableGet, 0, opDrop, opCall, 1},
	} {
		m := &Module{
			types: []funcType{{nil, nil}}, imports: []importFunc{{"env", "f", 0}}, funcs: []uint32{0}, memory: &limits{min: 1},
			tables: []table{{typeFuncref, limits{min: 1}}}, code: []body{{[]locals{{1, typeI32}}, append(slices.Clone(code), opEnd)}},
		}
		if err := m.Meter(testMeter); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := m.unpaid(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
