package engine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zishang520/socket.io/v2/socket"
)

// requireNode skips, or fails when SLUICE_REQUIRE is set, without Node and the
// packages of dir, which `npm ci` installs.
func requireNode(t *testing.T, dir string) {
	t.Helper()
	why := ""
	if _, err := exec.LookPath("node"); err != nil {
		why = "node is not installed"
	} else if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		why = "run npm ci in gateway/engine/" + dir
	}
	if why == "" {
		return
	}
	if os.Getenv("SLUICE_REQUIRE") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestNodeClient runs the npm client, of today and as old as speaks this protocol,
// over each transport, with an upgrade going on while events flow both ways.
func TestNodeClient(t *testing.T) {
	requireNode(t, "testdata/client")
	for _, client := range []string{"socket.io-client", "socket.io-client-4.0", "socket.io-client-3.1", "socket.io-client-3.0"} {
		t.Run(client, func(t *testing.T) { nodeClient(t, client) })
	}
}

func nodeClient(t *testing.T, client string) {
	check := baseline(t)
	r := start(t, Options{PingInterval: 200 * time.Millisecond})
	r.io.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		s.On("flood", func(args ...any) {
			n := int(args[0].(float64))
			go func() { // spread over the upgrade
				tick := time.NewTicker(500 * time.Microsecond)
				defer tick.Stop()
				for i := range n {
					s.Emit("n", i)
					if i%3 == 0 {
						<-tick.C
					}
				}
				s.Emit("flooded")
			}()
		})
		var next, wrong atomic.Int64
		s.On("count", func(args ...any) {
			if next.Add(1)-1 != int64(args[0].(float64)) {
				wrong.Add(1)
			}
		})
		s.On("counted", func(args ...any) {
			args[0].(socket.Ack)([]any{[]int64{next.Load(), wrong.Load()}}, nil)
		})
		s.On("bye", func(...any) {
			s.Emit("last words")
			s.Disconnect(true)
		})
	})
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "smoke.mjs", r.http.URL, client)
	cmd.Dir = "testdata/client"
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("node: %v", err)
	}
	r.await("all to leave", func() bool { return r.srv.Len() == 0 && r.io.Sockets().Sockets().Len() == 0 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	check()
}
