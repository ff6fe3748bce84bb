//go:build !wasip1

package sdk

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/sluicehq/sluice/proto/provider"
)

// Main serves the registered provider to the host that started this process; in a sandboxed
// plugin it does nothing, as the host calls the provider itself. Started by hand, it answers the
// prompt on its command line: a way to try a provider without a host.
func Main() {
	if registered.Generate == nil {
		fmt.Fprintln(os.Stderr, errNotRegistered)
		os.Exit(1)
	}
	if os.Getenv(provider.CookieKey) != provider.CookieValue {
		os.Exit(try(context.Background(), &registered, os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getenv(provider.EnvLifeline) == "stdin" {
		go func() { // ends with the process, which it ends
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
	}
	slog.SetDefault(Logger())
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion:  provider.ProtocolVersion,
			MagicCookieKey:   provider.CookieKey,
			MagicCookieValue: provider.CookieValue,
		},
		VersionedPlugins: map[int]plugin.PluginSet{
			provider.ProtocolVersion: {provider.PluginName: &served{p: &registered}},
		},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts,
				grpc.ForceServerCodecV2(provider.Codec()),
				grpc.MaxRecvMsgSize(maxRequest),
				grpc.MaxSendMsgSize(maxMessageBytes),
			)...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn, JSONFormat: true}),
	})
}

const (
	maxRequest      = 64 << 20
	maxMessageBytes = 64 << 20
)

// served registers a provider's gRPC server with go-plugin.
type served struct {
	plugin.NetRPCUnsupportedPlugin
	p *Provider
}

func (s *served) GRPCServer(_ *plugin.GRPCBroker, srv *grpc.Server) error {
	provider.RegisterRaw(srv, &server{p: s.p})
	return nil
}

func (s *served) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, fmt.Errorf("the plugin's side has no client")
}
