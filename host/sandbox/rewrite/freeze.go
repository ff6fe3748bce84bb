package rewrite

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

const probePrefix = "\x00sluice global "

// Probe exports every mutable global and returns the names. That is the state
// that [Module.Freeze] is to be given, and that an instance used before has to
// be given back, together with its memory, to be like new.
func (m *Module) Probe() []string {
	var names []string
	for i, g := range m.globals {
		if !g.mutable {
			continue
		}
		name := probePrefix + strconv.Itoa(i)
		names = append(names, name)
		m.exports = append(m.exports, export{name, kindGlobal, uint32(i)})
	}
	return names
}

// Freeze turns a module whose instance has been initialised into one that
// starts in the state of that instance: globals hold the bits of the values
// given by the names of Probe, and the memory has pages pages, which the host
// fills. There is no start function and no data to put into memory any more.
// The fuel is full again. A table that the code doesn't write to becomes code.
func (m *Module) Freeze(values map[string]uint64, pages uint32) (err error) {
	defer catch(&err)
	if err := m.Freezable(); err != nil {
		return err
	}
	for i := range m.globals {
		g := &m.globals[i]
		if !g.mutable {
			continue
		}
		v, ok := values[probePrefix+strconv.Itoa(i)]
		if !ok {
			return fmt.Errorf("freeze: no value for global %d", i)
		}
		if i == m.fuel {
			v = uint64(uint32(m.quantum))
		}
		g.init = frozen(g.typ, v)
	}
	m.memory.min = pages
	m.start = nil
	for i := range m.data {
		// Active segments have been applied, and count as dropped from then on;
		// passive ones stay for memory.init. Segments keep their numbers.
		if m.data[i].flag == 0 {
			m.data[i] = segment{offset: constExpr{op: opI32Const}}
		}
	}
	if m.dataCount == nil { // no code names a segment
		m.data = nil
	}
	m.dropTable()
	return nil
}

// Probes are the names that Probe gave to the globals of an encoded module.
func Probes(bin []byte) (names []string, err error) {
	defer catch(&err)
	r := &reader{b: bin, p: len(magic)}
	for r.more() {
		id := r.u8()
		sec := &reader{b: r.bytes(int(r.u32()))}
		if id != secExport {
			continue
		}
		for n := sec.count(); n > 0; n-- {
			name := sec.name()
			if kind := sec.u8(); kind == kindGlobal && strings.HasPrefix(name, probePrefix) {
				names = append(names, name)
			}
			sec.u32()
		}
	}
	return names, nil
}

// frozen is the constant of a type with the given bits.
func frozen(typ byte, bits uint64) constExpr {
	switch typ {
	case typeI32:
		return constExpr{op: opI32Const, num: int64(int32(uint32(bits)))}
	case typeI64:
		return constExpr{op: opI64Const, num: int64(bits)}
	case typeF32:
		return constExpr{op: opF32Const, raw: binary.LittleEndian.AppendUint32(nil, uint32(bits))}
	default:
		return constExpr{op: opF64Const, raw: binary.LittleEndian.AppendUint64(nil, bits)}
	}
}
