// Package gateway is the Socket.IO side of Sluice: it takes jobs from browsers,
// hands them to Redis, and carries the frames of each job back to the sockets
// that watch it.
//
// A socket's life: its address is judged (limits.go), the handshake is
// authenticated (auth.go, keys.go), its user's sockets are counted over all
// gateways (seats.go), the socket becomes a session (session.go),
// which ends with its token unless that is renewed (renew.go), with an outbox
// that is bounded (outbox.go); its events start, cancel, resume and leave jobs
// (jobs.go); each job that it watches has a place in the job's log (watch.go)
// from which it is fed, live or catching up, and until it has begun one in the
// lobby (lobby.go). The hub (hub.go) is the index of users, sockets and jobs.
// What older workers publish takes a way of its own (legacy.go). Clients without
// a socket ask for a job's state (rest.go). Only socketio.go knows the Socket.IO
// library and the engine below it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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

	tail job.TailOptions // for tests
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
	keys   *keyRing // nil without a file of API keys
	legacy *forwarder

	metrics   *metrics
	admission *admission
	pacer     pacer
	lobby     *lobby
	seats     *seats
	reads     chan struct{}   // taken while a job is read for a client without a socket
	tickets   chan lostTicket // that may have been lost, on their way back into the queue
	stall     time.Duration   // how long a client may take nothing of what it lacks

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
	tail := o.tail
	tail.Merge, tail.MergeSize = mergeOver, min(mergeSize, max(16<<10, int(o.Config.Limits.Pending)/4))
	c := &core{
		conf:    o.Config,
		log:     o.Log,
		store:   store,
		queue:   job.NewQueue(o.Redis),
		tail:    job.NewTail(store, o.Log, tail),
		models:  &models{census: job.NewHosts(store, o.Log, job.HostsOptions{}), log: o.Log},
		auth:    auth,
		metrics: newMetrics(),
		lobby:   newLobby(),
		reads:   make(chan struct{}, maxReads),
		tickets: make(chan lostTicket, maxLost),
		stall:   stallTime,
		ctx:     ctx,
	}
	c.admission = newAdmission(o.Config, c.metrics)
	c.hub = newHub(c.tail)
	c.seats = newSeats(store, o.Log, c.metrics)
	c.tail.Lost(c.lost)
	c.tail.Idle(c.idle)
	c.metrics.gauge("sockets", "Sockets connected.", func() int { n, _, _ := c.hub.counts(); return n })
	c.metrics.gauge("users", "Users with a socket here.", func() int { _, n, _ := c.hub.counts(); return n })
	c.metrics.gauge("watches", "Jobs watched, each once for every socket.", func() int { _, _, n := c.hub.counts(); return n })
	c.metrics.gauge("pending_bytes", "Bytes that wait for clients.", c.hub.pending)
	c.metrics.gauge("waiting_jobs", "Jobs watched here that have not begun.", func() int { return len(c.lobby.waiting()) })
	if o.Config.Legacy {
		c.legacy = newForwarder(c.hub, o.Log, c.metrics)
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
	var keys *keyRing
	if path := o.Config.Auth.KeysFile; path != "" {
		if keys, err = openKeys(path, o.Log); err != nil {
			return err
		}
		auth = keyDoor{ring: keys, next: auth}
	}
	c := newCore(life, o, auth)
	c.keys = keys
	listener, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return fmt.Errorf("gateway.addr: listen: %w", err)
	}

	sockets := newSocketServer(c)
	c.metrics.gauge("connections", "Connections of the transport, those included that have not signed in.", sockets.engine.Len)
	server := newHTTPServer(c, sockets)
	var running sync.WaitGroup
	failed := make(chan error, 3)
	// The sockets' own life ends after they have been told.
	open, closeSockets := context.WithCancel(life)
	defer closeSockets()
	running.Go(func() {
		if err := sockets.run(open); err != nil {
			o.Log.Error("connections did not end in time", "error", err)
		}
	})
	running.Go(func() {
		if err := c.run(life); err != nil && life.Err() == nil {
			failed <- fmt.Errorf("follow jobs: %w", err)
		}
	})
	if keys != nil {
		running.Go(func() { keys.run(life, c.keysChanged) })
	}
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

// run does what goes on beside the sockets until ctx ends.
func (c *core) run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { c.runLobby(ctx) })
	beside.Go(func() { c.pushModels(ctx) })
	beside.Go(func() { c.requeue(ctx) })
	beside.Go(func() { c.seats.run(ctx) })
	err := c.tail.Run(ctx)
	beside.Wait()
	return err
}

// maxLost is how many tickets may be on their way back into the queue; what
// doesn't fit is found again by the next look.
const maxLost = 256

// lostTicket is a ticket that a watched job has waited for so long that Redis may
// have lost it.
type lostTicket struct {
	ticket   job.Ticket
	priority string
}

// idle takes such tickets from the tail. It must not block.
func (c *core) idle(next job.Ticket, priority string) {
	if next.Attempt == 1 && c.lobby.stands(next.Job) { // it is just a long queue
		return
	}
	select {
	case c.tickets <- lostTicket{next, priority}:
	default:
	}
}

// requeue puts them into the queue: where one is there already, nothing happens.
func (c *core) requeue(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-c.tickets:
			limited, cancel := context.WithTimeout(ctx, patience)
			err := c.queue.Enqueue(limited, t.ticket, t.priority, 0)
			cancel()
			if err != nil {
				c.log.Warn("ticket of a waiting job could not be enqueued again", "job", t.ticket.Job, "error", err)
				continue
			}
			c.metrics.requeued.Inc()
		}
	}
}

// How sockets are spread when a gateway stops: one after the other, in half of
// the time of grace, but no slower than it takes to be gentle.
const farewellPause = 5 * time.Millisecond

// stop ends all connections, at most in the time of grace: nobody is let in any
// more, every socket is told when to come back and closed in its turn, and lets
// go what is on its way. The listener stays until then, for those that poll.
func (c *core) stop(server *http.Server, closeSockets func()) {
	ctx, cancel := context.WithTimeout(context.Background(), c.conf.Grace)
	defer cancel()
	c.admission.close()
	c.farewell(ctx, c.hub.close())
	closeSockets()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close() // out of patience
	}
}

// farewell sends the sockets away, evenly spread, so that the gateways which stay
// don't get all of them at once.
func (c *core) farewell(ctx context.Context, sessions []*session) {
	if len(sessions) == 0 {
		return
	}
	pause := min(c.conf.Grace/2/time.Duration(len(sessions)), farewellPause)
	began := time.Now()
	for i, s := range sessions {
		if ahead := time.Duration(i)*pause - time.Since(began); ahead > 0 {
			sleep(ctx, ahead)
		}
		s.part(refuse(codeUnavailable, "this gateway is stopping: reconnect and resume").after(rand.N(comeBack / 4)))
	}
}
