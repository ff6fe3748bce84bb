package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

// textOf adds up the chunks that a client got, as the last attempt has them.
func textOf(t *testing.T, frames []string) string {
	t.Helper()
	var text strings.Builder
	for _, f := range frames {
		event, data, _ := strings.Cut(f, " ")
		var d struct {
			Chunk string
			Reset bool
		}
		if err := json.Unmarshal([]byte(data), &d); err != nil {
			t.Fatal(err)
		}
		switch {
		case event == job.EventStart && d.Reset:
			text.Reset()
		case event == job.EventChunk:
			text.WriteString(d.Chunk)
		}
	}
	return text.String()
}

// Who comes late to a long answer gets it in few frames, and ends with the text
// whose digest the job names; live frames are never merged for who keeps up.
func TestLateJoiner(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, testConfig())
		early := connect(t, addr, "")
		wantOK(t, early.ask("search:start:v1", `{"query":"x","jobId":"long"}`))
		a := host.begin("long", 1)
		early.await("model:start:v1")
		const pieces, size = 4096, 256 // 1 MiB
		for i := 0; i < pieces; i += 64 {
			var events []job.Event
			for k := range 64 {
				events = append(events, &job.Chunk{Chunk: fmt.Sprintf("%06d é \"q\" \\ %s\n", i+k, strings.Repeat("x", size-20))})
			}
			host.append(a, events...)
			early.await("model:chunk:v1") // it keeps up
		}
		late := connect(t, addr, "")
		wantOK(t, late.ask("job:resume:v1", `{"jobId":"long"}`))
		eventually(t, "the backlog", func() bool {
			f := late.frames("long")
			if len(f) == 0 {
				return false
			}
			_, seq := span(t, f[len(f)-1])
			return seq == pieces+1
		})
		if n := len(late.frames("long")); n > 40 {
			t.Errorf("the backlog came in %d frames", n)
		}
		host.chunks(a, "live")
		host.complete(a)
		want := host.log("long", 0)
		for who, c := range map[string]*client{"early": early, "late": late} {
			done := c.await("model:complete:v1")
			if got := job.Digest(textOf(t, c.frames("long"))); got != done.field(t, "digest") {
				t.Errorf("%s: digest %s, the job says %v", who, got, done.field(t, "digest"))
			}
			sameFrames(t, c.frames("long"), want)
		}
		if last := late.frames("long"); !strings.Contains(last[len(last)-2], `"chunk":"live"`) || strings.Contains(last[len(last)-2], "fromSeq") {
			t.Errorf("the live frame came as %s", last[len(last)-2])
		}
		// From the middle, too.
		middle := connect(t, addr, "")
		wantOK(t, middle.ask("job:resume:v1", `{"jobId":"long","lastSeq":2000}`))
		middle.await("model:complete:v1")
		sameFrames(t, middle.frames("long"), want[2000:])
	})
}

// A short backlog comes as it is in the log.
func TestShortBacklog(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, testConfig())
	c := connect(t, addr, "")
	wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"short"}`))
	a := host.begin("short", 1)
	for i := range mergeOver - 2 {
		host.chunks(a, fmt.Sprint(i))
	}
	host.complete(a)
	late := connect(t, addr, "")
	wantOK(t, late.ask("job:resume:v1", `{"jobId":"short"}`))
	late.await("model:complete:v1")
	equalFrames(t, late.frames("short"), host.log("short", 0))
}

// A third of the clients stop reading: the others get everything meanwhile, what
// waits for the slow ones is bounded, and when they read again they end with the
// same text.
func TestStalledReaders(t *testing.T) {
	rdb := serverRedis(t)
	host := newHost(t, rdb)
	conf := testConfig()
	conf.Limits.Pending = 64 * config.KiB
	c := startCore(t, Options{Config: conf, Redis: rdb, Log: quiet(t)})
	const all, stalled = 300, 100
	wires := make([]*fakeWire, all)
	for i := range wires {
		wires[i] = &fakeWire{stalled: i < stalled}
		s := c.open(identity{User: anonymous}, wires[i])
		if i == 0 {
			if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"crowd"}`); !a.OK {
				t.Fatalf("start: %+v", a)
			}
		} else if a := tell(t, s, "job:resume:v1", `{"jobId":"crowd"}`); !a.OK {
			t.Fatalf("resume: %+v", a)
		}
	}
	a := host.begin("crowd", 1)
	piece := strings.Repeat("0123456789abcdef", 256) // 4 KiB
	const n = 24
	for range n {
		host.chunks(a, piece)
	}
	host.complete(a)
	digest := job.Digest(strings.Repeat(piece, n))
	check := func(w *fakeWire) {
		t.Helper()
		if got := job.Digest(textOf(t, w.frames())); got != digest {
			t.Fatalf("digest %s, want %s", got, digest)
		}
	}
	for _, w := range wires[stalled:] {
		eventually(t, "the end for those who read", func() bool { return len(w.of("model:complete:v1")) == 1 })
		check(w)
	}
	for _, w := range wires[:stalled] {
		if n := w.waiting.Load(); n > int64(conf.Limits.Pending)/2+64<<10 {
			t.Fatalf("%d bytes wait for a client that stalls", n)
		}
		if len(w.of("model:complete:v1")) != 0 {
			t.Fatal("a stalled client took everything")
		}
	}
	for _, w := range wires[:stalled] {
		w.drain()
	}
	for _, w := range wires[:stalled] {
		eventually(t, "the end for the slow", func() bool { return len(w.of("model:complete:v1")) == 1 })
		check(w)
		if w.how() != "" {
			t.Errorf("ended: %s", w.how())
		}
	}
}

// The same with sockets: what waits for those that don't read stays below their
// limit, and nobody else waits for it.
func TestStalledSockets(t *testing.T) {
	rdb := serverRedis(t)
	host := newHost(t, rdb)
	conf := testConfig()
	conf.Limits.Pending = 128 * config.KiB
	addr, _ := startGateway(t, rdb, conf)
	reader := connect(t, addr, "")
	wantOK(t, reader.ask("search:start:v1", `{"query":"x","jobId":"sockets"}`))
	readers := []*client{reader}
	for range 7 {
		c := connect(t, addr, "")
		wantOK(t, c.ask("job:resume:v1", `{"jobId":"sockets"}`))
		readers = append(readers, c)
	}
	const stalled = 4
	small := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return nc, nc.(*net.TCPConn).SetReadBuffer(128 << 10)
	}}}
	var slow []*websocket.Conn
	for range stalled {
		ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/socket.io/?EIO=4&transport=websocket", &websocket.DialOptions{HTTPClient: small})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ws.CloseNow() }()
		ws.SetReadLimit(-1)
		for _, packet := range []string{"40", `420["job:resume:v1",{"jobId":"sockets"}]`} {
			if err := ws.Write(t.Context(), websocket.MessageText, []byte(packet)); err != nil {
				t.Fatal(err)
			}
		}
		slow = append(slow, ws)
	}
	eventually(t, "the watches", func() bool { return strings.Contains(scrape(t, addr), "sluice_gateway_watches 12\n") })
	a := host.begin("sockets", 1)
	piece := strings.Repeat("0123456789abcdef", 2048) // 32 KiB
	const n = 60                                      // 1.9 MiB: more than the kernel takes for one who doesn't read
	for range n {
		host.chunks(a, piece)
	}
	host.complete(a)
	digest := job.Digest(strings.Repeat(piece, n))
	for _, c := range readers {
		if m := c.await("model:complete:v1"); m.field(t, "digest") != digest || job.Digest(textOf(t, c.frames("sockets"))) != digest {
			t.Error("a client that reads has another text")
		}
	}
	text := scrape(t, addr)
	_, rest, _ := strings.Cut(text, "\nsluice_gateway_pending_bytes ")
	line, _, _ := strings.Cut(rest, "\n")
	if pending, err := strconv.ParseFloat(line, 64); err != nil || pending > stalled*float64(conf.Limits.Pending) {
		t.Errorf("%s bytes wait", line)
	}
	if strings.Contains(text, `slow_clients_total{what="behind"} 0`) {
		t.Error("nobody was behind")
	}
	for _, ws := range slow {
		var got []string
		for len(got) == 0 || !strings.HasPrefix(got[len(got)-1], job.EventComplete) {
			_, b, err := ws.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if b[0] != '4' {
				continue
			}
			if m, err := readMessage(b[1:]); err == nil && m.Kind == packetEvent && m.field(t, "seq") != nil {
				got = append(got, m.Name+" "+string(m.Data))
			}
		}
		if job.Digest(textOf(t, got)) != digest {
			t.Error("a client that was slow has another text")
		}
	}
}

// A client that takes nothing at all of what it lacks is told to come back, and
// cut off.
func TestStalledForGood(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	c := newTestCore(t, rdb)
	c.stall = 50 * time.Millisecond
	w := &fakeWire{}
	s := c.open(identity{User: anonymous}, w)
	if a := tell(t, s, "search:start:v1", `{"query":"x","jobId":"s"}`); !a.OK {
		t.Fatalf("start: %+v", a)
	}
	w.waiting.Store(int64(c.conf.Limits.Pending))
	a := host.begin("s", 1)
	host.chunks(a, "text")
	eventually(t, "the end", func() bool { return w.how() != "" })
	if w.how() != "hangup: "+codeSlow {
		t.Errorf("ended by %q", w.how())
	}
	if got := w.of("error"); len(got) != 1 || !strings.Contains(got[0], codeSlow) || !strings.Contains(got[0], `"retryAfterMs":5000`) {
		t.Errorf("errors %q", got)
	}
}

func TestRoomGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWire{}
		o := &outbox{line: w, limit: 100}
		w.waiting.Store(90)
		done := make(chan error, 1)
		go func() { done <- o.room(t.Context(), 1, time.Minute) }()
		for range 10 { // it takes a little now and then
			sleep(t.Context(), 50*time.Second)
			w.waiting.Add(-1)
		}
		sleep(t.Context(), time.Second)
		// Filled again by somebody else: that is no sign of life.
		w.waiting.Add(20)
		sleep(t.Context(), 50*time.Second)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatal("gave up early:", err)
		default:
		}
		began := time.Now()
		if err := <-done; err != errStalled {
			t.Error(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("gave up after %v more", took)
		}
	})
}

// startCore runs what sessions share, without sockets.
func startCore(t *testing.T, o Options) *core {
	ctx, cancel := context.WithCancel(context.Background())
	c := newCore(ctx, o, openDoor{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.run(ctx)
	}()
	t.Cleanup(func() {
		for _, s := range c.hub.close() {
			s.end("test over")
		}
		cancel()
		c.work.Wait()
		<-ended
		if n := len(c.hub.users) + len(c.hub.all) + len(c.hub.jobs) + len(c.lobby.jobs); n > 0 {
			t.Errorf("hub and lobby still hold %d entries", n)
		}
	})
	return c
}
