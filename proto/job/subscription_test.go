package job

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// heard collects what a subscription tells.
type heard struct {
	messages chan string
	on, off  chan string
}

func (h heard) message(channel, payload []byte) {
	h.messages <- string(channel) + " " + string(payload)
}

func (h heard) confirmed(channel string, on bool) {
	if on {
		h.on <- channel
	} else {
		h.off <- channel
	}
}

func (h heard) disconnected(error) {}

func next(t *testing.T, from chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(soon):
		t.Fatal("nothing came")
		return ""
	}
}

// listenOn subscribes on its own, without a listener around it.
func listenOn(t *testing.T, rdb redis.UniversalClient) (subscription, heard, chan error) {
	t.Helper()
	sub, err := subscribe(t.Context(), rdb, "c")
	must(t, err)
	t.Cleanup(func() { sub.Close() })
	h := heard{make(chan string, 10000), make(chan string, 100), make(chan string, 100)}
	ended := make(chan error, 1)
	go func() { ended <- sub.receive(context.Background(), h, func() {}) }()
	return sub, h, ended
}

func TestSubscription(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		sub, h, ended := listenOn(t, rdb)
		must(t, sub.Ping(t.Context()))
		must(t, sub.Subscribe(t.Context(), "a", "b"))
		if got := next(t, h.on) + next(t, h.on); got != "ab" {
			t.Errorf("confirmed %q", got)
		}
		must(t, sub.Ping(t.Context()))
		// Whole buffers, parts of them, and more than one buffer holds.
		sizes := []int{0, 1, minRead - 1, bufferSize, 3 * bufferSize, 1 << 20}
		for i := range 3000 {
			sizes = append(sizes, i%700)
		}
		go func() {
			for i, n := range sizes {
				rdb.Publish(context.Background(), "b", fmt.Sprintf("%d %s", i, strings.Repeat("\r\n", n/2)))
			}
		}()
		_, anyNode := rdb.(*redis.ClusterClient) // where publications of one client overtake each other
		seen := make(map[string]bool)
		for i, n := range sizes {
			got, want := next(t, h.messages), fmt.Sprintf("b %d %s", i, strings.Repeat("\r\n", n/2))
			if seen[got] = true; got != want && !anyNode {
				t.Fatalf("message %d: %d bytes %.40q, want %d", i, len(got), got, len(want))
			}
		}
		for i, n := range sizes {
			if !seen[fmt.Sprintf("b %d %s", i, strings.Repeat("\r\n", n/2))] {
				t.Fatalf("message %d of %d bytes didn't come whole", i, n)
			}
		}
		must(t, sub.Unsubscribe(t.Context(), "a"))
		if got := next(t, h.off); got != "a" {
			t.Errorf("unsubscribed %q", got)
		}
		sub.Close()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("ended without an error")
			}
		case <-time.After(soon):
			t.Fatal("doesn't end")
		}
	})
}

// TestSubscriptionSignsIn uses each way in which a client holds its credentials.
func TestSubscriptionSignsIn(t *testing.T) {
	srv := startServer(t)
	first := srv.client(t)
	must(t, first.Do(t.Context(), "ACL", "SETUSER", "ann", "on", ">pass", "~*", "&*", "+@all").Err())
	must(t, first.Do(t.Context(), "CONFIG", "SET", "requirepass", "geheim").Err())
	for name, o := range map[string]*redis.Options{
		"password": {Password: "geheim", ClientName: "sluice"},
		"user":     {Username: "ann", Password: "pass"},
		"provider": {CredentialsProvider: func() (string, string) { return "ann", "pass" }},
		"provider with a context": {CredentialsProviderContext: func(context.Context) (string, string, error) {
			return "", "geheim", nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Network, o.Addr = "unix", srv.socket
			rdb := redis.NewClient(o)
			defer rdb.Close()
			sub, h, _ := listenOn(t, rdb)
			if _, ok := sub.(*direct); !ok {
				t.Errorf("a %T", sub)
			}
			must(t, sub.Subscribe(t.Context(), "c"))
			next(t, h.on)
			must(t, rdb.Publish(t.Context(), "c", "x").Err())
			next(t, h.messages)
		})
	}
	open := startServer(t)
	needless := redis.NewClient(&redis.Options{Network: "unix", Addr: open.socket, Password: "of a Redis that asks for none"})
	defer needless.Close()
	must(t, needless.Ping(t.Context()).Err())
	sub, h, _ := listenOn(t, needless)
	must(t, sub.Subscribe(t.Context(), "c"))
	next(t, h.on)
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: srv.socket, Password: "wrong"})
	defer rdb.Close()
	_, _, ended := listenOn(t, rdb)
	select {
	case err := <-ended:
		if !strings.Contains(err.Error(), "WRONGPASS") {
			t.Error(err)
		}
	case <-time.After(soon):
		t.Fatal("a wrong password goes unnoticed")
	}
}

func FuzzParseReply(f *testing.F) {
	for _, s := range []string{
		"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\n\r\n\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", "+PONG\r\n", "-ERR no\r\n",
		"*2\r\n$4\r\npong\r\n$0\r\n\r\n", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", "*3\r\n$-1\r\n", "*9\r\n", "$1\r\na\r\n", "*3\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, n, need, err := parseReply(b)
		if err != nil {
			return
		}
		if n == 0 && need <= len(b) || n > len(b) {
			t.Fatalf("%q: n %d, need %d of %d", b, n, need, len(b))
		}
		for k := range n { // cut off anywhere it asks for more, not for too much
			if _, got, need, err := parseReply(b[:k]); got != 0 || err != nil || need > n {
				t.Fatalf("%q cut at %d: n %d, need %d of %d, %v", b, k, got, need, n, err)
			}
		}
	})
}
