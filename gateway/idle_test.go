package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// idlers is how many connections BenchmarkIdle opens, each of a user of its own.
const idlers = 4000

// BenchmarkIdle says what one idle connection costs the gateway in heap and in
// stacks, with its end at the client, some 600 bytes.
func BenchmarkIdle(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Config: hsConfig(), Redis: serverRedis(b), Log: quiet(b), Ready: func(a string) { ready <- a }})
	}()
	defer func() {
		cancel()
		<-ended
	}()
	addr := <-ready
	idler(b, addr, "first").Close()
	for b.Loop() {
		conns := make([]net.Conn, idlers)
		before, goroutines := collected(), runtime.NumGoroutine()
		for i := range conns {
			conns[i] = idler(b, addr, fmt.Sprint("user-", i))
		}
		after := collected()
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/idlers, "heap-B/conn")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/idlers, "stack-B/conn")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/idlers, "goroutines/conn")
		for _, nc := range conns {
			nc.Close()
		}
	}
}

// idler joins and keeps nothing but its connection.
func idler(b *testing.B, addr, user string) net.Conn {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(nc, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", addr)
	join := `40{"token":"` + hs(b, jwt.MapClaims{"sub": user, "role": "admin"}) + `"}`
	nc.Write(append([]byte{0x81, 0x80 | 126, byte(len(join) >> 8), byte(len(join)), 0, 0, 0, 0}, join...))
	r := bufio.NewReader(nc)
	if _, err := http.ReadResponse(r, nil); err != nil {
		b.Fatal(err)
	}
	for said := ""; !strings.HasPrefix(said, `42["connected"`); {
		head := make([]byte, 2, 4)
		if _, err := io.ReadFull(r, head); err != nil || head[0] != 0x81 {
			b.Fatalf("after %q: %x, %v", said, head, err)
		}
		size := int(head[1])
		if size == 126 {
			if _, err := io.ReadFull(r, head[2:4]); err != nil {
				b.Fatal(err)
			}
			size = int(binary.BigEndian.Uint16(head[2:4]))
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(r, text); err != nil {
			b.Fatal(err)
		}
		said = string(text)
	}
	return nc
}

func collected() (m runtime.MemStats) {
	for range 2 { // pools keep things for one
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}
