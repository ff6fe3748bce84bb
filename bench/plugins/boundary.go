package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"text/tabwriter"
	"time"

	_ "embed"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluicehq/sluice/bench/plugins/steady"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/provider"
)

// cost is what one chunk takes.
type cost struct {
	wall, host, plugin time.Duration // on the clock, and of the two sides' processors
}

// way is one way for chunks to come to the host.
type way struct {
	name     string
	chunks   int
	run      func(ctx context.Context, n int) error
	pids     func() []int // of the other side; nil when it is this process
	bothHere bool         // two sides are, as if in two processes
	target   target       // of the clock, or of the processor of each side
	best     cost
}

// judged is what the target is about.
func (w *way) judged() time.Duration {
	switch {
	case w.pids != nil:
		return max(w.best.host, w.best.plugin)
	case w.bothHere:
		return w.best.host / 2
	}
	return w.best.wall
}

// boundary measures a chunk of 20 bytes on each way, the ways in turn.
func (b *bench) boundary(ctx context.Context) error {
	guest, err := b.start(ctx, "steady-sandbox", manifest.Operator{})
	if err != nil {
		return err
	}
	defer guest.close()
	process, err := b.start(ctx, "steady-native", manifest.Operator{})
	if err != nil {
		return err
	}
	defer process.close()
	call, closeCall, err := bareCall(ctx)
	if err != nil {
		return err
	}
	defer closeCall()
	stream, closeStream, err := bareStream(b.dir + "/bare")
	if err != nil {
		return err
	}
	defer closeStream()
	emits := func(p *running) func(context.Context, int) error {
		return func(ctx context.Context, n int) error {
			return p.Generate(ctx, ask("many", strconv.Itoa(n)), discard)
		}
	}
	ways := []*way{
		{name: "in-process", chunks: b.chunks, run: emits(&running{Provider: steady.Provider})},
		{name: "bare call from a guest to wazero", chunks: b.chunks, run: call},
		{name: "sandbox, a Go guest", chunks: b.chunks, run: emits(guest), target: target{150 * time.Nanosecond, "150 ns"}},
		{name: "bare gRPC stream, a message each", chunks: b.chunks / 5, run: stream, bothHere: true, target: target{2500 * time.Nanosecond, "2.5 µs CPU per side"}},
		{name: "native, as fast as it goes", chunks: b.chunks, run: emits(process), pids: process.pids, target: target{500 * time.Nanosecond, "0.5 µs CPU per side, merged"}},
	}
	for range b.rounds {
		for _, w := range ways {
			c, err := w.measure(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			w.best = cost{least(w.best.wall, c.wall), least(w.best.host, c.host), least(w.best.plugin, c.plugin)}
		}
	}
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "one chunk of 20 bytes\twall\tCPU of the host\tCPU of the plugin\ttarget\t\n")
	for _, w := range ways {
		plugin := "with the host's"
		if w.pids != nil {
			plugin = ns(w.best.plugin)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t\n", w.name, ns(w.best.wall), ns(w.best.host), plugin, w.target.judge(w.judged()))
	}
	return nil
}

func least(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

func ns(d time.Duration) string { return strconv.Itoa(int(d.Nanoseconds())) + " ns" }

func (w *way) measure(ctx context.Context) (c cost, err error) {
	var pids []int
	if w.pids != nil {
		pids = w.pids()
	}
	other := processTime(pids)
	own, began := ownTime(), time.Now()
	if err := w.run(ctx, w.chunks); err != nil {
		return c, err
	}
	n := time.Duration(w.chunks)
	return cost{time.Since(began) / n, (ownTime() - own) / n, (processTime(pids) - other) / n}, nil
}

//go:embed bare.wasm
var bareModule []byte

// bareCall calls from a guest to an empty function of the host.
func bareCall(ctx context.Context) (run func(context.Context, int) error, closeAll func(), err error) {
	r := wazero.NewRuntime(ctx)
	closeAll = func() { r.Close(context.WithoutCancel(ctx)) }
	i32 := api.ValueTypeI32
	_, err = r.NewHostModuleBuilder("bare").NewFunctionBuilder().
		WithGoModuleFunction(api.GoModuleFunc(func(context.Context, api.Module, []uint64) {}), []api.ValueType{i32, i32, i32}, []api.ValueType{i32}).
		Export("emit").Instantiate(ctx)
	if err != nil {
		return nil, closeAll, err
	}
	m, err := r.Instantiate(ctx, bareModule)
	if err != nil {
		return nil, closeAll, err
	}
	return func(ctx context.Context, n int) error {
		_, err := m.ExportedFunction("run").Call(ctx, uint64(n))
		return err
	}, closeAll, nil
}

// bareStream is gRPC on a unix socket with both ends in this process.
func bareStream(socket string) (run func(context.Context, int) error, closeAll func(), err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(provider.Codec()))
	provider.RegisterRaw(server, bareServer{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	closeAll = func() {
		if conn != nil {
			conn.Close()
		}
		server.Stop()
		<-served
	}
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	return func(ctx context.Context, n int) error {
		return provider.Stream(ctx, conn, provider.Generate, provider.Raw(strconv.Itoa(n)), func(provider.Raw) error { return nil })
	}, closeAll, nil
}

type bareServer struct{}

func (bareServer) Call(context.Context, provider.Method, provider.Raw) (provider.Raw, error) {
	return nil, nil
}

func (bareServer) Stream(_ context.Context, _ provider.Method, in provider.Raw, send func(provider.Raw) error) error {
	n, err := strconv.Atoi(string(in))
	if err != nil {
		return err
	}
	batch := provider.Raw("\x0a\x16\x0a\x14" + string(steady.Text))
	for range n {
		if err := send(batch); err != nil {
			return err
		}
	}
	return nil
}
