package rewrite

// checkIndices refuses what names something that isn't there: once the module
// has more functions, globals and types than its author knows of, it would be.
func (m *Module) checkIndices() {
	expr := func(e constExpr) {
		switch e.op {
		case opRefFunc:
			m.typeOf(uint32(e.num))
		case opGlobalGet:
			m.checkGlobal(uint64(e.num))
		}
	}
	for _, g := range m.globals {
		expr(g.init)
	}
	for _, e := range m.exports {
		switch e.kind {
		case kindFunc:
			m.typeOf(e.index)
		case kindGlobal:
			m.checkGlobal(uint64(e.index))
		}
	}
	if m.start != nil {
		m.typeOf(*m.start)
	}
	for _, e := range m.elems {
		expr(e.offset)
		for _, f := range e.funcs {
			m.typeOf(f)
		}
		for _, x := range e.exprs {
			expr(x)
		}
	}
	for _, d := range m.data {
		expr(d.offset)
	}
}

func (m *Module) checkGlobal(i uint64) {
	if i >= uint64(len(m.globals)) {
		bad("names global %d of %d", i, len(m.globals))
	}
}

// checkOperands is checkIndices for an instruction.
func (m *Module) checkOperands(in *instr) {
	switch in.op {
	case opGlobalGet, opGlobalSet:
		m.checkGlobal(in.a)
	case opCall, opRefFunc:
		m.typeOf(uint32(in.a))
	case opCallIndirect:
		m.typeIndex(uint32(in.a))
	case opBlock, opLoop, opIf:
		if in.num >= 0 {
			m.typeIndex(uint32(in.num))
		}
	}
}
