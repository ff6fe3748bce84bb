package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// proxy is one process's way to Redis. Safe for concurrent use.
type proxy struct {
	path   string // of the unix socket it listens on
	target string
	ln     net.Listener
	work   sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	cut    bool          // connections are refused
	hole   chan struct{} // bytes wait until it is closed; nil is an open way
	delay  time.Duration // of every piece, each way
	closed bool
}

func newProxy(path, target string) (*proxy, error) {
	_ = os.Remove(path)
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	p := &proxy{path: path, target: target, ln: ln, conns: map[net.Conn]struct{}{}}
	p.work.Go(p.accept)
	return p, nil
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.mend()
	_ = p.ln.Close()
	p.sever()
	p.work.Wait()
}

func (p *proxy) accept() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		if !p.add(conn) {
			_ = conn.Close()
			continue
		}
		p.work.Go(func() { p.serve(conn) })
	}
}

func (p *proxy) add(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *proxy) serve(client net.Conn) {
	defer p.drop(client)
	server, err := net.Dial("unix", p.target)
	if err != nil || !p.add(server) {
		if err == nil {
			_ = server.Close()
		}
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client) })
	both.Go(func() { p.copy(client, server) })
	both.Wait()
}

func (p *proxy) drop(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	delete(p.conns, conn)
	p.mu.Unlock()
}

// copy passes bytes on, as slowly as is asked. What was read before the
// connection broke still arrives: that is what makes a late command.
func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			hole, delay := p.hole, p.delay
			p.mu.Unlock()
			if hole != nil {
				<-hole
			}
			if delay > 0 {
				time.Sleep(delay)
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return
			}
			return
		}
	}
}

// sever breaks every connection.
func (p *proxy) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// refuse severs, and lets nobody in until mend.
func (p *proxy) refuse() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.sever()
}

// swallow holds back every byte until mend, and then delivers it.
func (p *proxy) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hole == nil && !p.closed {
		p.hole = make(chan struct{})
	}
}

// slow delays every piece.
func (p *proxy) slow(d time.Duration) {
	p.mu.Lock()
	p.delay = d
	p.mu.Unlock()
}

// mend makes the way whole again.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.delay = false, 0
	if p.hole != nil {
		close(p.hole)
		p.hole = nil
	}
}
