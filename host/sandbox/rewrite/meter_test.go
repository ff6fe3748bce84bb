package rewrite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

var testMeter = Meter{Module: "host", Name: "yield", Quantum: 500}

// outcome is what can be seen of a run.
type outcome struct {
	result  uint64
	trap    string
	memory  [32]byte
	pages   uint32
	markers uint64
	yields  int
	fuel    int64 // left
}

// machine runs modules that import the host's yield, one after the other.
type machine struct {
	wazero.Runtime
	yields int
}

func newMachine(t testing.TB, config wazero.RuntimeConfig) *machine {
	t.Helper()
	ctx := context.Background()
	mc := &machine{Runtime: wazero.NewRuntimeWithConfig(ctx, config.WithMemoryLimitPages(256))}
	t.Cleanup(func() { mc.Close(ctx) })
	_, err := mc.NewHostModuleBuilder("host").NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) {
		mc.yields++
		stack[0] = uint64(uint32(testMeter.Quantum))
	}), nil, []api.ValueType{api.ValueTypeI32}).Export("yield").Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return mc
}

// run calls an export with an argument.
func (mc *machine) run(bin []byte, fuelGlobal string, arg uint64) (o outcome, err error) {
	ctx := context.Background()
	mc.yields = 0
	compiled, err := mc.CompileModule(ctx, bin)
	if err != nil {
		return o, err
	}
	defer compiled.Close(ctx)
	mod, err := mc.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return o, err
	}
	defer mod.Close(ctx)
	res, err := mod.ExportedFunction("run").Call(ctx, arg)
	if err != nil {
		o.trap, _, _ = strings.Cut(err.Error(), "\n")
	} else {
		o.result = res[0]
	}
	size := mod.Memory().Size()
	mem, _ := mod.Memory().Read(0, size)
	o.memory, o.pages, o.yields = sha256.Sum256(mem), size>>16, mc.yields
	o.markers = mod.ExportedGlobal("markers").Get()
	if fuelGlobal != "" {
		o.fuel = int64(int32(uint32(mod.ExportedGlobal(fuelGlobal).Get())))
	}
	return o, nil
}

// compare wants a metered module to do what the module did and to be charged
// for all of it.
func (mc *machine) compare(t *testing.T, original []byte) (want outcome) {
	t.Helper()
	want, err := mc.run(original, "", 5)
	if err != nil {
		t.Skip("not a valid module: ", err)
	}
	m, err := Parse(original)
	if err != nil {
		t.Fatalf("a valid module is refused: %v", err)
	}
	if again, err := mc.run(m.Encode(), "", 5); err != nil || again != want {
		t.Errorf("encoded anew: %+v, %v, want %+v", again, err, want)
	}
	if err := m.Meter(testMeter); err != nil {
		t.Fatalf("a valid module can't be metered: %v", err)
	}
	if err := m.unpaid(); err != nil {
		t.Error(err)
	}
	names := m.Probe()
	got, err := mc.run(m.Encode(), names[len(names)-1], 5)
	if err != nil {
		t.Fatalf("the metered module isn't valid: %v", err)
	}
	charged := int64(testMeter.Quantum)*int64(got.yields+1) - got.fuel
	work := int64(got.markers) * markerCode
	if want.trap != "" {
		work -= reach // a function that ends the guest may not have paid for what led there
	}
	if charged*Unit < work {
		t.Errorf("charged %d units of %d for at least %d bytes of code", charged, Unit, work)
	}
	mc.compareDispatched(t, m, names[len(names)-1], got)
	got.yields, got.fuel = 0, 0
	if strings.Contains(want.trap, "stack overflow") && strings.Contains(got.trap, "stack overflow") {
		return want // how deep it gets depends on the size of the frames
	}
	if got != want {
		t.Errorf("metered: %+v, want %+v", got, want)
	}
	return want
}

func TestMeteredProgramsBehaveTheSame(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	mc := newMachine(t, wazero.NewRuntimeConfigCompiler())
	traps, yields := map[string]int{}, 0
	for range 150 {
		src := make([]byte, 100+rnd.IntN(400))
		for i := range src {
			src[i] = byte(rnd.UintN(256))
		}
		o := mc.compare(t, generate(src).Encode())
		if t.Failed() {
			t.Fatalf("program %x", src)
		}
		traps[o.trap]++
		yields += int(o.markers)
	}
	// The programs must be worth running.
	if traps[""] < 30 || len(traps) < 3 || yields < 10_000 {
		t.Errorf("ends %v, %d markers", traps, yields)
	}
}

func FuzzMeter(f *testing.F) {
	f.Add([]byte{2, 7, 5, 3, 9, 4, 1, 8, 2, 6, 3, 5, 9, 9, 9, 1})
	f.Add(bytes.Repeat([]byte{5, 3, 4, 9, 8, 7, 6}, 40))
	// The interpreter, as a fuzzed compiler is slow: all of it is instrumented.
	mc := newMachine(f, wazero.NewRuntimeConfigInterpreter())
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1000 {
			t.Skip()
		}
		mc.compare(t, generate(src).Encode())
	})
}

// FuzzParse feeds whole modules: the rewriter never panics, and of what it
// takes, whatever the engine takes too stays valid.
func FuzzParse(f *testing.F) {
	f.Add(generate([]byte{2, 7, 5, 3, 9, 4, 1, 8, 2, 6, 3, 5, 9, 9, 9, 1}).Encode())
	f.Add([]byte(magic))
	for _, name := range []string{"attack", "table"} {
		bin, err := os.ReadFile("../testdata/" + name + ".wasm")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bin)
	}
	f.Add([]byte(magic + "\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x04\x01\x02\x00\x0b"))
	f.Fuzz(func(t *testing.T, bin []byte) {
		m, err := Parse(bin)
		if err != nil {
			return
		}
		encoded := m.Encode()
		again, err := Parse(encoded)
		if err != nil || !bytes.Equal(again.Encode(), encoded) {
			t.Fatalf("encoding isn't stable: %v", err)
		}
		if m.Meter(testMeter) != nil {
			return
		}
		ctx := context.Background()
		r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
		defer r.Close(ctx)
		_, before := r.CompileModule(ctx, encoded) // without the custom sections, which the engine reads too
		_, after := r.CompileModule(ctx, m.Encode())
		if before == nil && after != nil {
			t.Errorf("valid before, after metering: %v", after)
		}
		// What isn't valid mustn't become so: it would be code that nobody has
		// checked, naming what the metering has added.
		if before != nil && after == nil {
			t.Errorf("valid after metering, before: %v", before)
		}
		if before != nil {
			return
		}
		m.dropTable()
		if _, err := r.CompileModule(ctx, m.Encode()); err != nil {
			t.Errorf("valid before, without its table: %v", err)
		}
	})
}

// A guest can't name what the metering adds: it would set its own fuel.
func TestAddedIndicesAreOutOfReach(t *testing.T) {
	plain := func() *Module {
		return &Module{
			types: []funcType{{nil, nil}}, funcs: []uint32{0}, code: []body{{nil, []byte{opEnd}}},
			globals: []global{{typeI32, true, constExpr{op: opI32Const}}}, memory: &limits{min: 1},
			tables: []table{{typeFuncref, limits{min: 1}}},
		}
	}
	if err := plain().Meter(testMeter); err != nil {
		t.Fatal(err)
	}
	code := func(b ...byte) func(*Module) { return func(m *Module) { m.code[0].code = append(b, opEnd) } }
	for name, change := range map[string]func(*Module){
		"set a global":       code(opI32Const, 0, opGlobalSet, 1),
		"get a global":       code(opGlobalGet, 1, opDrop),
		"call a function":    code(opCall, 1),
		"take a function":    code(opRefFunc, 1, opDrop),
		"a block of a type":  code(opBlock, 1, opEnd),
		"a call of a type":   code(opI32Const, 0, opCallIndirect, 1, 0),
		"export a function":  func(m *Module) { m.exports = []export{{"f", kindFunc, 1}} },
		"export a global":    func(m *Module) { m.exports = []export{{"g", kindGlobal, 1}} },
		"start a function":   func(m *Module) { m.start = new(uint32); *m.start = 1 },
		"a table's function": func(m *Module) { m.elems = []elem{{offset: constExpr{op: opI32Const}, funcs: []uint32{1}}} },
		"a table's expression": func(m *Module) {
			m.elems = []elem{{flag: 5, kind: typeFuncref, exprs: []constExpr{{op: opRefFunc, num: 1}}}}
		},
		"a global's value":   func(m *Module) { m.globals[0].init = constExpr{op: opGlobalGet, num: 1} },
		"a segment's offset": func(m *Module) { m.data = []segment{{offset: constExpr{op: opGlobalGet, num: 1}}} },
		"the host's import":  func(m *Module) { m.imports = []importFunc{{testMeter.Module, testMeter.Name, 0}} },
		"the host's export":  func(m *Module) { m.exports = []export{{probePrefix + "0", kindGlobal, 0}} },
	} {
		m := plain()
		change(m)
		if err := m.Meter(testMeter); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A function that goes straight to a loop, or to an import, is charged once
// there and not at its entry too.
func TestOneChargeAFunction(t *testing.T) {
	fuel := func(code ...byte) int {
		m := &Module{
			types: []funcType{{nil, nil}}, imports: []importFunc{{"env", "f", 0}}, funcs: []uint32{0},
			code: []body{{[]locals{{1, typeI32}}, append(code, opEnd)}}, memory: &limits{min: 1},
		}
		if err := m.Meter(testMeter); err != nil {
			t.Fatal(err)
		}
		return bytes.Count(m.code[0].code, []byte{opI32LeS, opIf, 0x40, opCall})
	}
	loop := []byte{opBlock, 0x40, opLoop, 0x40, opLocalGet, 0, opBrIf, 1, opI32Const, 1, opLocalSet, 0, opBr, 0, opEnd, opEnd}
	for name, c := range map[string]struct {
		code []byte
		want int
	}{
		"nothing":          {nil, 1},
		"loop":             {loop, 1},
		"after some code":  {append([]byte{opI32Const, 1, opDrop}, loop...), 1},
		"import":           {[]byte{opI32Const, 1, opLocalSet, 0, opCall, 0}, 1},
		"a branch, a loop": {append([]byte{opLocalGet, 0, opIf, 0x40, opEnd}, loop...), 2},
		"a call, a loop":   {append([]byte{opCall, 1}, loop...), 3}, // what led to the loop is paid before it
	} {
		if got := fuel(c.code...); got != c.want {
			t.Errorf("%s: %d charges, want %d", name, got, c.want)
		}
	}
}

// An instruction may cost more than the host gives at a time. What would be left as a debt would add up
// over others until the counter wraps, and the guest runs for seconds without coming back.
func TestNoDebtIsLeft(t *testing.T) {
	const size, times = 1 << 20, 20
	loop := []byte{opLoop, 0x40, opI32Const, 0, opI32Const, 0}
	loop = append(putS(append(loop, opI32Const), size), opMisc, miscMemInit, 0, 0)
	loop = append(loop, opGlobalGet, 0, opI32Const, 1, opI32Add, opGlobalSet, 0) // markers
	loop = append(putS(append(loop, opGlobalGet, 0, opI32Const), times), 0x48, opBrIf, 0, opEnd, opI32Const, 0, opEnd)
	one := uint32(1)
	m := &Module{
		types: []funcType{{[]byte{typeI32}, []byte{typeI32}}}, funcs: []uint32{0}, code: []body{{nil, loop}},
		globals: []global{{typeI32, true, constExpr{op: opI32Const}}}, memory: &limits{min: size >> 16},
		exports:   []export{{"run", kindFunc, 0}, {"markers", kindGlobal, 0}, {"memory", kindMemory, 0}},
		dataCount: &one, data: []segment{{flag: 1, init: make([]byte, size)}},
	}
	if err := m.Meter(testMeter); err != nil {
		t.Fatal(err)
	}
	names := m.Probe()
	o, err := newMachine(t, wazero.NewRuntimeConfigInterpreter()).run(m.Encode(), names[len(names)-1], 0)
	if err != nil || o.trap != "" || o.markers != times {
		t.Fatalf("%+v, %v", o, err)
	}
	if due := times * size >> bulkShift; o.fuel <= 0 || o.yields*int(testMeter.Quantum) < due {
		t.Errorf("it came back %d times, with %d units of fuel in the end, for %d units", o.yields, o.fuel, due)
	}
}
