package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/gateway"
	"github.com/sluicehq/sluice/host"
	"github.com/sluicehq/sluice/host/embedded"
)

// service is one running Sluice: the halves that were asked for, and their Redis.
type service struct {
	config        config.Config // in force
	sources       config.Sources
	log           *slog.Logger
	level         slog.LevelVar // of log
	stdout        io.Writer
	host, gateway bool
	hangups       chan os.Signal // kept until they can be acted on
}

// run serves until ctx ends, then stops in order: the gateway takes no more,
// the host drains, and Redis goes last.
func (s *service) run(ctx context.Context) error {
	redis.SetLogger(redisLog{s.log})
	s.hangups = make(chan os.Signal, 1)
	signal.Notify(s.hangups, syscall.SIGHUP)
	defer signal.Stop(s.hangups)
	if s.config.Redis.URL.IsZero() && !(s.host && s.gateway) {
		return errors.New("redis.url is not set: a host and a gateway that run apart meet on a Redis both can reach; " +
			"set redis.url, or run sluice without a word to have both in one process")
	}
	if err := besideBinary(&s.config); err != nil {
		return err
	}
	if s.gateway { // said now, and not when the plugins have been compiled
		if err := gateway.Check(s.config.Gateway); err != nil {
			return err
		}
		if err := isFree("gateway.addr", s.config.Gateway.Addr); err != nil {
			return err
		}
	}
	if s.host && s.config.Host.Addr != "" {
		if err := isFree("host.addr", s.config.Host.Addr); err != nil {
			return err
		}
	}
	return s.withRedis(ctx, s.serve)
}

// besideBinary fills in where plugins are when nobody says.
func besideBinary(c *config.Config) error {
	if len(c.Plugins.Dirs) > 0 {
		return nil
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the plugins beside the binary: %w", err)
	}
	c.Plugins.Dirs = []string{filepath.Join(filepath.Dir(binary), "plugins")}
	return nil
}

// isFree says why the address that key sets can't be listened on.
func isFree(key, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", key, explain(key, addr, err))
	}
	return l.Close()
}

// explain adds what would help to an error of listening on the address that key sets.
func explain(key, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is taken, perhaps by another sluice: stop that one, or have a free port chosen with --%s 127.0.0.1:0", addr, key)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: choose a port above 1023 with --%s, or run as a user who may use this one", err, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is no address of this machine: give --%s one that it has, or 0.0.0.0 for all", addr, key)
	}
	return err
}

// serve runs the halves until ctx ends or one of them fails. The gateway comes
// up when the host serves, so that whoever connects finds models.
func (s *service) serve(ctx context.Context, rdb redis.UniversalClient) error {
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { s.log.Info("stopping; a second signal ends it at once") })()
	hostReady := make(chan struct{})
	var reload chan struct{}
	if s.host {
		reload = make(chan struct{})
		ready := sync.OnceFunc(func() { close(hostReady) })
		group.Go(func() error {
			o := host.Options{Config: s.config, Redis: rdb, Log: s.log, Version: buildVersion(), Reload: reload, Ready: ready}
			if err := host.Run(ctx, o); err != nil {
				return fmt.Errorf("host: %w", err)
			}
			return nil
		})
	} else {
		close(hostReady)
	}
	group.Go(func() error {
		s.onHangup(ctx, reload)
		return nil
	})
	group.Go(func() error {
		select {
		case <-hostReady:
		case <-ctx.Done():
			return nil
		}
		if !s.gateway {
			fmt.Fprintln(s.stdout, "Sluice takes jobs. Ctrl-C stops it.")
			return nil
		}
		o := gateway.Options{Config: s.config.Gateway, Redis: rdb, Log: s.log, TTL: s.config.Host.TTL, Ready: s.greet}
		if err := gateway.Run(ctx, o); err != nil {
			return explain("gateway.addr", s.config.Gateway.Addr, err)
		}
		return nil
	})
	return group.Wait()
}

// onHangup reads the configuration again at every SIGHUP, and asks for a look at
// the plugins, until ctx ends. reload is nil where no host runs.
func (s *service) onHangup(ctx context.Context, reload chan<- struct{}) {
	running := s.config.Log.Level
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hangups:
		}
		running = s.reread(running)
		if reload == nil {
			continue
		}
		select {
		case reload <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// reread reads the configuration and takes over what can change while it runs,
// which is the level of the log. It names what else has changed since the start,
// and returns the level in force.
func (s *service) reread(level string) string {
	now, err := config.Load(s.sources)
	if err != nil {
		s.log.Error("configuration can't be used, the one before stays", "error", err)
		return level
	}
	if now.Log.Level != level {
		_ = s.level.UnmarshalText([]byte(now.Log.Level)) // validated
	}
	was := s.config
	was.Log.Level = now.Log.Level
	if err := besideBinary(&now); err != nil {
		s.log.Error("configuration can't be used, the one before stays", "error", err)
		return level
	}
	if keys := config.Changed(was, now); len(keys) > 0 {
		s.log.Warn("settings have changed that take a restart", "keys", strings.Join(keys, ", "))
	} else {
		s.log.Info("configuration read again", "level", now.Log.Level)
	}
	return now.Log.Level
}

// greet prints the one line that a person who just started it needs.
func (s *service) greet(addr string) {
	what := "open"
	if !s.config.Gateway.Page {
		what = "Socket.IO is at"
	}
	fmt.Fprintf(s.stdout, "Sluice is ready: %s http://%s/ (Ctrl-C stops it)\n", what, browsable(addr))
}

// browsable is an address as a browser on this machine would reach it.
func browsable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return addr
	}
	return net.JoinHostPort("localhost", port)
}

// withRedis calls use with a Redis that answers, the configured one or one of
// our own, which is stopped when use has returned.
func (s *service) withRedis(ctx context.Context, use func(context.Context, redis.UniversalClient) error) error {
	if !s.config.Redis.URL.IsZero() {
		o, err := s.config.Redis.Options()
		if err != nil {
			return err
		}
		rdb := config.OpenRedis(o)
		defer rdb.Close()
		if err := awaitRedis(ctx, rdb, s.config.Redis.URL, s.log); err != nil {
			if ctx.Err() != nil {
				return nil // it was told to stop while it waited
			}
			return err
		}
		return use(ctx, rdb)
	}

	// Redis outlives ctx: what ends with ctx still has to write its last words.
	redisCtx, stopRedis := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRedis()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready, ended := make(chan embedded.Instance, 1), make(chan error, 1)
	go func() {
		err := embedded.Run(redisCtx, embedded.Options{
			Mode: s.config.Redis.Embedded, Dir: s.config.Redis.DataDir, Log: s.log,
		}, func(i embedded.Instance) { ready <- i })
		cancel(err)
		ended <- err
	}()
	var instance embedded.Instance
	select {
	case instance = <-ready:
	case err := <-ended:
		return err
	case <-ctx.Done():
		stopRedis()
		return <-ended
	}
	if instance.Durable {
		s.log.Info("redis is embedded and keeps its data", "server", instance.Name, "dir", s.config.Redis.DataDir)
	} else {
		s.log.Warn("redis is embedded in memory: jobs do not survive a restart; install valkey-server or redis-server, or set redis.url")
	}
	rdb := config.OpenRedis(instance.Redis)
	err := use(ctx, rdb)
	rdb.Close()
	stopRedis()
	return errors.Join(err, <-ended)
}

// redisLog gives go-redis's own remarks to the log: what matters of them comes
// back as errors too.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, "redis client says", "line", strings.TrimSpace(fmt.Sprintf(format, v...)))
}

func newLog(c config.Log, level *slog.LevelVar, out io.Writer) *slog.Logger {
	_ = level.UnmarshalText([]byte(c.Level)) // validated
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, o))
	}
	return slog.New(slog.NewTextHandler(out, o))
}
