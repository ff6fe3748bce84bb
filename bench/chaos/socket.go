package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// socket speaks as much Socket.IO (protocol 5 on Engine.IO 4, WebSocket only) as
// a client needs. One goroutine reads; emit may be called from another.
type socket struct {
	ws     *websocket.Conn
	got    chan packet   // closed when the connection is lost
	stop   chan struct{} // nobody reads got any more
	closed sync.Once

	mu   sync.Mutex
	next int
}

// packet is an event, or an ack (event is empty).
type packet struct {
	event string
	ack   int
	data  json.RawMessage
}

// dialTimeout bounds a handshake: a paused gateway accepts and says nothing.
const dialTimeout = 5 * time.Second

// dial connects to a gateway and joins the main namespace with a token.
func dial(ctx context.Context, addr, token string) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(64 << 20)
	s := &socket{ws: ws, got: make(chan packet, 256), stop: make(chan struct{})}
	auth, _ := json.Marshal(map[string]string{"token": token}) // strings
	if err := ws.Write(ctx, websocket.MessageText, append([]byte("40"), auth...)); err != nil {
		s.close()
		return nil, err
	}
	for {
		_, p, err := ws.Read(ctx)
		switch {
		case err != nil:
			s.close()
			return nil, err
		case bytes.HasPrefix(p, []byte("44")):
			s.close()
			return nil, fmt.Errorf("refused: %s", p[2:])
		case bytes.HasPrefix(p, []byte("40")):
			go s.read()
			return s, nil
		}
	}
}

// close breaks the connection without a goodbye, as a lost network would.
func (s *socket) close() {
	s.closed.Do(func() {
		close(s.stop)
		_ = s.ws.CloseNow()
	})
}

func (s *socket) read() {
	defer close(s.got)
	for {
		_, p, err := s.ws.Read(context.Background()) // ends with close
		if err != nil {
			return
		}
		if string(p) == "2" {
			if s.ws.Write(context.Background(), websocket.MessageText, []byte("3")) != nil {
				return
			}
			continue
		}
		if bytes.HasPrefix(p, []byte("41")) {
			return // the namespace is gone
		}
		in, ok := parse(p)
		if !ok {
			continue
		}
		select {
		case s.got <- in:
		case <-s.stop:
			return
		}
	}
}

// parse reads 42["event",data] and 43<id>[data].
func parse(p []byte) (packet, bool) {
	if len(p) < 3 || p[0] != '4' || p[1] != '2' && p[1] != '3' {
		return packet{}, false
	}
	at := bytes.IndexByte(p, '[')
	if at < 0 {
		return packet{}, false
	}
	var args []json.RawMessage
	if json.Unmarshal(p[at:], &args) != nil || len(args) == 0 {
		return packet{}, false
	}
	if p[1] == '3' {
		id, err := strconv.Atoi(string(p[2:at]))
		return packet{ack: id, data: args[0]}, err == nil
	}
	var in packet
	if len(args) < 2 || json.Unmarshal(args[0], &in.event) != nil {
		return packet{}, false
	}
	in.data = args[1]
	return in, true
}

// emit sends an event and returns the number of its ack.
func (s *socket) emit(event string, payload any) (int, error) {
	text, err := json.Marshal([]any{event, payload})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.next++
	id := s.next
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	return id, s.ws.Write(ctx, websocket.MessageText, append([]byte("42"+strconv.Itoa(id)), text...))
}

var errLost = errors.New("connection lost")
