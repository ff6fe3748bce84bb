package rewrite

import (
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
)

// compareDispatched wants a metered module without its table to do what it did
// with it, for the same fuel.
func (mc *machine) compareDispatched(t *testing.T, m *Module, fuelGlobal string, want outcome) {
	t.Helper()
	m.dropTable()
	if m.tables != nil || m.elems != nil {
		t.Error("the table is still there")
	}
	got, err := mc.run(m.Encode(), fuelGlobal, 5)
	if err != nil {
		t.Fatalf("the module without its table isn't valid: %v", err)
	}
	if strings.Contains(want.trap, "stack overflow") && strings.Contains(got.trap, "stack overflow") {
		return // how deep it gets depends on the size of the frames
	}
	for _, trap := range []string{"invalid table access", "indirect call type mismatch"} {
		if strings.Contains(want.trap, trap) {
			want.trap = "wasm error: unreachable"
		}
	}
	if got != want {
		t.Errorf("without its table: %+v, want %+v", got, want)
	}
}

func TestDispatch(t *testing.T) {
	i32 := []byte{typeI32}
	// run(i) calls element i; functions 0 to 2 return 10 to 12, 3 takes an argument.
	plain := func(elems ...elem) *Module {
		m := &Module{
			types:  []funcType{{i32, i32}, {nil, i32}, {nil, i32}},
			memory: &limits{min: 1}, tables: []table{{typeFuncref, limits{min: 20}}}, elems: elems,
			globals: []global{{typeI32, true, constExpr{op: opI32Const}}},
			exports: []export{{"memory", kindMemory, 0}, {"markers", kindGlobal, 0}, {"run", kindFunc, 4}, {"table", kindTable, 0}},
			funcs:   []uint32{1, 2, 1, 0, 0},
		}
		for i := range byte(3) {
			m.code = append(m.code, body{code: []byte{opI32Const, 10 + i, opEnd}})
		}
		m.code = append(m.code, body{code: []byte{opLocalGet, 0, opEnd}}, body{code: []byte{opLocalGet, 0, opCallIndirect, 1, 0, opEnd}})
		return m
	}
	at := func(offset int64, funcs ...uint32) elem {
		return elem{offset: constExpr{op: opI32Const, num: offset}, funcs: funcs}
	}
	mc := newMachine(t, wazero.NewRuntimeConfigCompiler())
	many := plain(at(7, 0, 1, 3, 2, 0), at(10, 1), elem{flag: 4, offset: constExpr{op: opI32Const, num: 15}, exprs: []constExpr{{op: opRefNull, num: typeFuncref}, {op: opRefFunc, num: 2}}})
	for i, want := range map[uint64]uint64{7: 10, 8: 11, 10: 11, 11: 10, 16: 12, 0: 0, 6: 0, 9: 0, 12: 0, 15: 0, 17: 0, 19: 0, 20: 0, 1 << 31: 0, 1<<32 - 1: 0} {
		m, err := Parse(many.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Meter(testMeter); err != nil {
			t.Fatal(err)
		}
		before, err := mc.run(m.Encode(), "", i)
		if err != nil {
			t.Fatal(err)
		}
		if m.dropTable(); m.tables != nil {
			t.Fatal("the table is still there")
		}
		after, err := mc.run(m.Encode(), "", i)
		if err != nil {
			t.Fatal(err)
		}
		if before.result != want || after.result != want || (want == 0) != (after.trap != "") || (want == 0) != (before.trap != "") {
			t.Errorf("element %d: %d %s, without the table %d %s, want %d", i, before.result, before.trap, after.result, after.trap, want)
		}
	}
	for name, m := range map[string]*Module{
		"an offset that isn't a constant": plain(elem{offset: constExpr{op: opGlobalGet}, funcs: []uint32{0}}),
		"a segment past the end":          plain(at(19, 0, 1)),
		"two tables": func() *Module {
			m := plain(at(0, 0))
			m.tables = append(m.tables, m.tables[0])
			return m
		}(),
		"an element read": func() *Module {
			m := plain(at(0, 0))
			m.code[3].code = []byte{opI32Const, 0, opTableGet, 0, opRefIsNull, opEnd}
			return m
		}(),
		"the size asked for": func() *Module {
			m := plain(at(0, 0))
			m.code[3].code = []byte{opMisc, miscTableSize, 0, opEnd}
			return m
		}(),
		"a function taken": func() *Module {
			m := plain(at(0, 0))
			m.code[3].code = []byte{opRefFunc, 0, opRefIsNull, opEnd}
			return m
		}(),
	} {
		if err := m.Meter(testMeter); err != nil {
			t.Fatal(name, err)
		}
		if m.dropTable(); m.tables == nil {
			t.Errorf("%s: the table is gone", name)
		}
	}
}
