package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// crowd is a number of WebSocket clients that count what they get.
type crowd struct {
	port    string
	clients []*client
	start   time.Time // timestamps in events are nanoseconds since then
}

// client reads one connection and keeps what the current phase asks for.
type client struct {
	crowd *crowd
	nc    net.Conn

	mu        sync.Mutex
	latencies []time.Duration
	reordered int
	last      int // seq of the last event
}

// connect opens n connections, at most parallel at a time, and waits until all
// have joined the main namespace.
func connect(port string, n, parallel int) (*crowd, error) {
	c := &crowd{port: port, clients: make([]*client, n), start: time.Now()}
	errs := make(chan error, n)
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			cl, err := c.join(i)
			c.clients[i] = cl
			errs <- err
		}()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		c.close()
	}
	return c, first
}

func (c *crowd) close() {
	for _, cl := range c.clients {
		if cl != nil {
			cl.nc.Close()
		}
	}
}

// join opens one connection; the reader runs until it is closed.
func (c *crowd) join(i int) (*client, error) {
	nc, err := net.DialTimeout("tcp", "127.0.0.1:"+c.port, 20*time.Second)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(nc, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", c.port)
	r := bufio.NewReaderSize(nc, 1024)
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err == nil && first && !bytes.HasPrefix(line, []byte("HTTP/1.1 101 ")) {
			err = fmt.Errorf("answered %q", line)
		}
		if err != nil {
			nc.Close()
			return nil, fmt.Errorf("handshake: %w", err)
		}
		if len(line) == 2 {
			break
		}
	}
	nc.Write(text(fmt.Sprintf(`40{"i":%d}`, i)))
	cl := &client{crowd: c, nc: nc, last: -1}
	for {
		message, err := readFrame(r)
		if err != nil {
			nc.Close()
			return nil, fmt.Errorf("join: %w", err)
		}
		if bytes.HasPrefix(message, []byte("40")) {
			break
		}
	}
	nc.SetDeadline(time.Time{})
	go cl.read(r)
	return cl, nil
}

// text is a masked text frame with a key of zeros, for short messages.
func text(s string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}, s...)
}

// readFrame reads one frame of a server; the memory is valid until the next call
// if it fits the reader.
func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	size, skip := int(head[1]&0x7f), 2
	if size == 126 {
		if head, err = r.Peek(4); err != nil {
			return nil, err
		}
		size, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	}
	r.Discard(skip)
	if size > r.Size() {
		b := make([]byte, size)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b, err := r.Peek(size)
	r.Discard(len(b))
	return b, err
}

func (cl *client) read(r *bufio.Reader) {
	for {
		message, err := readFrame(r)
		if err != nil {
			return
		}
		if string(message) == "2" {
			cl.nc.Write(text("3"))
			continue
		}
		at, seq := number(message, `"t":`), number(message, `"seq":`)
		if at < 0 {
			continue
		}
		took := time.Since(cl.crowd.start) - time.Duration(at)
		cl.mu.Lock()
		cl.latencies = append(cl.latencies, took)
		if seq <= cl.last {
			cl.reordered++
		}
		cl.last = seq
		cl.mu.Unlock()
	}
}

// number finds the digits after key, -1 if there are none.
func number(message []byte, key string) int {
	_, rest, ok := bytes.Cut(message, []byte(key))
	if !ok {
		return -1
	}
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return -1
	}
	return n
}

// collect takes what the clients have counted since the last time.
func (c *crowd) collect() (latencies []time.Duration, reordered int) {
	for _, cl := range c.clients {
		cl.mu.Lock()
		latencies = append(latencies, cl.latencies...)
		reordered += cl.reordered
		cl.latencies, cl.reordered, cl.last = nil, 0, -1
		cl.mu.Unlock()
	}
	return latencies, reordered
}

func (c *crowd) received() (n int) {
	for _, cl := range c.clients {
		cl.mu.Lock()
		n += len(cl.latencies)
		cl.mu.Unlock()
	}
	return n
}
