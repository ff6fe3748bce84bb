package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/sandbox/rewrite"
	"github.com/sluicehq/sluice/proto/guest"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// quantum is the fuel a guest gets at a time: a tenth of a millisecond, more or
// less. That is how long it may keep the scheduler, the garbage collector or a
// cancellation waiting.
const quantum = 100_000

// fuelPerSecond converts a limit of processor time into fuel. Code is charged
// by the byte, so this gives the order of magnitude, the same on every machine,
// and not a clock.
const fuelPerSecond = 1_500_000_000

// maxArtifact bounds a guest, in bytes.
const maxArtifact = 32 << 20

// prepared is a guest as it was installed: rewritten, and frozen after its
// initialisation if that can be.
type prepared struct {
	code   []byte
	memory []byte // of a new instance; nil when the guest initialises each itself
}

// frozen says whether instances start where the initialisation ended.
func (p *prepared) frozen() bool { return p.memory != nil }

// prepare installs a guest, or finds it installed.
func (rt *Runtime) prepare(ctx context.Context, m *manifest.Manifest, log *plainLog, bin []byte) (*prepared, error) {
	if err := checkMagic(bin); err != nil {
		return nil, err
	}
	if len(bin) > maxArtifact {
		return nil, fmt.Errorf("is larger than %d MiB", maxArtifact>>20)
	}
	file := rt.imageFile(m, bin)
	pre, err := readPrepared(file)
	if err == nil {
		return pre, nil
	}
	if !errors.Is(err, errNoImage) {
		rt.log.Warn("installed guest unusable, installing it again", "provider", m.Name, "error", err)
	}
	start := time.Now()
	if err := rt.runInstaller(ctx, m, log, bin, file); err != nil {
		return nil, err
	}
	if pre, err = readPrepared(file); err != nil {
		return nil, err
	}
	rt.log.Info("guest installed", "provider", m.Name, "frozen", pre.frozen(), "bytes", len(pre.code), "memory", len(pre.memory), "took", time.Since(start))
	return pre, nil
}

// imageFile is where a guest is kept, by everything that went into it.
func (rt *Runtime) imageFile(m *manifest.Manifest, bin []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "rewrite %d abi %d quantum %d pages %d image %d\n", rewrite.Version, guest.Version, quantum, memoryPages(m), imageVersion)
	h.Write(bin)
	return filepath.Join(rt.dir, "images", fmt.Sprintf("%x", h.Sum(nil)))
}

func memoryPages(m *manifest.Manifest) uint32 { return uint32(min(m.Limits.Memory>>16, 1<<16)) }

// install rewrites a guest, checks it, runs its initialisation once and
// freezes the result.
func install(ctx context.Context, m *manifest.Manifest, log *plainLog, bin []byte) (*prepared, error) {
	mod, err := rewrite.Parse(bin)
	if err != nil {
		return nil, err
	}
	if err := mod.Meter(rewrite.Meter{Module: guest.Module, Name: guest.ImportYield, Quantum: quantum}); err != nil {
		return nil, err
	}
	if err := mod.LimitMemory(memoryPages(m)); err != nil {
		return nil, err
	}
	plain := mod.Encode()
	reason := mod.Freezable()
	var names []string
	if reason == nil {
		names = mod.Probe()
	}
	// The interpreter needs no compilation, which would be for this one run.
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(context.WithoutCancel(ctx))
	if err := defineImports(ctx, r); err != nil {
		return nil, fmt.Errorf("define imports: %w", err)
	}
	compiled, err := r.CompileModule(ctx, mod.Encode())
	if err != nil {
		return nil, fmt.Errorf("is not a valid module: %w", err)
	}
	if err := checkModule(compiled); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	c := &call{
		Context: ctx, cancel: cancel, plugin: &Plugin{m: m, log: log, stop: ctx}, loading: true,
		stdio: &stdio{ctx: ctx, log: log},
	}
	defer c.stdio.flush()
	inst, err := initialise(c, r, compiled)
	if err != nil {
		return nil, err
	}
	if reason != nil {
		log.log.Log(ctx, slog.LevelWarn, "guest can't be frozen, each job initialises its own", "reason", reason)
		return &prepared{code: plain}, nil
	}
	values := map[string]uint64{}
	for _, name := range names {
		values[name] = inst.ExportedGlobal(name).Get()
	}
	size := inst.Memory().Size()
	memory, ok := inst.Memory().Read(0, size)
	if !ok {
		return nil, errors.New("freeze: no memory")
	}
	if err := mod.Freeze(values, size>>16); err != nil {
		return nil, err
	}
	return &prepared{code: mod.Encode(), memory: memory}, nil
}

// initialise brings an instance to where jobs start, and checks its ABI before
// anything else is asked of it.
func initialise(c *call, r wazero.Runtime, compiled wazero.CompiledModule) (api.Module, error) {
	start := time.Now()
	failed := func(what string, err error) error {
		if c.Err() != nil {
			return fmt.Errorf("%s: takes longer than %v", what, time.Since(start).Round(time.Second))
		}
		return fmt.Errorf("%s: %w", what, c.died(err))
	}
	inst, err := r.InstantiateModule(c, compiled, instanceConfig(guest.ExportInitialize))
	if err != nil {
		return nil, failed("initialise", err)
	}
	v, err := inst.ExportedFunction(guest.ExportABI).Call(c)
	if err != nil {
		return nil, failed("ask for the ABI", err)
	}
	if err := checkVersion(uint32(v[0])); err != nil {
		return nil, err
	}
	if warm := inst.ExportedFunction(guest.ExportWarm); warm != nil {
		if _, err := warm.Call(c); err != nil {
			return nil, failed("warm up", err)
		}
	}
	return inst, nil
}
