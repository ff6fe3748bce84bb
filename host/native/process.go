package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/host/native/cgroup"
	"github.com/sluicehq/sluice/proto/provider"
	"github.com/sluicehq/sluice/sdk"
)

// process is one process of a plugin that has answered.
type process struct {
	runner *procRunner
	client *goplugin.Client
	conn   *grpc.ClientConn
	desc   sdk.Description
	began  time.Time

	// Guarded by the plugin's mu.
	calls   int
	keys    map[string]int // of the calls under way
	retired bool           // it takes no more calls
	empty   chan struct{}  // closed when retired and calls == 0
}

// connection is what the plugin dispenses on the host's side.
type connection struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (connection) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return errors.New("the host's side has no server")
}

func (connection) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

func (p *Plugin) launch(ctx context.Context) (_ *process, err error) {
	lines := newLines(p.log)
	r, err := newRunner(p.path, p.dir.path, p.environment(), lines)
	if err != nil {
		return nil, err
	}
	if err := p.enclose(r); err != nil {
		r.release()
		return nil, err
	}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion:  provider.ProtocolVersion,
			MagicCookieKey:   provider.CookieKey,
			MagicCookieValue: provider.CookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{
			provider.ProtocolVersion: {provider.PluginName: connection{}},
		},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		GRPCDialOptions:  dialOptions(r.dial),
		SkipHostEnv:      true,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: p.dir.path},
		StartTimeout:     p.opts.StartTimeout,
		Logger:           hclog.NewNullLogger(), // what matters is in the errors, and in our log
		SyncStdout:       lines.writer("stdout"),
		SyncStderr:       lines.writer("stderr"),
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, sockets string) (runner.Runner, error) {
			return r, r.prepare(spec.Env, sockets)
		},
	})
	proc := &process{runner: r, client: client, began: time.Now(), keys: map[string]int{}, empty: make(chan struct{})}
	defer func() {
		if err != nil {
			proc.end(0)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, p.opts.StartTimeout)
	defer cancel()
	for _, over := range []context.Context{ctx, p.stop} {
		defer context.AfterFunc(over, r.kill)() // go-plugin's start knows no context
	}
	rpc, err := client.Client()
	if err != nil {
		return nil, p.startError(ctx, r, err)
	}
	raw, err := rpc.Dispense(provider.PluginName)
	if err != nil {
		return nil, fmt.Errorf("dispense: %w", err)
	}
	proc.conn = raw.(*grpc.ClientConn)
	out, err := provider.Call(ctx, proc.conn, provider.Describe, nil)
	if err != nil {
		return nil, fmt.Errorf("describe: %w", p.failure(ctx, proc, err))
	}
	if len(out) > maxReply {
		return nil, fmt.Errorf("describe: it answered with more than %d bytes", maxReply)
	}
	if err := proc.desc.UnmarshalBinary(out); err != nil {
		return nil, err
	}
	for _, text := range []*string{&proc.desc.Name, &proc.desc.Version, &proc.desc.SDK} {
		*text = legible(clip(*text, maxVersion))
	}
	return proc, nil
}

// dialOptions are for connections to plugins; dial is how such a connection is made.
func dialOptions(dial func(context.Context, string) (net.Conn, error)) []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRequest), grpc.MaxCallSendMsgSize(maxRequest)),
		grpc.WithMaxHeaderListSize(maxHeader), // errors travel in it
		grpc.WithStreamInterceptor(withoutBroker),
	}
	if dial != nil {
		options = append(options, grpc.WithContextDialer(dial))
	}
	return options
}

// withoutBroker keeps go-plugin from the plugin's broker, which nothing here uses: it keeps whatever
// that tells it, without end.
func withoutBroker(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if strings.HasPrefix(method, "/plugin.GRPCBroker/") {
		return nil, status.Error(codes.Unimplemented, "there are no brokered connections")
	}
	return next(ctx, desc, cc, method, opts...)
}

// enclose has a process begin its life in its box, and in a control group if there are any.
func (p *Plugin) enclose(r *procRunner) (err error) {
	if p.groups != nil {
		if r.group, err = p.groups.New(cgroup.Limit{Memory: p.m.Limits.Memory, Tasks: MaxTasks}); err != nil {
			return err
		}
		r.group.Enter(r.cmd.SysProcAttr)
	}
	return p.box.Wrap(r.cmd, p.contents())
}

// MaxMemory is where the system stops a process that is in no control group, where the manifest's limit
// is looked at now and then only. It is above that limit because it is about private memory, which includes what
// programs reserve and never touch.
func MaxMemory(m *manifest.Manifest) int64 { return 4*m.Limits.Memory + 512<<20 }

// contents is what the box holds.
func (p *Plugin) contents() box.Spec {
	l := p.m.Limits
	return box.Spec{
		Path: p.path, Dir: p.dir.path, Files: append(systemFiles(p.path), p.m.Files...),
		Limit: box.Limit{
			Data:  MaxMemory(p.m),
			Files: int64(256 + l.Concurrency*max(1, l.OpenRequests)),
			Tasks: MaxTasks,
		},
	}
}

// environment is all that the process sees.
func (p *Plugin) environment() []string {
	env := []string{
		provider.EnvLifeline + "=stdin",
		"GOMEMLIMIT=" + strconv.FormatInt(p.m.Limits.Memory*9/10, 10), // Go plugins collect harder before they are killed
	}
	if p.opts.Egress != nil {
		env = append(env, provider.EnvEgress+"="+p.dir.egress.Addr().String())
	}
	for _, name := range p.m.Env {
		if v, ok := p.opts.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// startError prefers what the process itself made known to what go-plugin makes of it.
func (p *Plugin) startError(ctx context.Context, r *procRunner, err error) error {
	if core, rest, ok := strings.Cut(r.handshake(), "|"); ok && core == strconv.Itoa(goplugin.CoreProtocolVersion) {
		version, _, _ := strings.Cut(rest, "|")
		if n, e := strconv.Atoi(version); e == nil {
			if e := checkProtocol(n); e != nil {
				return e
			}
		}
	}
	died := r.diedItself()
	r.kill()
	<-r.exited
	exit := r.exitError()
	switch {
	case p.stop.Err() != nil:
		return errClosed
	case ctx.Err() != nil && !died:
		return fmt.Errorf("no answer within %v: %w", p.opts.StartTimeout, context.Cause(ctx))
	case r.handshake() == "":
		return fmt.Errorf("it is no Sluice plugin, or died at start: %w", exit)
	}
	return fmt.Errorf("%w (%w)", err, exit)
}

// end stops the process: politely, and after grace by force.
func (p *process) end(grace time.Duration) {
	p.runner.ask()
	t := time.NewTimer(grace)
	select {
	case <-p.runner.exited:
	case <-t.C:
	}
	t.Stop()
	p.runner.kill()
	p.client.Kill() // what go-plugin holds of it: goroutines, the connection, the socket directory
	p.runner.release()
}

// Bounds of what a plugin says of itself, in bytes.
const (
	maxHeader  = 256 << 10
	maxMessage = 4 << 10
	maxVersion = 100
)

// ExitError tells how a process ended.
type ExitError struct {
	Reason string // exit status or signal
	Stderr string // the last of what it wrote, 4 KB at most
}

func (e *ExitError) Error() string {
	if e.Stderr == "" {
		return e.Reason
	}
	return e.Reason + "; it wrote: " + e.Stderr
}

// LogValue keeps the two apart.
func (e *ExitError) LogValue() slog.Value {
	return slog.GroupValue(slog.String("reason", e.Reason), slog.String("stderr", e.Stderr))
}
