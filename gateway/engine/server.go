package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Server is an Engine.IO v4 server over WebSocket and HTTP long-polling: an
// http.Handler for one path, with the namespaces, acknowledgements and
// middleware of the socket.Server that is bound to it. All its methods may be
// called from any goroutine.
type Server struct {
	opts  Options
	app   application
	start time.Time
	seed  maphash.Seed

	shards   [64]shard
	count    atomic.Int64
	running  atomic.Bool
	stopping atomic.Bool
	// alive counts two for each connection (its transport and the delivery of its
	// end), and one for each reader and blocked write.
	alive sync.WaitGroup

	recent recent
	pace   pace
	late   struct {
		sync.Mutex
		conns []*Conn
		wake  chan struct{}
	}
}

// application is what stands above the transport. Its calls for one connection
// never overlap, and closed is the last.
type application interface {
	packet(c *Conn, p *Packet)
	closed(c *Conn, reason string)
}

type shard struct {
	sync.Mutex
	conns map[string]*Conn
}

// New makes a server. It answers 503 until Bind has been called; heartbeats and
// time limits are kept while Run runs.
func New(o Options) *Server {
	o.setDefaults()
	s := &Server{opts: o, start: time.Now(), seed: maphash.MakeSeed()}
	s.late.wake = make(chan struct{}, 1)
	s.pace.window.Store(int64(max(min(quietWindow, o.MaxDelay), 0)))
	for i := range s.shards {
		s.shards[i].conns = map[string]*Conn{}
	}
	return s
}

// Run keeps the heartbeats and time limits until ctx ends, then shuts down as
// Shutdown does. It returns when every connection and every goroutine of the
// server has ended; an error says that a listener of the application hasn't.
func (s *Server) Run(ctx context.Context) error {
	if s.running.Swap(true) {
		return errors.New("engine: Run called twice")
	}
	ticks, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { s.heartbeat(ticks) })
	wg.Go(func() { s.flusher(ticks) })
	<-ctx.Done()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.LingerTimeout+5*time.Second)
	defer cancel()
	err := s.Shutdown(bounded)
	stop()
	wg.Wait()
	return err
}

// Shutdown refuses handshakes, answers pending polls, says goodbye to every
// client and waits until all have gone; when ctx ends first, it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closeAll()
	gone := make(chan struct{})
	go func() {
		s.alive.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-time.After(s.opts.LingerTimeout + time.Second):
	case <-ctx.Done():
	}
	s.Each(func(c *Conn) bool { c.abort(ReasonShutdown); return true })
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("engine: a listener is still at work: %w", ctx.Err())
	}
}

func (s *Server) closeAll() {
	s.stopping.Store(true)
	s.Each(func(c *Conn) bool { c.shut(ReasonShutdown); return true })
}

// Len is the number of connections.
func (s *Server) Len() int { return int(s.count.Load()) }

// Each calls f for every connection until it returns false.
func (s *Server) Each(f func(*Conn) bool) {
	var conns []*Conn
	for i := range s.shards {
		conns = s.shards[i].list(conns[:0])
		for _, c := range conns {
			if !f(c) {
				return
			}
		}
	}
}

func (sh *shard) list(into []*Conn) []*Conn {
	sh.Lock()
	defer sh.Unlock()
	for _, c := range sh.conns {
		into = append(into, c)
	}
	return into
}

func (s *Server) shard(id string) *shard {
	return &s.shards[maphash.String(s.seed, id)%uint64(len(s.shards))]
}

func (s *Server) find(id string) *Conn {
	sh := s.shard(id)
	sh.Lock()
	defer sh.Unlock()
	return sh.conns[id]
}

// register makes the connection reachable; false if the server is stopping.
func (s *Server) register(c *Conn) bool {
	c.nextPing.Store(s.after(s.opts.PingInterval))
	c.connectBy.Store(s.after(s.opts.ConnectTimeout))
	sh := s.shard(c.id)
	sh.Lock()
	defer sh.Unlock()
	if s.stopping.Load() {
		return false
	}
	s.alive.Add(2)
	sh.conns[c.id] = c
	return true
}

func (s *Server) unregister(c *Conn) {
	sh := s.shard(c.id)
	sh.Lock()
	defer sh.Unlock()
	if sh.conns[c.id] == c {
		delete(sh.conns, c.id)
		s.count.Add(-1)
	}
}

// now is the server's clock in nanoseconds, never 0.
func (s *Server) now() int64 { return int64(time.Since(s.start)) + 1 }

func (s *Server) after(d time.Duration) int64 { return s.now() + int64(d) }

// heartbeat looks at every connection a few times a second: one ticker instead
// of several timers per connection.
func (s *Server) heartbeat(ctx context.Context) {
	every := min(s.opts.PingInterval, s.opts.PingTimeout, s.opts.ConnectTimeout, s.opts.LingerTimeout, 2*s.opts.BodyTimeout) / 4
	ticker := time.NewTicker(min(max(every, time.Millisecond), 500*time.Millisecond))
	defer ticker.Stop()
	var conns []*Conn
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for i := range s.shards {
			conns = s.shards[i].list(conns[:0])
			now := s.now()
			for _, c := range conns {
				c.beat(now)
			}
			clear(conns)
		}
	}
}

// beat does what is due at now.
func (c *Conn) beat(now int64) {
	due := func(t *atomic.Int64) bool {
		at := t.Load()
		return at != 0 && now >= at
	}
	switch {
	case due(&c.connectBy):
		c.abort(ReasonForced)
	case due(&c.attachBy):
		c.abort(ReasonParse)
	case due(&c.pongBy):
		c.abort(ReasonPing)
	case due(&c.nextPing):
		c.nextPing.Store(0)
		c.pongBy.Store(now + int64(c.srv.opts.PingTimeout))
		c.Send(msgPing)
	}
}
