package rewrite

import (
	"context"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// kernels are small programs in which metering weighs most.
func kernels() map[string]*Module {
	make := func(code []byte, nl uint32) *Module {
		return &Module{
			types: []funcType{{[]byte{typeI32}, []byte{typeI32}}}, memory: &limits{min: 2}, funcs: []uint32{0},
			exports: []export{{"run", kindFunc, 0}, {"memory", kindMemory, 0}}, code: []body{{[]locals{{nl, typeI32}}, code}},
		}
	}
	return map[string]*Module{
		// for n > 0 { sum += n; n-- }
		"loop": make([]byte{opLoop, 0x40, opLocalGet, 1, opLocalGet, 0, opI32Add, opLocalSet, 1,
			opLocalGet, 0, opI32Const, 1, opI32Sub, opLocalTee, 0, opBrIf, 0, opEnd, opLocalGet, 1, opEnd}, 1),
		// n < 2 ? n : fib(n-1) + fib(n-2)
		"fib": make([]byte{opLocalGet, 0, opI32Const, 2, 0x49, opIf, typeI32, opLocalGet, 0, opElse,
			opLocalGet, 0, opI32Const, 1, opI32Sub, opCall, 0, opLocalGet, 0, opI32Const, 2, opI32Sub, opCall, 0, opI32Add, opEnd, opEnd}, 0),
		// bytes summed up from memory, 8 to an iteration
		"sum": make([]byte{opLoop, 0x40,
			opLocalGet, 1, opLocalGet, 0, 0x2d, 0, 0, opI32Add, opLocalGet, 0, 0x2d, 0, 1, opI32Add, opLocalGet, 0, 0x2d, 0, 2, opI32Add,
			opLocalGet, 0, 0x2d, 0, 3, opI32Add, opLocalGet, 0, 0x2d, 0, 4, opI32Add, opLocalGet, 0, 0x2d, 0, 5, opI32Add,
			opLocalGet, 0, 0x2d, 0, 6, opI32Add, opLocalGet, 0, 0x2d, 0, 7, opI32Add, opLocalSet, 1,
			opLocalGet, 0, opI32Const, 8, opI32Sub, opLocalTee, 0, opBrIf, 0, opEnd, opLocalGet, 1, opEnd}, 1),
	}
}

// BenchmarkMetering compares ways of being able to stop a guest: none, ours,
// and the engine's own.
func BenchmarkMetering(b *testing.B) {
	args := map[string]uint64{"loop": 10_000_000, "fib": 30, "sum": 100_000}
	for name, m := range kernels() {
		plain := m.Encode()
		if err := m.Meter(Meter{Module: "host", Name: "yield", Quantum: 100_000}); err != nil {
			b.Fatal(err)
		}
		for _, kind := range []struct {
			name string
			bin  []byte
			done bool
		}{{"plain", plain, false}, {"metered", m.Encode(), false}, {"engine", plain, true}} {
			b.Run(name+"/"+kind.name, func(b *testing.B) {
				ctx, cancel := context.WithCancel(b.Context())
				defer cancel()
				r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCloseOnContextDone(kind.done))
				defer r.Close(context.Background())
				_, err := r.NewHostModuleBuilder("host").NewFunctionBuilder().WithGoModuleFunction(
					api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) { stack[0] = 100_000 }),
					nil, []api.ValueType{api.ValueTypeI32}).Export("yield").Instantiate(ctx)
				if err != nil {
					b.Fatal(err)
				}
				mod, err := r.Instantiate(ctx, kind.bin)
				if err != nil {
					b.Fatal(err)
				}
				run := mod.ExportedFunction("run")
				for b.Loop() {
					if _, err := run.Call(ctx, args[name]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
