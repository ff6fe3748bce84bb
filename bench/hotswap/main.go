// Hotswap replaces a native plugin again and again while it answers streams, and
// counts what was lost over it: jobs that failed, that needed another attempt,
// that broke off, or whose text is not what was asked for. It prints the memory
// of the host and of its plugin processes at the start and at the end.
//
// It runs a host of its own, on a redis-server if one is installed:
// go run ./bench/hotswap -for 2m
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/bench/ownredis"
	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host"
	"github.com/sluicehq/sluice/host/embedded"
	"github.com/sluicehq/sluice/host/manifest"
)

var (
	lasting = flag.Duration("for", 2*time.Minute, "how long")
	streams = flag.Int("streams", 200, "answers under way at the same time")
	every   = flag.Duration("every", 5*time.Second, "time between two swaps")
	source  = flag.String("source", "plugins/echo", "folder of the plugin echo")
	tokens  = flag.Int("tokens", 60, "length of an answer")
	delay   = flag.Int("delay", 50, "milliseconds between two tokens")
)

func main() { ownredis.Main("hotswap", slog.LevelError, serve) }

// serve runs the host around the measurement.
func serve(ctx context.Context, dir string, instance embedded.Instance, log *slog.Logger) error {
	v, err := prepare(ctx, dir)
	if err != nil {
		return err
	}
	if err := v.swap(); err != nil {
		return err
	}
	c := config.Default()
	c.Host.Concurrency = *streams + 10
	c.Plugins.Dirs, c.Plugins.CacheDir = []string{filepath.Join(dir, "plugins")}, filepath.Join(dir, "cache")
	rdb := redis.NewUniversalClient(instance.Redis)
	defer rdb.Close()
	life, stop := context.WithCancel(ctx)
	defer stop()
	group, life := errgroup.WithContext(life)
	hostReady, reload := make(chan struct{}), make(chan struct{})
	group.Go(func() error {
		return host.Run(life, host.Options{Config: c, Redis: rdb, Log: log, Reload: reload, Ready: func() { close(hostReady) }})
	})
	group.Go(func() error {
		defer stop()
		select {
		case <-hostReady:
		case <-life.Done():
			return nil
		}
		return measure(life, rdb, v, reload)
	})
	return group.Wait()
}

// versions are two builds of the plugin that differ in nothing but their digest.
type versions struct {
	folder   string
	manifest []byte
	programs [2][]byte
	next     int
}

func prepare(ctx context.Context, dir string) (*versions, error) {
	built := filepath.Join(dir, "built")
	m, err := manifest.Build(ctx, filepath.Join(*source, "native.yaml"), built)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(m.Path())
	if err != nil {
		return nil, err
	}
	v := &versions{folder: filepath.Join(dir, "plugins", "echo")}
	v.programs[0] = program
	v.programs[1] = append(program[:len(program):len(program)], "another"...) // past the end of what is loaded
	v.manifest = fmt.Appendf(nil, "name: %s\nversion: %s\nprotocol: %d\nruntime: native\nartifact: artifact\nmodels: [{name: echo, continue: true}]\nlimits: {memory: 512MiB}\n",
		m.Name, m.Version, m.Protocol)
	return v, os.MkdirAll(v.folder, 0o755)
}

// swap puts the other version in place: the artifact first, the manifest last.
func (v *versions) swap() error {
	program := v.programs[v.next]
	v.next = 1 - v.next
	sum := sha256.Sum256(program)
	text := fmt.Appendf(nil, "%ssha256: %s\n", v.manifest, hex.EncodeToString(sum[:]))
	for _, f := range []struct {
		name string
		b    []byte
		mode os.FileMode
	}{{"artifact", program, 0o755}, {manifest.File, text, 0o644}} {
		path := filepath.Join(v.folder, f.name)
		if err := os.WriteFile(path+".new", f.b, f.mode); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}
