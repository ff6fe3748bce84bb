package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// client speaks as much Socket.IO (protocol 5 on Engine.IO 4) as it takes to
// ask: a Node client would add its own time to what is measured.
type client struct{ ws *websocket.Conn }

// answer is what a question took.
type answer struct {
	first, total time.Duration
	frames       int
}

func dial(ctx context.Context, addr string) (*client, error) {
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(64 << 20)
	c := &client{ws}
	if err := ws.Write(ctx, websocket.MessageText, []byte("40")); err != nil {
		return nil, err
	}
	for {
		packet, err := c.read(ctx)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(packet, []byte(`42["connected"`)) {
			return c, nil
		}
	}
}

func (c *client) close() { _ = c.ws.Close(websocket.StatusNormalClosure, "") }

// read returns the next packet, and answers pings by the way.
func (c *client) read(ctx context.Context) ([]byte, error) {
	for {
		_, packet, err := c.ws.Read(ctx)
		if err != nil || string(packet) != "2" {
			return packet, err
		}
		if err := c.ws.Write(ctx, websocket.MessageText, []byte("3")); err != nil {
			return nil, err
		}
	}
}

// ask sends a question and waits for the end of its answer.
func (c *client) ask(ctx context.Context, payload map[string]any) (answer, error) {
	question, err := json.Marshal([]any{"START_SEARCH", payload})
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var a answer
	began := time.Now()
	if err := c.ws.Write(ctx, websocket.MessageText, append([]byte("42"), question...)); err != nil {
		return a, err
	}
	for {
		packet, err := c.read(ctx)
		if err != nil {
			return a, err
		}
		switch {
		case bytes.HasPrefix(packet, []byte(`42["model:chunk:v1"`)):
			if a.frames++; a.frames == 1 {
				a.first = time.Since(began)
			}
		case bytes.HasPrefix(packet, []byte(`42["model:complete:v1"`)):
			a.total = time.Since(began)
			if a.frames == 0 {
				return a, errors.New("an answer without a chunk")
			}
			return a, nil
		case bytes.HasPrefix(packet, []byte(`42["model:error:v1"`)), bytes.HasPrefix(packet, []byte(`42["error"`)):
			return a, fmt.Errorf("it answers %s", packet)
		}
	}
}

// cpuTime is what this process and its plugins have used. Linux only; elsewhere
// the plugins are missing from it.
func cpuTime() time.Duration {
	var own syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	sum := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	self := strconv.Itoa(os.Getpid())
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// proc(5): pid (comm) state ppid … utime is field 14, stime 15, in ticks of 10 ms
		name, rest, ok := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 13 || fields[1] != self || strings.Contains(name, "redis") || strings.Contains(name, "valkey") {
			continue
		}
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		sum += time.Duration(user+system) * 10 * time.Millisecond
	}
	return sum
}
