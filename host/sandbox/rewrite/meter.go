package rewrite

import (
	"fmt"
	"strings"
)

// Meter says how a module is metered.
type Meter struct {
	// Module and Name of the function () -> i32 that is imported for the guest
	// to call when its fuel is used up. It returns fuel to add.
	Module, Name string
	// Quantum is the fuel a guest starts with.
	Quantum int32
}

// Unit is the code that one unit of fuel stands for: 16 bytes of it, about six
// instructions. As functions and loops pay in advance, a unit comes out at half
// a nanosecond in ordinary code and two in a tight loop.
const Unit = 16

// reach is how many bytes of code may run between two charges, at most, on any
// path. It is also the most that is charged in advance at a loop or function,
// for what an iteration or a call leaves unpaid at its end. Instructions from
// heavy on are paid before they run, each for itself.
const (
	reach = 256
	heavy = 64
)

// chunk is the piece in which large fills and copies are done, and bulkShift
// the bytes of them that a unit of fuel stands for.
const (
	chunk     = 256 << 10
	bulkShift = 3
)

// Meter puts a fuel counter into the code. Whatever path a guest takes, it
// calls the host after a bounded amount of work:
//
//   - every function entry and every loop iteration is charged, so that neither
//     loops nor recursion run free;
//   - code between those is charged where a path through it grows long;
//   - instructions whose work isn't constant are charged by their operand, and
//     large fills and copies are done in pieces.
//
// A metered module does what it did before, and imports one more function.
func (m *Module) Meter(o Meter) (err error) {
	defer catch(&err)
	if m.metered {
		bad("is metered already")
	}
	if m.Imports(o.Module, o.Name) {
		bad("imports %s.%s, which is the host's", o.Module, o.Name)
	}
	for _, e := range m.exports {
		if strings.HasPrefix(e.name, probePrefix) {
			bad("exports %q, a name that is the host's", e.name)
		}
	}
	for _, t := range m.tables {
		if t.min > maxTable {
			bad("has a table of %d elements, the limit is %d", t.min, maxTable)
		}
	}
	for i := range m.tables {
		if t := &m.tables[i]; !t.bounded || t.max > maxTable {
			t.bounded, t.max = true, maxTable
		}
	}
	m.checkIndices()
	w := &meter{m: m, imports: uint32(len(m.imports))}
	w.yield = w.imports
	first := w.imports + 1 + uint32(len(m.funcs)) // of the functions added at the end
	w.refill, w.bulk, w.fill, w.copy = first, first+1, first+2, first+3
	w.fuel = uint32(len(m.globals))

	for i := range m.code {
		c := &m.code[i]
		c.code = w.function(m.types[m.funcs[i]], c)
	}
	m.moveFunctions(w.imports)
	m.imports = append(m.imports, importFunc{o.Module, o.Name, m.addType(nil, []byte{typeI32})})
	m.globals = append(m.globals, global{typ: typeI32, mutable: true, init: constExpr{op: opI32Const, num: int64(o.Quantum)}})
	w.addHelpers()
	m.metered, m.fuel, m.quantum = true, int(w.fuel), o.Quantum
	return nil
}

func (m *Module) addType(params, results []byte) uint32 {
	m.types = append(m.types, funcType{params, results})
	return uint32(len(m.types) - 1)
}

// moveFunctions makes room for one import: the functions defined here move up.
// Function bodies have been moved already.
func (m *Module) moveFunctions(imports uint32) {
	move := func(i uint32) uint32 {
		if i >= imports {
			return i + 1
		}
		return i
	}
	expr := func(e *constExpr) {
		if e.op == opRefFunc {
			e.num = int64(move(uint32(e.num)))
		}
	}
	for i := range m.globals {
		expr(&m.globals[i].init)
	}
	for i := range m.exports {
		if e := &m.exports[i]; e.kind == kindFunc {
			e.index = move(e.index)
		}
	}
	if m.start != nil {
		*m.start = move(*m.start)
	}
	for i := range m.elems {
		e := &m.elems[i]
		expr(&e.offset)
		for j := range e.funcs {
			e.funcs[j] = move(e.funcs[j])
		}
		for j := range e.exprs {
			expr(&e.exprs[j])
		}
	}
}

type meter struct {
	m                        *Module
	imports                  uint32 // before the one that is added
	yield                    uint32
	refill, bulk, fill, copy uint32
	fuel                     uint32

	out    []byte
	in     instr
	frames []frame
	// due is the code, in bytes, that may have run since the last charge on
	// the longest path to here; dead says that no path leads here.
	due  int
	dead bool
	// entry is what a function pays when it is entered, as long as that isn't
	// written: it is put together with the first other charge, if the code goes
	// straight there.
	entry int
}

// frame is an open block.
type frame struct {
	op   byte
	due  int  // on the longest path that branches to its end; -1 for none
	atIf int  // due when an if decided
	dead bool // nothing leads into it
}

// function rewrites one body.
func (w *meter) function(t funcType, c *body) []byte {
	n := uint64(0)
	for _, l := range c.locals {
		n += uint64(l.n)
	}
	w.out = make([]byte, 0, len(c.code)+len(c.code)/8+32)
	w.frames = append(w.frames[:0], frame{op: opBlock, due: -1})
	w.due, w.dead = 0, false
	r := &reader{b: c.code}
	w.entry = 1 + w.ahead(r)/Unit + (int(n)+len(t.params))/8
	for r.more() {
		if len(w.frames) == 0 {
			bad("has code after the end of a function")
		}
		w.in.read(r)
		w.m.checkOperands(&w.in)
		w.instr(r)
	}
	if len(w.frames) != 0 {
		bad("has a function without an end")
	}
	return w.out
}

// charge writes: fuel -= units; if fuel <= 0 { refill() }
func (w *meter) charge(units int) {
	b := putU32(append(w.out, opGlobalGet), w.fuel)
	b = putS(append(b, opI32Const), int64(units))
	b = putU32(append(b, opI32Sub, opGlobalSet), w.fuel)
	b = w.check(b)
	w.out = b
	w.due = 0
}

// pay charges what is due and more.
func (w *meter) pay(more int) {
	w.charge(w.entry + (w.due+more+Unit-1)/Unit)
	w.entry = 0
}

// payEntry charges a function's entry, where it can't be put off any longer.
func (w *meter) payEntry() {
	if w.entry > 0 {
		due := w.due
		w.charge(w.entry)
		w.due, w.entry = due, 0
	}
}

// straight says that an instruction is followed by the next one, or ends the
// guest, and that its cost is that of the code it stands for.
func (in *instr) straight() bool {
	op := in.op
	return op == opNop || op == opBlock || op >= opDrop && op <= opSelectTyped || op >= opLocalGet && op <= opGlobalSet ||
		op >= opLoadFirst && op <= opMemorySize || op >= opI32Const && op <= opNumericLast
}

func (w *meter) check(b []byte) []byte {
	b = putU32(append(b, opGlobalGet), w.fuel)
	b = append(b, opI32Const, 0, opI32LeS, opIf, 0x40)
	return append(putU32(append(b, opCall), w.refill), opEnd)
}

const (
	opI32Eqz  = 0x45
	opI32LeS  = 0x4c
	opI32LeU  = 0x4d
	opI64GtU  = 0x56
	opI32Add  = 0x6a
	opI32Sub  = 0x6b
	opI32ShrU = 0x76
	opI64Add  = 0x7c
	opI64Shl  = 0x86
	opI64Ext  = 0xad // i64.extend_i32_u
)

func (w *meter) instr(r *reader) {
	in := &w.in
	cost := w.weight(in)
	if cost < heavy && in.op != opLoop && !in.straight() {
		w.payEntry()
	}
	switch {
	case w.dead:
	case cost >= heavy:
		w.pay(cost)
		cost = 0
	case w.due+cost > reach:
		w.pay(0)
	}
	switch in.op {
	case opBlock, opIf:
		w.open(cost)
		return
	case opLoop:
		units := 1 + w.ahead(r)/Unit
		if w.entry <= units+1 {
			w.entry = 0 // the loop's head pays in advance too what is left unpaid at the end
		}
		w.payEntry()
		// What led here is paid before the loop, or every iteration would pay it.
		if !w.dead && w.due > Unit {
			w.pay(0)
		}
		w.open(cost)
		if !w.dead {
			w.charge(units)
		}
		return
	case opElse:
		f := &w.frames[len(w.frames)-1]
		if f.op != opIf {
			bad("has an else without an if")
		}
		f.op = opElse
		w.land(f)
		w.due, w.dead = f.atIf, f.dead
	case opEnd:
		w.close()
	case opBr, opBrIf:
		w.branch(uint32(in.a), cost)
	case opBrTable:
		for _, l := range in.labels {
			w.branch(l, cost)
		}
	case opCall, opRefFunc:
		if in.a >= uint64(w.imports) {
			in.a++
		}
	case opMisc:
		if w.bulkOp() {
			w.due += cost
			return
		}
	case opTableSet:
		w.m.tableWrites = true
	}
	w.out = in.put(w.out)
	w.due += cost
	if op := in.op; op == opBr || op == opBrTable || op == opReturn || op == opUnreachable {
		w.dead = true
	}
}

func (w *meter) open(cost int) {
	if len(w.frames) > maxNesting {
		bad("nests blocks more than %d deep", maxNesting)
	}
	w.out = w.in.put(w.out)
	w.due += cost
	w.frames = append(w.frames, frame{op: w.in.op, due: -1, atIf: w.due, dead: w.dead})
}

// land takes the path that runs into the end of a block.
func (w *meter) land(f *frame) {
	if !w.dead {
		f.due = max(f.due, w.due)
	}
}

func (w *meter) close() {
	f := w.frames[len(w.frames)-1]
	w.frames = w.frames[:len(w.frames)-1]
	w.land(&f)
	if f.op == opIf && !f.dead {
		f.due = max(f.due, f.atIf) // the condition was false
	}
	w.due, w.dead = max(f.due, 0), f.due < 0
}

// branch takes a path to the end of a block. Branches back to a loop are paid
// at its head.
func (w *meter) branch(label uint32, cost int) {
	if int64(label) >= int64(len(w.frames)) {
		bad("branches out of a function")
	}
	f := &w.frames[len(w.frames)-1-int(label)]
	if !w.dead && f.op != opLoop {
		f.due = max(f.due, w.due+cost)
	}
}

// weight is what an instruction costs, in bytes of ordinary code.
func (w *meter) weight(in *instr) int {
	calls := func(t funcType) int { return 16 + 4*(len(t.params)+len(t.results)) }
	switch in.op {
	case opCall:
		if in.a < uint64(w.imports) {
			return 1024 // leaves the guest
		}
		return calls(w.m.typeOf(uint32(in.a)))
	case opCallIndirect:
		return 16 + calls(w.m.types[w.m.typeIndex(uint32(in.a))])
	case opMemoryGrow:
		return 4096 // leaves the guest and asks the system
	case opTableGet, opTableSet, opRefFunc:
		return 1024 // leave the guest
	case opMisc:
		switch {
		case in.sub <= miscTruncLast:
			return 16
		case in.sub == miscMemCopy || in.sub == miscMemFill:
			return 48 // and by its length
		}
		return 1024
	case opBrTable:
		return 8
	case opVector:
		return 16
	case 0x6d, 0x6e, 0x6f, 0x70, 0x7f, 0x80, 0x81, 0x82, 0x91, 0x95, 0x9f, 0xa3: // division, remainder, root
		return 16
	}
	return 3
}

// bulkOp replaces or charges an instruction whose work depends on an operand,
// and reports whether it has written it.
func (w *meter) bulkOp() bool {
	in := &w.in
	switch in.sub {
	case miscMemFill:
		w.out = putU32(append(w.out, opCall), w.fill)
		return true
	case miscMemCopy:
		w.out = putU32(append(w.out, opCall), w.copy)
		return true
	case miscTableInit, miscTableCopy, miscTableGrow, miscTableFill:
		w.m.tableWrites = true
		fallthrough
	case miscMemInit:
		w.out = putU32(append(w.out, opCall), w.bulk) // takes the length off the stack and puts it back
	case miscDataDrop, miscElemDrop:
		w.m.drops = true
	}
	return false
}

// ahead is the weight of the block that r is at the beginning of, without its
// heavy instructions; reach at most.
func (w *meter) ahead(r *reader) int {
	at := &reader{b: r.b, p: r.p}
	var in instr
	sum := 0
	for depth := 1; depth > 0 && sum < reach; {
		in.read(at)
		switch in.op {
		case opBlock, opLoop, opIf:
			depth++
		case opEnd:
			depth--
		}
		if cost := w.weight(&in); cost < heavy {
			sum += cost
		}
	}
	return min(sum, reach)
}

// Freezable says why the state of a module can't be frozen, or nothing.
func (m *Module) Freezable() error {
	switch {
	case !m.metered:
		return fmt.Errorf("is not metered")
	case m.memory == nil:
		return fmt.Errorf("has no memory")
	case m.tableWrites:
		return fmt.Errorf("writes to its tables")
	case m.drops:
		return fmt.Errorf("drops its segments")
	}
	for _, g := range m.globals {
		if g.mutable && !numeric(g.typ) {
			return fmt.Errorf("has a mutable global of type %#x", g.typ)
		}
	}
	return nil
}

func numeric(t byte) bool { return t == typeI32 || t == typeI64 || t == typeF32 || t == typeF64 }
