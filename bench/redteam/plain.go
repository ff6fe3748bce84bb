package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/sluicehq/sluice/proto/guest"
)

// patience is how long after its deadline a guest in plain wazero is waited for.
const patience = 2 * time.Second

// attackPlain makes the attacks on the processor on wazero as it is.
func attackPlain(ctx context.Context, o options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintln(o.out, "\nThe same on plain wazero, one attacker, each in a process that is killed", patience, "after the deadline:")
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "attack\twithout: late\tGC cycle\tother goroutine\twith CloseOnContextDone: late\tGC cycle\tother goroutine")
	for _, a := range []struct{ name, what string }{
		{letters[0].name, "a"}, {letters[1].name, "b"}, {letters[2].name, "c"}, {letters[5].name, "f"}, {letters[6].name, "g"},
		{"giant line in a loop", "giant-line"},
	} {
		if !strings.Contains(a.name, o.only) {
			continue
		}
		fmt.Fprint(w, a.name)
		for _, mode := range []string{"open", "closing"} {
			seen, err := watch(ctx, self, mode+":"+a.what, o.deadline)
			if err != nil {
				return fmt.Errorf("plain wazero, %s: %w", a.name, err)
			}
			fmt.Fprint(w, seen)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// watch runs one attack in a child and times it from here, as a host that is
// frozen can't.
func watch(ctx context.Context, self, what string, deadline time.Duration) (string, error) {
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	cmd := exec.CommandContext(ctx, self, "-child", what, "-deadline", deadline.String())
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	var gc, gap time.Duration
	var late string
	var end, collecting, tick time.Time
	lost := time.NewTimer(time.Hour)
	defer lost.Stop()
	read := make(chan string)
	go func() {
		defer close(read)
		for s := bufio.NewScanner(lines); s.Scan(); {
			read <- s.Text()
		}
	}()
	for open := true; open; {
		select {
		case line, ok := <-read:
			now := time.Now()
			switch {
			case !ok:
				open = false
			case line == "ready":
				end, tick, collecting = now.Add(deadline), now, now
				lost.Reset(deadline + patience)
			case line == "gc":
				collecting = now
			case line == "gc ends":
				gc = max(gc, now.Sub(collecting))
			case line == "tick":
				gap, tick = max(gap, now.Sub(tick)-tickPeriod), now
			case line == "stopped":
				late = ms(max(now.Sub(end), 0))
			default:
				return "", fmt.Errorf("said %q", line)
			}
		case <-lost.C:
			now := time.Now()
			gc, gap = max(gc, now.Sub(collecting)), max(gap, now.Sub(tick)-tickPeriod)
			late = "never, killed"
			kill()
			for range read { // until the pipe is closed
			}
			open = false
		}
	}
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		return "", err
	}
	return fmt.Sprintf("\t%s\t%s\t%s", cmp.Or(late, "?"), ms(gc), ms(gap)), nil
}

const (
	tickPeriod    = 20 * time.Millisecond
	childVariable = "REDTEAM_CHILD"
)

// plainChild is the child: a guest with the imports it wants and nothing more,
// a goroutine that ticks and one that collects garbage, each saying so.
func plainChild(ctx context.Context, what string, deadline time.Duration) error {
	mode, name, _ := strings.Cut(what, ":")
	bin := giants()[name]
	if bin == nil {
		bin = attackModule
	}
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCloseOnContextDone(mode == "closing"))
	compiled, err := r.CompileModule(ctx, bin)
	if err != nil {
		return err
	}
	if err := stubs(ctx, r, compiled, "#"+name); err != nil {
		return err
	}
	m, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig())
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.ExportedFunction(guest.ExportGenerate).Call(ctx)
	}()
	go func() {
		for range time.Tick(tickPeriod) {
			fmt.Println("tick")
		}
	}()
	for {
		fmt.Println("gc")
		runtime.GC()
		fmt.Println("gc ends")
		select {
		case <-done:
			fmt.Println("stopped")
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stubs defines what a guest imports: functions that do nothing, but for the
// one that hands it its input.
func stubs(ctx context.Context, r wazero.Runtime, compiled wazero.CompiledModule, input string) error {
	builders := map[string]wazero.HostModuleBuilder{}
	for _, f := range compiled.ImportedFunctions() {
		module, name, _ := f.Import()
		if builders[module] == nil {
			builders[module] = r.NewHostModuleBuilder(module)
		}
		do := func(context.Context, api.Module, []uint64) {}
		if name == guest.ImportInputRead {
			do = func(_ context.Context, m api.Module, stack []uint64) {
				m.Memory().WriteString(uint32(stack[0]), input)
			}
		}
		builders[module].NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(do), f.ParamTypes(), f.ResultTypes()).Export(name)
	}
	for _, b := range builders {
		if _, err := b.Instantiate(ctx); err != nil {
			return err
		}
	}
	return nil
}
