package engine

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// The WebSocket layers that could carry the engine, each alone: accept, keep a
// reader, and give a function that sends one text message. The engine's own is
// measured with its sessions, queues and heartbeat, the others bare.
//
//	go test ./gateway/engine -run xxx -bench Layer
var layers = []struct {
	name   string
	accept func(w http.ResponseWriter, r *http.Request, joined chan<- func([]byte))
}{
	{"coder", func(w http.ResponseWriter, r *http.Request, joined chan<- func([]byte)) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
		if err != nil {
			return
		}
		joined <- func(b []byte) { c.Write(context.Background(), websocket.MessageText, b) }
		go func() {
			for {
				if _, _, err := c.Read(context.Background()); err != nil {
					c.CloseNow()
					return
				}
			}
		}()
	}},
	{"gorilla", func(w http.ResponseWriter, r *http.Request, joined chan<- func([]byte)) {
		gorillaLayer(w, r, joined, func(c *gorilla.Conn, b []byte) { c.WriteMessage(gorilla.TextMessage, b) })
	}},
	{"gorilla-raw", func(w http.ResponseWriter, r *http.Request, joined chan<- func([]byte)) {
		gorillaLayer(w, r, joined, func(c *gorilla.Conn, b []byte) { c.NetConn().Write(newMsg(false, b).frame) })
	}},
}

var upgrader = gorilla.Upgrader{ReadBufferSize: 1024, WriteBufferPool: new(sync.Pool)}

func gorillaLayer(w http.ResponseWriter, r *http.Request, joined chan<- func([]byte), write func(*gorilla.Conn, []byte)) {
	c, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	var mu sync.Mutex
	joined <- func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		write(c, b)
	}
	go func() {
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				c.Close()
				return
			}
		}
	}()
}

// joins is an application that takes note of connections.
type joins chan<- func([]byte)

func (j joins) packet(c *Conn, _ *Packet) {
	c.join()
	j <- func(b []byte) { c.Send(newMsg(false, b)) }
}
func (j joins) closed(*Conn, string) {}

func BenchmarkLayer(b *testing.B) {
	b.Run("own", func(b *testing.B) {
		joined := make(chan func([]byte))
		srv := New(Options{})
		srv.app = joins(joined)
		ctx, cancel := context.WithCancel(context.Background())
		var run sync.WaitGroup
		run.Go(func() { srv.Run(ctx) })
		benchLayer(b, srv, joined)
		cancel()
		run.Wait()
	})
	for _, l := range layers {
		b.Run(l.name, func(b *testing.B) {
			joined := make(chan func([]byte))
			benchLayer(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.accept(w, r, joined) }), joined)
		})
	}
}

// benchLayer opens connections to h and reports the memory that each takes on
// the server's side and the time of a message of 130 bytes.
func benchLayer(b *testing.B, h http.Handler, joined <-chan func([]byte)) {
	const conns = 1000
	server := httptest.NewServer(h)
	defer server.Close()
	var memory [2]runtime.MemStats
	measure := func(m *runtime.MemStats) {
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(m)
	}
	clients := make([]net.Conn, conns)
	sends := make([]func([]byte), conns)
	handshake := "GET /?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	measure(&memory[0])
	for i := range clients {
		nc, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		clients[i] = nc
		defer nc.Close()
		io.WriteString(nc, handshake)
		for answer := bufio.NewReaderSize(nc, 16); ; { // gorilla refuses a client that doesn't wait
			if line, _, err := answer.ReadLine(); err != nil || len(line) == 0 {
				break
			}
		}
		nc.Write(clientFrame(0x81, []byte("40")))
		sends[i] = <-joined
	}
	measure(&memory[1])
	var sinks sync.WaitGroup
	for _, nc := range clients {
		sinks.Go(func() { io.Copy(io.Discard, nc) })
	}
	message := []byte(strings.Repeat("x", 130))
	b.ResetTimer()
	for i := range b.N {
		sends[i%conns](message)
	}
	b.StopTimer()
	b.ReportMetric(float64(memory[1].HeapAlloc-memory[0].HeapAlloc)/conns, "heap-B/conn")
	b.ReportMetric(float64(memory[1].StackInuse-memory[0].StackInuse)/conns, "stack-B/conn")
	for _, nc := range clients {
		nc.Close()
	}
	sinks.Wait()
}
