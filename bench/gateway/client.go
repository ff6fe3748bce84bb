package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// client reads one connection and keeps what the current phase asks for.
type client struct {
	crowd *crowd
	i     int
	acked chan struct{}
	pause atomic.Pointer[chan struct{}] // reading waits until it is closed

	mu        sync.Mutex
	nc        net.Conn
	latencies []time.Duration
	events    int
	reordered int
	job       string // that is watched
	last      int    // seq of its last event
	text      hash.Hash
	same      bool // the job's end has come, with the digest of the text
	told      bool // that it was too slow
	wait      time.Duration
	back      bool // was cut off and has come back
}

// join opens the connection and returns its reader behind the answer to CONNECT.
func (cl *client) join() (*bufio.Reader, error) {
	c := cl.crowd
	dialer := net.Dialer{Timeout: 20 * time.Second}
	if cl.i < c.narrow {
		dialer.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
			})
		}
	}
	nc, err := dialer.Dial("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		return nil, err
	}
	fail := func(what string, err error) (*bufio.Reader, error) {
		nc.Close()
		return nil, fmt.Errorf("%s: %w", what, err)
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
			return fail("handshake", err)
		}
		if len(line) == 2 {
			break
		}
	}
	auth := fmt.Sprintf(`{"i":%d}`, cl.i)
	if c.token != nil {
		auth = fmt.Sprintf(`{"token":%q}`, c.token(cl.i))
	}
	nc.Write(text("40" + auth))
	for {
		message, err := readFrame(r)
		if err == nil && bytes.HasPrefix(message, []byte("44")) {
			err = fmt.Errorf("refused: %s", message)
		}
		if err != nil {
			return fail("join", err)
		}
		if bytes.HasPrefix(message, []byte("40")) {
			break
		}
	}
	nc.SetDeadline(time.Time{})
	cl.mu.Lock()
	cl.nc = nc
	cl.mu.Unlock()
	return r, nil
}

// text is a masked text frame with a key of zeros.
func text(s string) []byte {
	head := []byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}
	if len(s) > 125 {
		head = []byte{0x81, 0x80 | 126, byte(len(s) >> 8), byte(len(s)), 0, 0, 0, 0}
	}
	return append(head, s...)
}

// readFrame reads one frame of a server; the memory is valid until the next call
// if it fits the reader.
func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	op, size, skip := head[0]&0xf, int(head[1]&0x7f), 2
	switch size {
	case 126:
		if head, err = r.Peek(4); err != nil {
			return nil, err
		}
		size, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	case 127:
		if head, err = r.Peek(10); err != nil {
			return nil, err
		}
		size, skip = int(binary.BigEndian.Uint64(head[2:])), 10
	}
	r.Discard(skip)
	if op == 8 {
		return nil, errors.New("closed by the server")
	}
	if size > r.Size() {
		b := make([]byte, size)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b, err := r.Peek(size)
	r.Discard(len(b))
	return b, err
}

// run reads until the crowd is closed; a client that watches a job and is cut
// off comes back and resumes, if it is patient when it was told to.
func (cl *client) run(r *bufio.Reader) {
	for {
		cl.read(r)
		cl.mu.Lock()
		wait := cl.wait
		cl.wait = 0
		cl.nc.Close()
		job, last := cl.job, cl.last
		cl.mu.Unlock()
		if cl.crowd.patient {
			time.Sleep(wait)
		}
		for {
			if cl.crowd.closed.Load() || job == "" {
				return
			}
			var err error
			if r, err = cl.join(); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		cl.mu.Lock()
		cl.back = true
		cl.mu.Unlock()
		cl.resume(job, last)
	}
}

func (cl *client) read(r *bufio.Reader) {
	for {
		if p := cl.pause.Load(); p != nil {
			<-*p
		}
		message, err := readFrame(r)
		if err != nil {
			return
		}
		switch {
		case string(message) == "2":
			cl.nc.Write(text("3"))
		case bytes.HasPrefix(message, []byte("43")):
			select {
			case cl.acked <- struct{}{}:
			default:
			}
		default:
			cl.event(message)
		}
	}
}

// event counts one event of a job.
func (cl *client) event(message []byte) {
	at, seq := number(message, cl.crowd.stamp), number(message, `"seq":`)
	if seq < 0 {
		cl.complaint(message)
		return
	}
	took := time.Since(cl.crowd.start) - time.Duration(at)
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.job != "" && !bytes.Contains(message[:min(len(message), 120)], []byte(cl.job)) {
		return // of another phase
	}
	if at < 0 {
		if _, rest, ok := bytes.Cut(message, []byte(`"digest":"`)); ok && cl.text != nil && bytes.HasPrefix(rest, hex.AppendEncode(nil, cl.text.Sum(nil))) {
			cl.same = true
		}
		return
	}
	from := seq
	if tail := message[max(0, len(message)-60):]; bytes.Contains(tail, []byte(`"fromSeq":`)) {
		from = number(tail, `"fromSeq":`)
	} else {
		cl.latencies = append(cl.latencies, took)
	}
	if from <= cl.last || cl.job != "" && from != cl.last+1 {
		cl.reordered++
	}
	cl.events += seq - from + 1
	cl.last = seq
	if cl.text != nil {
		_, rest, _ := bytes.Cut(message, []byte(`"chunk":"`))
		chunk, _, _ := bytes.Cut(rest, []byte{'"'}) // nothing in it is escaped
		cl.text.Write(chunk)
	}
}

// complaint hears that the client was too slow, and when to come back.
func (cl *client) complaint(message []byte) {
	if !bytes.HasPrefix(message, []byte(`42["error",`)) || !bytes.Contains(message, []byte(`"code":"too_slow"`)) {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.told = true
	cl.wait = time.Duration(number(message, `"retryAfterMs":`)) * time.Millisecond
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

func (cl *client) resume(job string, last int) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.nc.Write(text(fmt.Sprintf(`421["job:resume:v1",{"jobId":%q,"lastSeq":%d}]`, job, last)))
}
