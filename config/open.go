package config

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// OpenRedis opens a client as redis.NewUniversalClient does. A Cluster's looks
// for who has taken over as soon as a node can't be reached: by itself it would
// go on asking a master that is dead for up to a minute.
func OpenRedis(o *redis.UniversalOptions) redis.UniversalClient {
	rdb := redis.NewUniversalClient(o)
	if c, ok := rdb.(*redis.ClusterClient); ok {
		c.AddHook(successor{c})
	}
	return rdb
}

// successor has a Cluster's client read again who has what, after an error that
// isn't a reply. The client sees to it that this is done once at a time, and no
// more than five times a second.
type successor struct{ c *redis.ClusterClient }

func (s successor) look(ctx context.Context, err error) error {
	var reply redis.Error
	if err != nil && !errors.As(err, &reply) {
		s.c.ReloadState(ctx)
	}
	return err
}

// DialHook implements redis.Hook.
func (s successor) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (s successor) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return s.look(ctx, next(ctx, cmd)) }
}

// ProcessPipelineHook implements redis.Hook.
func (s successor) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return s.look(ctx, next(ctx, cmds)) }
}
