package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/zishang520/socket.io/v2/socket"

	"github.com/sluicehq/sluice/gateway/engine"
)

const event = "model:chunk:v1"

// serve runs our server until its feed ends. What the feed's lines mean:
//
//	E i json   emit to client i through the library
//	R i json   the same, encoded once and written to its connection
//	B json     broadcast through the library
//	X json     broadcast, encoded once
//	G          collect garbage, answer "ok"
func serve() error {
	eng := engine.New(engine.Options{})
	io := socket.NewServer(nil, nil)
	eng.Bind(io)
	var clients sync.Map // index → *socket.Socket
	io.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		auth, _ := s.Handshake().Auth.(map[string]any)
		i, _ := auth["i"].(float64)
		clients.Store(int(i), s)
		s.On("disconnect", func(...any) { clients.CompareAndDelete(int(i), s) })
	})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", eng)
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	feed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port, feed.Addr().(*net.TCPAddr).Port)
	conn, err := feed.Accept()
	if err == nil {
		lines := bufio.NewScanner(conn)
		lines.Buffer(make([]byte, 64<<10), 1<<20)
		for lines.Scan() {
			kind, rest, _ := strings.Cut(lines.Text(), " ")
			switch kind {
			case "E", "R":
				i, payload, _ := strings.Cut(rest, " ")
				n, _ := strconv.Atoi(i)
				if s, ok := clients.Load(n); ok {
					emit(s.(*socket.Socket), payload, kind == "R")
				}
			case "B":
				var v any
				json.Unmarshal([]byte(rest), &v)
				io.Emit(event, v)
			case "X":
				m := engine.NewEvent("/", event, json.RawMessage(rest))
				clients.Range(func(_, s any) bool {
					engine.ConnOf(s.(*socket.Socket)).Send(m)
					return true
				})
			case "G":
				debug.FreeOSMemory()
				fmt.Fprintln(conn, "ok")
			}
		}
	}
	cancel()
	server.Close()
	return <-ran
}

func emit(s *socket.Socket, payload string, raw bool) {
	if raw {
		engine.ConnOf(s).Send(engine.NewEvent("/", event, json.RawMessage(payload)))
		return
	}
	var v any
	json.Unmarshal([]byte(payload), &v)
	s.Emit(event, v)
}
