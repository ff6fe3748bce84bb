package host

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/host/sandbox"
)

// runtimes opens what plugins are run with. closeAll is called once no plugin is left.
func runtimes(ctx context.Context, cfg config.Plugins, log *slog.Logger) (_ map[manifest.Runtime]starter, closeAll func(context.Context) error, err error) {
	guests, err := sandbox.NewRuntime(ctx, sandbox.Options{CacheDir: cfg.CacheDir, Log: log})
	if err != nil {
		return nil, nil, fmt.Errorf("plugins.cache_dir: open the sandbox: %w", err)
	}
	return map[manifest.Runtime]starter{
		manifest.Wasm: func(ctx context.Context, m *manifest.Manifest, gate *egress.Gate) (instance, error) {
			p, err := guests.Load(ctx, m, gate)
			if err != nil {
				return instance{}, err
			}
			return instance{provider: p.Provider(), stop: p.Close, says: p.Description()}, nil
		},
		manifest.Native: func(ctx context.Context, m *manifest.Manifest, gate *egress.Gate) (instance, error) {
			p, err := native.Start(ctx, m, native.Options{
				CacheDir: cfg.CacheDir, Egress: gate, Log: log, RequireBox: cfg.Config[m.Name].RequireBox,
			})
			if err != nil {
				return instance{}, err
			}
			ended := make(chan error, 1)
			go func() { ended <- p.Run(context.WithoutCancel(ctx)) }()
			stop := func(ctx context.Context) error {
				if err := p.Close(ctx); err != nil {
					return err
				}
				return <-ended
			}
			return instance{provider: p.Provider(), stop: stop, state: p.State, says: p.Description()}, nil
		},
	}, guests.Close, nil
}
