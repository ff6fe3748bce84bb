package sandbox

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// maxIdle bounds the instances a plugin keeps for its next jobs. An idle one
// holds no memory of its own but its tables, tens of kilobytes.
const maxIdle = 32

// instance is one guest in its initial state, or running one call. Linear
// memory and mutable globals are all the state there is: a guest whose code
// writes tables or drops segments is never used twice.
type instance struct {
	mod     api.Module
	memory  linearMemory
	size    uint32
	globals []api.MutableGlobal
	initial []uint64
}

func instanceConfig(start ...string) wazero.ModuleConfig {
	return wazero.NewModuleConfig().WithName("").WithStartFunctions(start...).WithRandSource(rand.Reader)
}

// take gives out an idle instance or makes one.
func (p *Plugin) take(ctx context.Context) (*instance, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		in := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return in, nil
	}
	p.mu.Unlock()
	return p.instantiate(ctx)
}

func (p *Plugin) instantiate(ctx context.Context) (*instance, error) {
	mem, err := p.image.take(p.maxMemory())
	if err != nil {
		return nil, err
	}
	with := experimental.WithMemoryAllocator(ctx, experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return mem }))
	mod, err := p.runtime.InstantiateModule(with, p.compiled, instanceConfig(p.start...))
	if err != nil {
		mem.Free()
		return nil, err
	}
	in := &instance{mod: mod, memory: mem, size: mod.Memory().Size()}
	for _, name := range p.globals {
		g, ok := mod.ExportedGlobal(name).(api.MutableGlobal)
		if !ok {
			mod.Close(ctx)
			return nil, fmt.Errorf("global %q can't be set", name)
		}
		in.globals = append(in.globals, g)
		in.initial = append(in.initial, g.Get())
	}
	p.live.Add(1)
	return in, nil
}

// Instances counts those that run a call, or that a call left behind.
func (p *Plugin) Instances() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.live.Load()) - len(p.idle)
}

// put takes an instance back after a call. One that ended well, and whose
// memory didn't grow, is brought back to its initial state; any other is
// closed.
func (p *Plugin) put(ctx context.Context, in *instance, well bool) {
	if well && p.reusable && in.mod.Memory().Size() == in.size && in.memory.wipe() {
		for i, g := range in.globals {
			g.Set(in.initial[i])
		}
		p.mu.Lock()
		keep := !p.closed && len(p.idle) < min(maxIdle, p.m.Limits.Concurrency)
		if keep {
			p.idle = append(p.idle, in)
		}
		p.mu.Unlock()
		if keep {
			return
		}
	}
	in.mod.Close(context.WithoutCancel(ctx))
	p.live.Add(-1)
}

func (p *Plugin) maxMemory() uint64 { return uint64(memoryPages(p.m)) << 16 }
