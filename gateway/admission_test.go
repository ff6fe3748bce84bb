package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/gateway/engine"
)

func TestClientAddress(t *testing.T) {
	a := newAdmission(config.Gateway{Proxies: []string{"127.0.0.1", "10.0.0.0/8", "2001:db8::/32"}}, nil)
	for _, test := range []struct {
		peer, forwarded, want string
	}{
		{"192.0.2.1:4000", "", "192.0.2.1"},
		{"192.0.2.1:4000", "198.51.100.7", "192.0.2.1"}, // no proxy of ours
		{"[2001:db9::1]:4000", "", "2001:db9::1"},
		{"[fe80::1%eth0]:4000", "", "fe80::1"},
		{"[::ffff:192.0.2.1]:4000", "", "192.0.2.1"},
		{"127.0.0.1:4000", "", "127.0.0.1"},
		{"127.0.0.1:4000", "198.51.100.7", "198.51.100.7"},
		{"127.0.0.1:4000", "203.0.113.9, 198.51.100.7", "198.51.100.7"}, // the first was made up by the client
		{"127.0.0.1:4000", "198.51.100.7, 10.1.2.3", "198.51.100.7"},
		{"127.0.0.1:4000", "198.51.100.7,10.1.2.3 , 2001:db8::5", "198.51.100.7"},
		{"127.0.0.1:4000", "nonsense, 10.1.2.3", "10.1.2.3"},
		{"127.0.0.1:4000", "10.1.2.3", "10.1.2.3"},
		{"127.0.0.1:4000", "198.51.100.7:1234", "198.51.100.7"},
		{"127.0.0.1:4000", "[2001:db9::7]:1234", "2001:db9::7"},
		{"127.0.0.1:4000", "[2001:db9::7]", "2001:db9::7"},
		{"127.0.0.1:4000", "::ffff:198.51.100.7", "198.51.100.7"},
		{"127.0.0.1:4000", ",,", "127.0.0.1"},
		{"@", "", "@"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = test.peer
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := a.address(r); got != test.want {
			t.Errorf("%s by %q: %s, want %s", test.peer, test.forwarded, got, test.want)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add("127.0.0.1:1", "198.51.100.7, [2001:db8::1]:99,x")
	f.Fuzz(func(t *testing.T, peer, forwarded string) {
		a := newAdmission(config.Gateway{Proxies: []string{"127.0.0.0/8"}}, nil)
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {forwarded}}}
		if addr, ok := a.client(r); ok && (!addr.IsValid() || addr.Zone() != "" || addr.Is4In6()) {
			t.Errorf("address %v", addr)
		}
	})
}

func from(address string) *websocket.DialOptions {
	return &websocket.DialOptions{HTTPHeader: http.Header{"X-Forwarded-For": {address}}}
}

func TestConnectionsPerAddress(t *testing.T) {
	conf := testConfig()
	conf.Proxies = []string{"127.0.0.1"}
	conf.Limits.ConnectionsPerAddress = 2
	addr, _ := startGateway(t, memoryRedis(t), conf)
	for _, pair := range [][2]string{{"203.0.113.7", "203.0.113.8"}, {"2001:db9:1:2::1", "2001:db9:1:3::1"}} {
		one := dial(t, addr, from(pair[0]))
		dial(t, addr, from(pair[0]))
		url := "ws://" + addr + "/socket.io/?EIO=4&transport=websocket"
		_, res, err := websocket.Dial(t.Context(), url, from(pair[0]))
		if err == nil || res == nil || res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "5" {
			t.Fatalf("a third connection: %v, %+v", err, res)
		}
		dial(t, addr, from(pair[1]))
		_ = one.ws.CloseNow()
		eventually(t, "room for another", func() bool {
			_, err := tryDial(t, addr, from(pair[0]))
			return err == nil
		})
	}
	// One network of a customer is one address.
	if _, err := tryDial(t, addr, from("2001:db9:1:2:ffff::9")); err == nil {
		t.Error("another address of the same network was let in")
	}
	for range 4 { // this machine's own aren't counted
		dial(t, addr, nil)
	}
}

// What was counted for connections that have ended is forgotten.
func TestAdmissionForgets(t *testing.T) {
	a := newAdmission(config.Gateway{Limits: config.GatewayLimits{ConnectionsPerAddress: 3}}, newMetrics())
	var ends []func()
	for i := range 30 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", i%10)
		release, err := a.admit(r)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, release)
	}
	for _, end := range ends {
		end()
	}
	if len(a.open) != 0 {
		t.Errorf("%d addresses are still counted", len(a.open))
	}
	a.close()
	_, err := a.admit(httptest.NewRequest(http.MethodGet, "/", nil))
	if refusal, ok := errors.AsType[*engine.Refusal](err); !ok || refusal.Status != http.StatusServiceUnavailable || refusal.RetryAfter == 0 {
		t.Errorf("closed: %v", err)
	}
}

func TestConnectionsPerUser(t *testing.T) {
	conf := hsConfig()
	conf.Limits.ConnectionsPerUser = 2
	addr, _ := startGateway(t, memoryRedis(t), conf)
	refusedConnect := func(auth string) bool {
		c := dial(t, addr, nil)
		c.send("40" + auth)
		m := c.find("an answer", func(m message) bool { return m.Kind == packetRefusal || m.Name == "connected" })
		if m.Kind != packetRefusal {
			return false
		}
		data, _ := m.field(t, "data").(map[string]any)
		if data["code"] != codeTooManySockets || data["retryAfterMs"] != 5000.0 {
			t.Errorf("refusal %s", m.Data)
		}
		return true
	}
	first := connect(t, addr, hsAuth(t, "ada"))
	connect(t, addr, hsAuth(t, "ada"))
	if !refusedConnect(hsAuth(t, "ada")) {
		t.Error("a third connection of one user")
	}
	connect(t, addr, hsAuth(t, "bob"))
	_ = first.ws.CloseNow()
	eventually(t, "room for another", func() bool { return !refusedConnect(hsAuth(t, "ada")) })

	// The token's own word.
	token := func(limit any) string {
		return `{"token":"` + hs(t, jwt.MapClaims{"sub": fmt.Sprint("own-", limit), "limits": map[string]any{"connections": limit}}) + `"}`
	}
	connect(t, addr, token(1))
	if !refusedConnect(token(1)) {
		t.Error("more connections than the token allows")
	}
	for range 4 {
		connect(t, addr, token(0))
	}
}

// Sockets that come at the same time, at two gateways, don't pass the limit
// together.
func TestConnectionsPerUserAtOnce(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		const most, each = 3, 10
		conf := hsConfig()
		conf.Limits.ConnectionsPerUser = most
		auth := hsAuth(t, "ada")
		var clients []*client
		var addr string
		for range 2 {
			addr, _ = startGateway(t, rdb, conf)
			for range each {
				clients = append(clients, dial(t, addr, nil))
			}
		}
		for _, c := range clients {
			c.send("40" + auth)
		}
		in := 0
		for _, c := range clients {
			m := c.find("an answer", func(m message) bool { return m.Kind == packetRefusal || m.Name == "connected" })
			if m.Kind != packetRefusal {
				in++
			} else if data, _ := m.field(t, "data").(map[string]any); data["code"] != codeTooManySockets || data["retryAfterMs"] != 5000.0 {
				t.Errorf("refusal %s", m.Data)
			}
		}
		if in != most {
			t.Errorf("%d of %d sockets were let in, want %d", in, len(clients), most)
		}
		// A user of that name in a tenant is somebody else.
		connect(t, addr, `{"token":"`+hs(t, jwt.MapClaims{"sub": "ada", "tenant": "acme"})+`"}`)
	})
}

func retryAfter(t *testing.T, m message) float64 {
	t.Helper()
	refusal, _ := m.field(t, "error").(map[string]any)
	ms, _ := refusal["retryAfterMs"].(float64)
	return ms
}

func TestStartsPerMinute(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		conf := hsConfig()
		conf.Limits.StartsPerMinute = 3
		one, _ := startGateway(t, rdb, conf)
		two, _ := startGateway(t, rdb, conf)
		ada, tab, bob := connect(t, one, hsAuth(t, "ada")), connect(t, two, hsAuth(t, "ada")), connect(t, two, hsAuth(t, "bob"))
		for i, c := range []*client{ada, tab, ada} {
			wantOK(t, c.ask("START_SEARCH", `{"query":"x","jobId":"s`+strconv.Itoa(i)+`"}`))
		}
		over := tab.ask("START_SEARCH", `{"query":"x"}`)
		wantCode(t, over, codeRate)
		if ms := retryAfter(t, over); ms <= 0 || ms > 60_001 {
			t.Errorf("answer %s", over.Data)
		}
		// Nothing was started, the same again is no start, and others aren't held up.
		wantOK(t, tab.ask("search:start:v1", `{"query":"x","jobId":"s0"}`))
		wantOK(t, bob.ask("search:start:v1", `{"query":"x"}`))
		wantCode(t, bob.ask("search:start:v1", `{"query":"x","jobId":"s0"}`), codeInvalidJobID)
		if n, err := rdb.LLen(t.Context(), "asynq:{sluice:default}:pending").Result(); err != nil || n != 4 {
			t.Errorf("%d tickets, %v", n, err)
		}
		// A minute later the job is still known, although its start is forgotten.
		if n, err := forget(t.Context(), rdb, "sluice:user:*"); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		for i := range 3 {
			wantOK(t, ada.ask("START_SEARCH", `{"query":"x","jobId":"t`+strconv.Itoa(i)+`"}`))
		}
		wantCode(t, ada.ask("START_SEARCH", `{"query":"x","jobId":"t9"}`), codeRate)
		wantOK(t, ada.ask("START_SEARCH", `{"query":"x","jobId":"s0"}`))
	})
}

func TestJobsPerUser(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		conf := testConfig()
		conf.Limits.JobsPerUser = 2
		addr, _ := startGateway(t, rdb, conf)
		c := connect(t, addr, "")
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"a"}`))
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"b"}`))
		over := c.ask("search:start:v1", `{"query":"x","jobId":"c"}`)
		wantCode(t, over, codeTooManyJobs)
		if ms := retryAfter(t, over); ms != 2000 {
			t.Errorf("answer %s", over.Data)
		}
		host.complete(host.begin("a", 1))
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"c"}`))
		wantCode(t, c.ask("search:start:v1", `{"query":"x","jobId":"d"}`), codeTooManyJobs)
		wantOK(t, c.ask("task:cancel:v1", `{"jobId":"b"}`))
		wantOK(t, c.ask("search:start:v1", `{"query":"x","jobId":"d"}`))
	})
}

// With Redis away each gateway counts starts itself.
func TestStartsWithoutRedis(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer rdb.Close()
	conf := testConfig()
	conf.Limits.StartsPerMinute = 2
	c := newCore(t.Context(), Options{Config: conf, Redis: rdb, Log: testLog(t)}, openDoor{})
	s := &session{c: c, owner: "ada"}
	s.identity.Store(&identity{User: "ada"})
	for range 2 {
		if err := s.admit(t.Context(), "j"); err != nil {
			t.Error(err)
		}
	}
	over, ok := errors.AsType[*refused](s.admit(t.Context(), "j"))
	if !ok || over.Code != codeRate || over.RetryAfterMs <= 0 || over.RetryAfterMs > 30_000 {
		t.Errorf("the third: %+v", over)
	}
	c.pacer.reset()
	if err := s.admit(t.Context(), "j"); err != nil {
		t.Error(err)
	}
}

func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pacer
		for range 5 {
			if wait := p.take("ada", 5, time.Now()); wait != 0 {
				t.Errorf("wait %v", wait)
			}
		}
		for range 3 { // being refused costs nothing
			if wait := p.take("ada", 5, time.Now()); wait.Round(time.Second) != 12*time.Second {
				t.Errorf("wait %v", wait)
			}
		}
		sleep(context.Background(), 12*time.Second)
		if wait := p.take("ada", 5, time.Now()); wait != 0 {
			t.Errorf("wait %v", wait)
		}
		for i := range 3 * maxPaces {
			p.take(strconv.Itoa(i), 5, time.Now())
		}
		if len(p.users) > maxPaces {
			t.Errorf("%d users remembered", len(p.users))
		}
	})
}

// far is a connection from an address.
type far struct {
	net.Conn
	from   string
	closed bool
}

func (f *far) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.from))
}

func (f *far) Close() error {
	f.closed = true
	return nil
}

// One address can't open connections without end that are never sockets.
func TestConnectionsThatAreNoSockets(t *testing.T) {
	for name, test := range map[string]struct {
		from    string
		bounded bool
	}{
		"far":        {"192.0.2.1:4000", true},
		"IPv6":       {"[2001:db8::1]:4000", true},
		"in IPv6":    {"[::ffff:192.0.2.1]:4000", true},
		"this one":   {"127.0.0.1:4000", false},
		"IPv6 of it": {"[::1]:4000", false},
		"a proxy":    {"10.1.2.3:4000", false},
	} {
		a := newAdmission(config.Gateway{Proxies: []string{"10.0.0.0/8"}, Limits: config.GatewayLimits{ConnectionsPerAddress: 2}}, newMetrics())
		var all []*far
		open := func() *far {
			f := &far{from: test.from}
			a.watch(f, http.StateNew)
			if f.closed {
				a.watch(f, http.StateClosed)
			} else {
				a.watch(f, http.StateActive)
				a.watch(f, http.StateIdle)
				all = append(all, f)
			}
			return f
		}
		for range 2 * plainPerSocket {
			if open().closed {
				t.Errorf("%s: the first were closed", name)
			}
		}
		for range 2 {
			if open().closed != test.bounded {
				t.Errorf("%s: not bounded as it should be", name)
			}
		}
		a.watch(all[0], http.StateHijacked)
		a.watch(all[1], http.StateClosed)
		all = all[2:]
		if open().closed {
			t.Errorf("%s: no room after two have gone", name)
		}
		for _, f := range all {
			a.watch(f, http.StateClosed)
		}
		if len(a.plain) != 0 {
			t.Errorf("%s: %v are left", name, a.plain)
		}
	}
}
