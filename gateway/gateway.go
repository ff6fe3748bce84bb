// Package gateway is the Socket.IO side of Sluice: it takes jobs from browsers,
// hands them to Redis, and carries the frames of each job back to the sockets
// that watch it.
//
// A socket's life: the handshake is authenticated (auth.go), the socket becomes
// a session (session.go) with an outbox that is bounded (outbox.go); its events
// start, cancel, resume and leave jobs (jobs.go); each job that it watches has a
// place in the job's log (watch.go) from which it is fed, live or catching up.
// The hub (hub.go) is the index of users, sockets and jobs. What older workers
// publish takes a way of its own (legacy.go). Only socketio.go knows the
// Socket.IO library and the engine below it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

// Options of a gateway. Config, Redis and Log are required; Config must be valid
// (see package config).
type Options struct {
	Config config.Gateway
	Redis  redis.UniversalClient
	Log    *slog.Logger
	// TTL is how long a job is kept after its last frame, the same as the
	// hosts'. 0 is 24 hours.
	TTL time.Duration
	// Ready, if set, is called once with the address listened on.
	Ready func(addr string)
}

// core is what all sessions of one gateway share.
type core struct {
	conf   config.Gateway
	log    *slog.Logger
	store  *job.Store
	queue  *job.Queue
	tail   *job.Tail
	models *models
	hub    *hub
	auth   authenticator
	legacy *forwarder

	// ctx ends when the sessions have been told to go; work waits for what
	// they started.
	ctx  context.Context
	work sync.WaitGroup
}

func newCore(ctx context.Context, o Options, auth authenticator) *core {
	store := job.NewStore(o.Redis, job.Options{
		TTL:        o.TTL,
		MaxRequest: int(o.Config.Limits.Request),
		General:    o.Config.Legacy,
	})
	c := &core{
		conf:   o.Config,
		log:    o.Log,
		store:  store,
		queue:  job.NewQueue(o.Redis),
		tail:   job.NewTail(store, o.Log, job.TailOptions{Merge: -1}), // every frame as it is in the log
		models: &models{census: job.NewHosts(store, o.Log, job.HostsOptions{}), log: o.Log},
		auth:   auth,
		ctx:    ctx,
	}
	c.hub = newHub(c.tail)
	c.tail.Lost(c.lost)
	if o.Config.Legacy {
		c.legacy = newForwarder(c.hub, o.Log)
		c.tail.Legacy(c.legacy.forward)
	}
	return c
}

// lost tells those who watch a job that its record is gone for good.
func (c *core) lost(id string) {
	for _, s := range c.hub.watchersOf(id) {
		s.mu.Lock()
		w := s.watches[id]
		s.mu.Unlock()
		if w == nil {
			continue
		}
		s.complain(complaint{refused: *refuse(codeNotFound, "the job is gone: the store has lost its record"), JobID: id})
		w.end()
		s.forget(w)
	}
}

// Run serves until ctx ends, then stops in order: it stops accepting, tells the
// sockets, lets them take what is on its way, and closes. It returns nil after
// an orderly stop, and when all that it started has ended.
func Run(ctx context.Context, o Options) error {
	addr, err := net.ResolveTCPAddr("tcp", o.Config.Addr)
	if err != nil {
		return fmt.Errorf("gateway.addr: %q: %w", o.Config.Addr, err)
	}
	if err := checkExposure(o.Config, addr); err != nil {
		return err
	}
	// Sessions outlive ctx: they are told first.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	auth, err := newAuthenticator(life, o.Config.Auth, o.Log)
	if err != nil {
		return err
	}
	c := newCore(life, o, auth)
	listener, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return fmt.Errorf("gateway.addr: listen: %w", err)
	}

	sockets := newSocketServer(c)
	server := newHTTPServer(c, o.Redis, sockets)
	var running sync.WaitGroup
	failed := make(chan error, 3)
	// The sockets' own life ends after they have been told.
	open, closeSockets := context.WithCancel(life)
	defer closeSockets()
	running.Go(func() {
		if err := sockets.run(open); err != nil {
			o.Log.Error("connections did not end in time", "err", err)
		}
	})
	running.Go(func() {
		if err := c.tail.Run(life); err != nil && life.Err() == nil {
			failed <- fmt.Errorf("follow jobs: %w", err)
		}
	})
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve: %w", err)
		}
	})
	o.Log.Info("gateway listening", "addr", listener.Addr().String(), "auth", o.Config.Auth.Mode)
	if o.Ready != nil {
		o.Ready(listener.Addr().String())
	}

	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	c.stop(server, closeSockets)
	end()
	c.work.Wait()
	running.Wait()
	o.Log.Info("gateway stopped")
	return err
}

// stop ends all connections, at most in the time of grace: it closes the
// listener, tells every socket, and lets each take what is on its way.
func (c *core) stop(server *http.Server, closeSockets func()) {
	ctx, cancel := context.WithTimeout(context.Background(), c.conf.Grace)
	defer cancel()
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close() // out of patience
		}
	})
	for _, s := range c.hub.close() {
		s.part(refuse(codeUnavailable, "this gateway is stopping: reconnect and resume"))
	}
	closeSockets()
	waiting.Wait()
}
