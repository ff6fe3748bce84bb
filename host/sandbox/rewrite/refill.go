package rewrite

// addHelpers appends the functions that charged code calls.
func (w *meter) addHelpers() {
	add := func(params, results []byte, locals []locals, code []byte) {
		w.m.funcs = append(w.m.funcs, w.m.addType(params, results))
		w.m.code = append(w.m.code, body{locals, append(code, opEnd)})
	}
	i32 := []byte{typeI32}
	// refill: loop { fuel += yield(); if fuel <= 0 continue }
	b := putU32([]byte{opLoop, 0x40, opGlobalGet}, w.fuel)
	b = putU32(append(b, opCall), w.yield)
	b = putU32(append(b, opI32Add, opGlobalSet), w.fuel)
	b = putU32(append(b, opGlobalGet), w.fuel)
	add(nil, nil, nil, append(b, opI32Const, 0, opI32LeS, opBrIf, 0, opEnd))
	// bulk(n) n: fuel -= n >> bulkShift
	add(i32, i32, nil, append(w.chargeLength(nil, 0), opLocalGet, 0))
	if w.m.memory == nil {
		return
	}
	three := []byte{typeI32, typeI32, typeI32}
	add(three, nil, nil, w.pieces(
		[]byte{opMisc, miscMemFill, 0},
		nil))
	add(three, nil, nil, w.pieces(
		[]byte{opMisc, miscMemCopy, 0, 0},
		[]byte{opLocalGet, 1}))
}

// chargeLength writes: fuel -= local >> bulkShift; if fuel <= 0 { refill() }
func (w *meter) chargeLength(b []byte, local byte) []byte {
	b = putU32(append(b, opGlobalGet), w.fuel)
	b = append(b, opLocalGet, local, opI32Const, bulkShift, opI32ShrU, opI32Sub)
	b = putU32(append(b, opGlobalSet), w.fuel)
	return w.check(b)
}

// pieces writes a function (to, x, n) that does op in pieces, x being the value
// of a fill or, when source isn't nil, the address a copy comes from. Ranges
// outside of memory trap before anything is written, and copies that overlap
// come out right, as the instruction itself has it.
func (w *meter) pieces(op, source []byte) []byte {
	const to, x, n = 0, 1, 2
	whole := append([]byte{opLocalGet, to, opLocalGet, x, opLocalGet, n}, op...)
	charged := append(w.chargeLength(nil, n), whole...)

	// if n <= chunk { charge; op; return }
	b := []byte{opLocalGet, n}
	b = putS(append(b, opI32Const), chunk)
	b = append(b, opI32LeU, opIf, 0x40)
	b = append(append(b, charged...), opReturn, opEnd)
	// if it is out of bounds { op } traps
	outside := func(b []byte, addr byte) []byte {
		b = append(b, opLocalGet, addr, opI64Ext, opLocalGet, n, opI64Ext, opI64Add)
		b = append(b, opMemorySize, 0, opI64Ext, opI64Const, 16, opI64Shl, opI64GtU)
		return append(append(append(b, opIf, 0x40), whole...), opEnd)
	}
	b = outside(b, to)
	if source == nil {
		return append(b, w.forward(op, false)...)
	}
	b = outside(b, x)
	// if to <= x { forward } else { backward }
	b = append(b, opLocalGet, to, opLocalGet, x, opI32LeU, opIf, 0x40)
	b = append(b, w.forward(op, true)...)
	b = append(b, opElse)
	b = append(b, w.backward(op)...)
	return append(b, opEnd)
}

// chargeChunk writes the charge for one whole piece.
func (w *meter) chargeChunk(b []byte) []byte {
	b = putU32(append(b, opGlobalGet), w.fuel)
	b = putS(append(b, opI32Const), chunk>>bulkShift)
	b = putU32(append(b, opI32Sub, opGlobalSet), w.fuel)
	return w.check(b)
}

// forward writes:
//
//	loop { charge; op(to, x, chunk); to += chunk; x += chunk if moving; n -= chunk; if !(n <= chunk) continue }
//	charge; op(to, x, n)
func (w *meter) forward(op []byte, moving bool) []byte {
	step := func(b []byte, local, how byte) []byte {
		b = putS(append(b, opLocalGet, local, opI32Const), chunk)
		return append(b, how, opLocalSet, local)
	}
	b := w.chargeChunk([]byte{opLoop, 0x40})
	b = append(putS(append(b, opLocalGet, 0, opLocalGet, 1, opI32Const), chunk), op...)
	b = step(b, 0, opI32Add)
	if moving {
		b = step(b, 1, opI32Add)
	}
	b = step(b, 2, opI32Sub)
	b = more(b)
	b = w.chargeLength(b, 2)
	return append(append(b, opLocalGet, 0, opLocalGet, 1, opLocalGet, 2), op...)
}

// more writes: if !(n <= chunk) continue; end of the loop
func more(b []byte) []byte {
	b = putS(append(b, opLocalGet, 2, opI32Const), chunk)
	return append(b, opI32LeU, opI32Eqz, opBrIf, 0, opEnd)
}

// backward writes:
//
//	loop { charge; n -= chunk; op(to+n, x+n, chunk); if !(n <= chunk) continue }
//	charge; op(to, x, n)
func (w *meter) backward(op []byte) []byte {
	b := w.chargeChunk([]byte{opLoop, 0x40})
	b = putS(append(b, opLocalGet, 2, opI32Const), chunk)
	b = append(b, opI32Sub, opLocalSet, 2)
	b = append(b, opLocalGet, 0, opLocalGet, 2, opI32Add, opLocalGet, 1, opLocalGet, 2, opI32Add)
	b = append(putS(append(b, opI32Const), chunk), op...)
	b = more(b)
	b = w.chargeLength(b, 2)
	return append(append(b, opLocalGet, 0, opLocalGet, 1, opLocalGet, 2), op...)
}
