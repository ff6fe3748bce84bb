package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// tab is a client that comes back: it watches one job, over the transport that
// it is told, at whichever gateway it is sent to.
type tab struct {
	t       *testing.T
	polling bool
	job     string

	mu     sync.Mutex
	seq    int64
	frames []string
	parted int // times that a gateway said goodbye
	wait   float64
	done   bool
}

// take handles one Socket.IO packet.
func (c *tab) take(packet []byte) {
	m, err := readMessage(packet)
	if err != nil || m.Kind != packetEvent {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var d struct {
		JobID, Code  string
		Seq          int64
		RetryAfterMs float64
	}
	if err := json.Unmarshal(m.Data, &d); err != nil {
		c.t.Errorf("%s: %v", m.Data, err)
	}
	switch {
	case m.Name == "error" && d.Code == codeUnavailable:
		c.parted++
		c.wait = d.RetryAfterMs
	case d.JobID == c.job && d.Seq > 0:
		c.frames = append(c.frames, m.Name+" "+string(m.Data))
		c.seq = d.Seq
		c.done = c.done || m.Name == job.EventComplete
	}
}

func (c *tab) state() (seq int64, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seq, c.done
}

// watch follows the job at one gateway until that ends the connection, or the
// job is over.
func (c *tab) watch(ctx context.Context, addr string) error {
	seq, _ := c.state()
	resume := fmt.Sprintf(`420["job:resume:v1",{"jobId":%q,"lastSeq":%d}]`, c.job, seq)
	if c.polling {
		return c.poll(ctx, addr, resume)
	}
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		return err
	}
	defer func() { _ = ws.CloseNow() }()
	for _, packet := range []string{"40", resume} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(packet)); err != nil {
			return err
		}
	}
	for {
		if _, done := c.state(); done {
			return nil
		}
		_, b, err := ws.Read(ctx)
		switch {
		case err != nil:
			return err
		case b[0] == '4':
			c.take(b[1:])
		case b[0] == '2':
			_ = ws.Write(ctx, websocket.MessageText, []byte("3"))
		}
	}
}

// poll does the same by HTTP long-polling:
// https://socket.io/docs/v4/engine-io-protocol/#http-long-polling
func (c *tab) poll(ctx context.Context, addr, resume string) error {
	url := "http://" + addr + "/socket.io/?EIO=4&transport=polling"
	do := func(method, url, body string) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %s: %d %s", method, url, res.StatusCode, b)
		}
		return b, err
	}
	b, err := do(http.MethodGet, url, "")
	if err != nil {
		return err
	}
	var open struct{ SID string }
	if len(b) == 0 || json.Unmarshal(b[1:], &open) != nil {
		return fmt.Errorf("handshake %q", b)
	}
	url += "&sid=" + open.SID
	if _, err := do(http.MethodPost, url, "40\x1e"+resume); err != nil {
		return err
	}
	for {
		b, err := do(http.MethodGet, url, "")
		if err != nil {
			return err
		}
		for packet := range bytes.SplitSeq(b, []byte{0x1e}) {
			switch {
			case len(packet) > 1 && packet[0] == '4':
				c.take(packet[1:])
			case string(packet) == "2":
				if _, err := do(http.MethodPost, url, "3"); err != nil {
					return err
				}
			case string(packet) == "1":
				return io.EOF
			}
		}
		if _, done := c.state(); done {
			_, _ = do(http.MethodPost, url, "1")
			return nil
		}
	}
}

// Two gateways, WebSocket and polling, and each gateway stops in its turn while
// the job runs: every client is told, comes back to the other one, and has every
// frame once and in order.
func TestRollingRestart(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		conf := testConfig()
		var mu sync.Mutex
		stops := map[string]func() error{}
		var open []string
		begin := func() {
			addr, stop := startGateway(t, rdb, conf)
			mu.Lock()
			defer mu.Unlock()
			stops[addr], open = stop, append(open, addr)
		}
		begin()
		begin()
		starter := connect(t, open[0], "")
		wantOK(t, starter.ask("search:start:v1", `{"query":"x","jobId":"roll"}`))
		a := host.begin("roll", 1)

		ctx, cancel := context.WithTimeout(t.Context(), 2*deadline)
		defer cancel()
		tabs := make([]*tab, 16)
		var all sync.WaitGroup
		for i := range tabs {
			tabs[i] = &tab{t: t, polling: i%4 == 0, job: "roll"}
			all.Go(func() {
				c := tabs[i]
				for n := i; ctx.Err() == nil; n++ {
					mu.Lock()
					addr := open[n%len(open)]
					mu.Unlock()
					if c.watch(ctx, addr) == nil {
						return
					}
				}
				t.Error("a client never saw the end")
			})
		}
		reach := func(seq int64) {
			t.Helper()
			for _, c := range tabs {
				eventually(t, "the frames", func() bool { at, _ := c.state(); return at >= seq })
			}
		}
		host.chunks(a, "one ", "two ")
		reach(3)
		for round := range 2 {
			mu.Lock()
			victim := open[0]
			open = open[1:]
			mu.Unlock()
			begin()
			if err := stops[victim](); err != nil {
				t.Fatal(err)
			}
			host.chunks(a, fmt.Sprint("after ", round, " "))
			reach(int64(4 + round))
		}
		host.complete(a)
		all.Wait()
		want := host.log("roll", 0)
		parted := 0
		for _, c := range tabs {
			sameFrames(t, c.frames, want)
			parted += c.parted
			if c.parted > 0 && c.wait <= 0 {
				t.Error("a client was not told when to come back")
			}
		}
		if parted < len(tabs) {
			t.Errorf("%d goodbyes to %d clients", parted, len(tabs))
		}
	})
}

// While it says goodbye a gateway lets nobody in, says that it isn't ready, and
// spreads the goodbyes.
func TestFarewell(t *testing.T) {
	conf := testConfig()
	conf.Grace = time.Hour // the pause between two is what bounds it
	c := startCore(t, Options{Config: conf, Redis: memoryRedis(t), Log: quiet(t)})
	var wires []*fakeWire
	for range 20 {
		w := &fakeWire{}
		c.open(identity{User: anonymous}, w)
		wires = append(wires, w)
	}
	c.admission.close()
	began := time.Now()
	c.farewell(t.Context(), c.hub.close())
	if took := time.Since(began); took < 19*farewellPause {
		t.Errorf("all were sent away within %v", took)
	}
	for _, w := range wires {
		if w.how() != "hangup: "+codeUnavailable || len(w.of("error")) != 1 || !strings.Contains(w.of("error")[0], `"retryAfterMs":`) {
			t.Errorf("ended %q, %q", w.how(), w.of("error"))
		}
	}
	w := &fakeWire{}
	if c.open(identity{User: anonymous}, w) != nil || w.how() != "hangup: "+codeUnavailable {
		t.Errorf("somebody was let in: %q", w.how())
	}
	res := visit(t, newHTTPServer(c, http.NotFoundHandler()).Handler, "GET", "/readyz")
	if res.Code != http.StatusServiceUnavailable {
		t.Errorf("ready: %d", res.Code)
	}
	// Out of patience it doesn't wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.farewell(ctx, nil)
}

// A long queue is no reason to enqueue again what stands in it.
func TestWaitingTicket(t *testing.T) {
	c := newCore(t.Context(), Options{Config: testConfig(), Redis: memoryRedis(t), Log: testLog(t)}, openDoor{})
	c.lobby.found(map[string]job.Place{"stands": {}})
	c.idle(job.Ticket{Job: "stands", Attempt: 1}, "")
	if len(c.tickets) != 0 {
		t.Error("a ticket that is in the queue is enqueued again")
	}
	c.idle(job.Ticket{Job: "stands", Attempt: 2}, "")
	c.lobby.found(nil)
	c.idle(job.Ticket{Job: "stands", Attempt: 1}, "")
	if len(c.tickets) != 2 {
		t.Errorf("%d tickets, want 2", len(c.tickets))
	}
	for range 2 * maxLost { // and it never blocks
		c.idle(job.Ticket{Job: "other", Attempt: 1}, "")
	}
}

// Redis can lose a ticket and keep the job: it is enqueued again.
func TestLostTicket(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := startCore(t, Options{Config: testConfig(), Redis: rdb, Log: testLog(t),
			tail: job.TailOptions{Quiet: 20 * time.Millisecond, Idle: 50 * time.Millisecond}})
		s := c.open(identity{User: anonymous}, &fakeWire{})
		if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"again","priority":"high"}`); !a.OK {
			t.Fatalf("start: %+v", a)
		}
		inspector := asynq.NewInspectorFromRedisClient(rdb)
		if err := inspector.DeleteTask(job.QueueHigh, "again#1"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the ticket", func() bool {
			info, err := inspector.GetTaskInfo(job.QueueHigh, "again#1")
			return err == nil && info.Type == job.TaskType
		})
	})
}
