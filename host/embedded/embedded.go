// Package embedded runs a Redis for an installation that has none.
//
// If valkey-server or redis-server is on the PATH it runs as a child process
// on a private unix socket, with its data kept in a folder of ours. Otherwise
// a Redis inside this process does, which keeps nothing over a restart.
package embedded

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"

	"github.com/redis/go-redis/v9"
)

// Modes of Options.
const (
	Auto   = "auto"   // Server if one is on the PATH, else Memory
	Server = "server" // a child valkey-server or redis-server
	Memory = "memory" // inside this process
)

// Options says what to run.
type Options struct {
	Mode string // Auto, Server or Memory
	Dir  string // the server's data; made if needed, private to this user, one owner at a time
	Log  *slog.Logger
}

// Instance is a running Redis.
type Instance struct {
	Name    string                  // valkey-server, redis-server or memory
	Durable bool                    // its data outlive this process
	Redis   *redis.UniversalOptions // how to reach it, for as long as Run runs
}

// servers are the programs looked for, in this order.
var servers = []string{"valkey-server", "redis-server"}

// ErrNoServer says that Server was asked for and none is on the PATH.
var ErrNoServer = errors.New("neither valkey-server nor redis-server is on the PATH: install one " +
	"(Debian: apt-get install redis-server), or set redis.url, or set redis.embedded to memory")

// Run runs a Redis until ctx ends, then stops it in order. It calls ready once,
// as soon as it answers; ready must return soon. A server that dies is started
// again, at the same address and with its data. Run returns nil after ctx has
// ended, and an error if Redis can't be started.
func Run(ctx context.Context, o Options, ready func(Instance)) error {
	if o.Mode != Memory {
		for _, name := range servers {
			if program, err := exec.LookPath(name); err == nil {
				return runServer(ctx, o, name, program, ready)
			}
		}
		if o.Mode == Server {
			return ErrNoServer
		}
	}
	return runMemory(ctx, ready)
}
