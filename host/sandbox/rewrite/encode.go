package rewrite

// Encode writes the module.
func (m *Module) Encode() []byte {
	out := []byte(magic)
	section := func(id byte, n int, put func(b []byte, i int) []byte) {
		if n == 0 {
			return
		}
		b := putU(nil, uint64(n))
		for i := range n {
			b = put(b, i)
		}
		out = putBytes(append(out, id), b)
	}
	section(secType, len(m.types), func(b []byte, i int) []byte {
		return putBytes(putBytes(append(b, 0x60), m.types[i].params), m.types[i].results)
	})
	section(secImport, len(m.imports), func(b []byte, i int) []byte {
		im := m.imports[i]
		return putU32(append(putName(putName(b, im.module), im.name), kindFunc), im.typ)
	})
	section(secFunction, len(m.funcs), func(b []byte, i int) []byte { return putU32(b, m.funcs[i]) })
	section(secTable, len(m.tables), func(b []byte, i int) []byte {
		return m.tables[i].put(append(b, m.tables[i].typ))
	})
	if m.memory != nil {
		section(secMemory, 1, func(b []byte, _ int) []byte { return m.memory.put(b) })
	}
	section(secGlobal, len(m.globals), func(b []byte, i int) []byte {
		g := m.globals[i]
		b = append(b, g.typ, 0)
		if g.mutable {
			b[len(b)-1] = 1
		}
		return g.init.put(b)
	})
	section(secExport, len(m.exports), func(b []byte, i int) []byte {
		e := m.exports[i]
		return putU32(append(putName(b, e.name), e.kind), e.index)
	})
	if m.start != nil {
		out = putBytes(append(out, secStart), putU32(nil, *m.start))
	}
	section(secElement, len(m.elems), func(b []byte, i int) []byte { return m.elems[i].put(b) })
	if m.dataCount != nil {
		out = putBytes(append(out, secDataCount), putU(nil, uint64(len(m.data))))
	}
	section(secCode, len(m.code), func(b []byte, i int) []byte {
		c := m.code[i]
		f := putU(nil, uint64(len(c.locals)))
		for _, l := range c.locals {
			f = append(putU32(f, l.n), l.typ)
		}
		return append(append(putU(b, uint64(len(f)+len(c.code))), f...), c.code...)
	})
	section(secData, len(m.data), func(b []byte, i int) []byte {
		s := m.data[i]
		b = putU32(b, s.flag)
		if s.flag == 0 {
			b = s.offset.put(b)
		}
		return putBytes(b, s.init)
	})
	return out
}

func (l limits) put(b []byte) []byte {
	if !l.bounded {
		return putU32(append(b, 0), l.min)
	}
	return putU32(putU32(append(b, 1), l.min), l.max)
}

func (e constExpr) put(b []byte) []byte {
	b = append(b, e.op)
	switch e.op {
	case opI32Const, opI64Const:
		b = putS(b, e.num)
	case opF32Const, opF64Const:
		b = append(b, e.raw...)
	case opGlobalGet, opRefFunc:
		b = putU(b, uint64(e.num))
	case opRefNull:
		b = append(b, byte(e.num))
	case opVector:
		b = append(putU32(b, vecConst), e.raw...)
	}
	return append(b, opEnd)
}

func (e elem) put(b []byte) []byte {
	b = putU32(b, e.flag)
	if e.flag&1 == 0 {
		if e.flag&2 != 0 {
			b = putU32(b, e.table)
		}
		b = e.offset.put(b)
	}
	if e.flag&3 != 0 {
		b = append(b, e.kind)
	}
	if e.flag&4 != 0 {
		b = putU(b, uint64(len(e.exprs)))
		for _, x := range e.exprs {
			b = x.put(b)
		}
		return b
	}
	b = putU(b, uint64(len(e.funcs)))
	for _, f := range e.funcs {
		b = putU32(b, f)
	}
	return b
}
