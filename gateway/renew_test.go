package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

func printOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func TestEdDSA(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	url, _, _ := keyServer(t, map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "d1", "alg": "EdDSA", "use": "sig", "x": b64(public)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, err := newAuthenticator(ctx, config.Auth{Mode: "jwt", JWKSURL: url}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	token := signed(t, jwt.SigningMethodEdDSA, private, "d1", jwt.MapClaims{"sub": "ada"})
	if who, err := a.identify(ctx, credentials{Auth: token}); err != nil || who.User != "ada" {
		t.Errorf("%+v, %v", who, err)
	}
}

func TestClaims(t *testing.T) {
	a, err := newAuthenticator(t.Context(), hsConfig().Auth, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		claims jwt.MapClaims
		want   identity // no user: refused
	}{
		"limits":            {jwt.MapClaims{"sub": "u", "limits": map[string]any{"connections": 3, "starts_per_minute": 0, "jobs": 7}}, identity{User: "u", Limits: grant{Connections: 3, Starts: -1, Jobs: 7}}},
		"no limits":         {jwt.MapClaims{"sub": "u", "limits": map[string]any{}}, identity{User: "u"}},
		"null":              {jwt.MapClaims{"sub": "u", "limits": nil}, identity{User: "u"}},
		"negative limit":    {jwt.MapClaims{"sub": "u", "limits": map[string]any{"jobs": -1}}, identity{}},
		"limit of a shape":  {jwt.MapClaims{"sub": "u", "limits": "many"}, identity{}},
		"odd tenant":        {jwt.MapClaims{"sub": "u", "tenant": "a\x1fb"}, identity{}},
		"long tenant":       {jwt.MapClaims{"sub": "u", "tenant": strings.Repeat("t", 300)}, identity{}},
		"role metrics":      {jwt.MapClaims{"sub": "u", "roles": []string{"metrics", "x"}}, identity{User: "u", Monitor: true}},
		"admin of a tenant": {jwt.MapClaims{"sub": "u", "tenant": "t", "role": "admin"}, identity{User: "u", Tenant: "t", Admin: true}},
	} {
		got, err := a.identify(t.Context(), credentials{Auth: hs(t, test.claims)})
		if got != test.want || (err == nil) != (test.want.User != "") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	conf := config.GatewayLimits{ConnectionsPerUser: 1, StartsPerMinute: 2, JobsPerUser: 3}
	if got := (grant{Connections: -1, Jobs: 9}).or(conf); got != (grant{Connections: 0, Starts: 2, Jobs: 9}) {
		t.Errorf("limits that hold: %+v", got)
	}
}

func TestParseKeys(t *testing.T) {
	a, b := printOf("a"), printOf("b")
	keys, err := parseKeys([]byte("# keys\n\n" + a + " user=ada # hers\r\n  sha256:" + strings.ToUpper(b) +
		"\tuser=bob tenant=acme roles=admin,metrics starts_per_minute=5 jobs=0 connections=2 expires=2030-01-01T00:00:00Z"))
	if err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	bob := keys[fingerprint(sha256.Sum256([]byte("b")))]
	if bob.User != "bob" || bob.Tenant != "acme" || !bob.Admin || !bob.Monitor || bob.Limits != (grant{Connections: 2, Starts: 5, Jobs: -1}) || bob.Expires.Year() != 2030 {
		t.Errorf("bob: %+v", bob)
	}
	for text, want := range map[string]string{
		"sk-secret user=ada":                    "line 1: does not begin with the SHA-256",
		"\n" + a[:62] + " user=ada":             "line 2: does not begin with the SHA-256",
		a:                                       "line 1: no user is named",
		a + " tenant=x":                         "no user",
		a + " user=ada jobs=many":               "jobs=many is not a number",
		a + " user=ada jobs=-1":                 "jobs=-1 is not a number",
		a + " user=ada expires=soon":            "expires=soon is not a time",
		a + " user=ada name=x":                  `"name" is none of`,
		a + " user=ada\n" + a + " user=b":       "line 2: this key is there twice",
		a + " user=" + strings.Repeat("u", 9e4): "token too long",
	} {
		if _, err := parseKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100q: %v, want %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "sk-secret") {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(printOf("a") + " user=ada tenant=t roles=admin jobs=3 expires=2030-01-01T00:00:00Z # x\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		for print, id := range keys {
			if err != nil || id.Key != print || id.User == "" {
				t.Errorf("%x: %+v, %v", print, id, err)
			}
		}
	})
}

// keyFile writes a file of API keys and returns how to write it anew.
func keyFile(t *testing.T, text string) (path string, write func(text string)) {
	path = filepath.Join(t.TempDir(), "keys")
	n := 0
	write = func(text string) { // as an editor or a mounted secret does it
		t.Helper()
		n++
		next := fmt.Sprint(path, n)
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	return path, write
}

func TestAPIKeys(t *testing.T) {
	ada, bob := printOf("key-of-ada"), printOf("key-of-bob")
	path, write := keyFile(t, ada+" user=ada tenant=acme\n"+bob+" user=bob")
	for _, mode := range []string{"keys", "hs256"} {
		write(ada + " user=ada tenant=acme\n" + bob + " user=bob")
		conf := hsConfig()
		conf.Auth.Mode, conf.Auth.KeysFile = mode, path
		addr, stop := startGateway(t, memoryRedis(t), conf)
		a := connect(t, addr, `{"token":"key-of-ada"}`)
		b := connect(t, addr, `{"token":"key-of-bob"}`)
		if m := a.seen("connected")[0]; m.field(t, "userId") != "ada" {
			t.Errorf("connected %s", m.Data)
		}
		for auth, in := range map[string]bool{`{"token":"key-of-eve"}`: false, `{}`: false, `{"token":"` + ada + `"}`: false, hsAuth(t, "eve"): mode == "hs256"} {
			c := dial(t, addr, nil)
			c.send("40" + auth)
			m := c.find("an answer", func(m message) bool { return m.Kind == packetRefusal || m.Name == "connected" })
			if (m.Kind != packetRefusal) != in || !in && !strings.Contains(string(m.Data), "Authentication") {
				t.Errorf("%s, %s: %s", mode, auth, m.Data)
			}
		}
		// A broken file changes nothing; then Ada's key goes, and Bob may start one job.
		write("nonsense")
		write(bob + " user=bob jobs=1")
		wantCode(t, a.await("error"), codeUnauthorized)
		a.closed()
		wantOK(t, b.ask("search:start:v1", `{"query":"x"}`))
		// Ada's end and Bob's new limit are one reading of the file; hers may come first.
		answer := b.ask("search:start:v1", `{"query":"x"}`)
		for range 10 {
			if answer.field(t, "ok") != true {
				break
			}
			answer = b.ask("search:start:v1", `{"query":"x"}`)
		}
		wantCode(t, answer, codeTooManyJobs)
		// The key is another user's now.
		write(bob + " user=carol")
		wantCode(t, b.await("error"), codeUnauthorized)
		b.closed()
		connect(t, addr, `{"token":"key-of-bob"}`)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}

	conf := testConfig()
	conf.Auth.Mode, conf.Auth.KeysFile = "keys", path+"-missing"
	if err := Run(t.Context(), Options{Config: conf, Redis: memoryRedis(t), Log: testLog(t)}); err == nil || !strings.Contains(err.Error(), "gateway.auth.keys_file") {
		t.Errorf("without its file: %v", err)
	}
}

func TestKeysSurviveABrokenFile(t *testing.T) {
	path, write := keyFile(t, printOf("k")+" user=ada\n"+printOf("old")+" user=ada expires=2020-01-01T00:00:00Z")
	ring, err := openKeys(path, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if news, err := ring.read(); news || err != nil {
		t.Errorf("read again although nothing has changed: %v", err)
	}
	write("nonsense")
	if news, err := ring.read(); news || err != nil {
		t.Errorf("read at the first look: %v", err)
	}
	if news, err := ring.read(); news || err == nil {
		t.Error("nonsense was read")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if news, err := ring.read(); news || err == nil {
		t.Error("a file that is gone was read")
	}
	if who, ok := ring.find("k"); !ok || who.User != "ada" {
		t.Error("the key is forgotten")
	}
	for _, key := range []string{"old", "", "K", printOf("k")} {
		if _, ok := ring.find(key); ok {
			t.Errorf("%q was accepted", key)
		}
	}
}

// A file of keys that is being written in its place, as by cp or an editor, is not
// read in the middle: the keys that it lacks by then stay valid.
func TestKeysOfHalfAFile(t *testing.T) {
	all := printOf("a") + " user=ada\n" + printOf("b") + " user=bob\n"
	path, _ := keyFile(t, all)
	ring, err := openKeys(path, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", printOf("b") + " user=bob\n", all + printOf("c") + " user=carol\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if news, err := ring.read(); news || err != nil {
			t.Errorf("%d bytes were read at the first look: %v", len(text), err)
		}
		if _, ok := ring.find("a"); !ok {
			t.Errorf("at %d bytes a key is gone", len(text))
		}
	}
	if news, err := ring.read(); !news || err != nil {
		t.Errorf("the whole file was not read: %v", err)
	}
	if who, ok := ring.find("c"); !ok || who.User != "carol" {
		t.Error("the new key is unknown")
	}
}

// A key that goes while its handshake, or a renewal with it, is under way is gone.
func TestKeyThatGoesMeanwhile(t *testing.T) {
	path, _ := keyFile(t, printOf("other")+" user=bob\n")
	ring, err := openKeys(path, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	gone := identity{User: "ada", Key: sha256.Sum256([]byte("gone"))}
	conf := testConfig()
	conf.Auth.Mode = "keys"
	c := newCore(t.Context(), Options{Config: conf, Redis: memoryRedis(t), Log: testLog(t)}, late{gone})
	c.keys = ring
	w := &fakeWire{}
	if s := c.open(gone, w); s == nil || w.how() != "dismissed" {
		t.Errorf("a session with it is %q", w.how())
	}
	w = &fakeWire{}
	s := c.open(identity{User: "ada"}, w)
	if _, _, err := s.renewAuth(t.Context(), request{Payload: []byte(`{"token":"gone"}`)}); err != nil {
		t.Fatal(err)
	}
	if w.how() != "dismissed" {
		t.Errorf("a session renewed with it is %q", w.how())
	}
}

// late is an authenticator that says what was true a moment ago.
type late struct{ who identity }

func (l late) identify(context.Context, credentials) (identity, error) { return l.who, nil }

// onMessage is a log that calls a function at each message.
type onMessage func(string)

func (onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (f onMessage) Handle(_ context.Context, r slog.Record) error {
	f(r.Message)
	return nil
}
func (f onMessage) WithAttrs([]slog.Attr) slog.Handler { return f }
func (f onMessage) WithGroup(string) slog.Handler      { return f }

// A socket that is sent away in the moment in which it comes leaves nothing behind.
func TestSentAwayOnArrival(t *testing.T) {
	var c *core
	log := slog.New(onMessage(func(text string) {
		if text == "socket connected" {
			for _, s := range c.hub.everybody() {
				s.dismiss("test")
			}
		}
	}))
	c = newCore(t.Context(), Options{Config: hsConfig(), Redis: memoryRedis(t), Log: log}, late{identity{User: "ada"}})
	sockets := newSocketServer(c)
	server := httptest.NewServer(newHTTPServer(c, sockets).Handler)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- sockets.run(ctx) }()
	client := dial(t, server.Listener.Addr().String(), nil)
	client.send("40")
	client.closed()
	eventually(t, "the session's end", func() bool {
		n, users, _ := c.hub.counts()
		c.seats.mu.Lock()
		defer c.seats.mu.Unlock()
		return n == 0 && users == 0 && len(c.seats.owners) == 0
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	server.Close()
}

// Who is no admin any more watches nobody else's jobs any more.
func TestAdminNoMore(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, hsConfig())
	alice := connect(t, addr, hsAuth(t, "alice"))
	as := func(role string) string {
		return `{"token":"` + hs(t, jwt.MapClaims{"sub": "root", "tenant": "", "role": role}) + `"}`
	}
	admin := connect(t, addr, as("admin"))
	wantOK(t, alice.ask("search:start:v1", `{"query":"x","jobId":"hers"}`))
	wantOK(t, admin.ask("search:start:v1", `{"query":"x","jobId":"own"}`))
	hers, own := host.begin("hers", 1), host.begin("own", 1)
	wantOK(t, admin.ask("job:resume:v1", `{"jobId":"hers"}`))
	admin.find("hers", func(m message) bool { return m.Name == "model:start:v1" && m.field(t, "jobId") == "hers" })
	wantOK(t, admin.ask("auth:renew:v1", as("admin")))
	host.chunks(hers, "seen")
	admin.find("hers", func(m message) bool { return m.Name == "model:chunk:v1" && m.field(t, "jobId") == "hers" })

	wantOK(t, admin.ask("auth:renew:v1", as("")))
	wantCode(t, admin.await("error"), codeNotFound)
	host.chunks(hers, "secret")
	alice.find("secret", func(m message) bool { return m.Name == "model:chunk:v1" && m.field(t, "chunk") == "secret" })
	host.chunks(own, "mine")
	admin.find("own", func(m message) bool { return m.Name == "model:chunk:v1" && m.field(t, "jobId") == "own" })
	wantCode(t, admin.ask("job:resume:v1", `{"jobId":"hers"}`), codeNotFound)
	if s := admin.dump(); strings.Contains(s, "secret") {
		t.Errorf("an admin of before saw:%s", s)
	}
}

// A session ends with its token, even if the clock was set back meanwhile.
func TestExpiryWithAClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &core{conf: testConfig(), log: testLog(t), metrics: newMetrics(), ctx: t.Context()}
		w := &fakeWire{}
		s := &session{c: c, owner: "ada", wire: w, log: c.log}
		s.box = &outbox{line: w, limit: 1 << 20}
		began := time.Now()
		s.renewed(identity{User: "ada", Expires: began.Add(10 * time.Minute)})
		later := func(by time.Duration) { // what the clock says of the time that is left
			s.identity.Store(&identity{User: "ada", Expires: began.Add(10*time.Minute + by)})
		}
		later(10 * time.Second)
		sleep(t.Context(), 10*time.Minute-time.Second)
		if len(w.of(eventExpiring)) != 1 {
			t.Error("no warning")
		}
		later(12 * time.Second)
		sleep(t.Context(), 12*time.Second)
		synctest.Wait()
		if w.how() != "" {
			t.Errorf("%q too early", w.how())
		}
		sleep(t.Context(), 2*time.Second)
		synctest.Wait()
		if w.how() != "dismissed" {
			t.Errorf("the session is %q", w.how())
		}
	})
}

// A session that is about to end says so, and lives on with a new token.
func TestRenew(t *testing.T) {
	addr, _ := startGateway(t, memoryRedis(t), hsConfig())
	c := dial(t, addr, nil)
	soon := time.Now().Add(5*time.Second - leeway).Unix()
	c.send(`40{"token":"` + hs(t, jwt.MapClaims{"sub": "ada", "tenant": "t", "exp": soon}) + `"}`)
	c.await("connected")
	warned := c.await("auth:expiring:v1")
	if at, _ := warned.field(t, "expiresAt").(float64); int64(at) != (soon+int64(leeway.Seconds()))*1000 {
		t.Errorf("warning %s", warned.Data)
	}
	if ms, _ := warned.field(t, "inMs").(float64); ms <= 0 || ms > 5000 {
		t.Errorf("warning %s", warned.Data)
	}
	for _, bad := range []string{
		`{}`, `{"token":"x"}`, `{"token":"` + hs(t, jwt.MapClaims{"sub": "bob", "tenant": "t"}) + `"}`,
		`{"token":"` + hs(t, jwt.MapClaims{"sub": "ada"}) + `"}`, `{"token":"` + hs(t, jwt.MapClaims{"sub": "ada", "tenant": "t", "exp": 1}) + `"}`,
	} {
		m := c.ask("auth:renew:v1", bad)
		wantCode(t, m, codeUnauthorized)
		if !strings.Contains(string(m.Data), "Authentication") {
			t.Errorf("answer %s", m.Data)
		}
	}
	wantCode(t, c.ask("auth:renew:v1", `{"token":7}`), codeInvalidPayload)

	later := time.Now().Add(time.Hour).Unix()
	m := c.ask("auth:renew:v1", `{"token":"`+hs(t, jwt.MapClaims{"sub": "ada", "tenant": "t", "exp": later, "limits": map[string]any{"jobs": 1}})+`","ackId":1}`)
	if want := fmt.Sprintf(`{"ok":true,"ackId":1,"expiresAt":%d}`, (later+int64(leeway.Seconds()))*1000); string(m.Data) != want {
		t.Errorf("answer %s, want %s", m.Data, want)
	}
	// What the new token says holds.
	wantOK(t, c.ask("search:start:v1", `{"query":"x"}`))
	wantCode(t, c.ask("search:start:v1", `{"query":"x"}`), codeTooManyJobs)
	// Another socket with the old token, not renewed, ends: the time has come.
	old := dial(t, addr, nil)
	old.send(`40{"token":"` + hs(t, jwt.MapClaims{"sub": "ada", "tenant": "t", "exp": soon}) + `"}`)
	old.closed()
	c.barrier()
}

func TestExpiryTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
		defer rdb.Close()
		c := &core{conf: testConfig(), log: testLog(t), metrics: newMetrics(), ctx: t.Context()}
		w := &fakeWire{}
		s := &session{c: c, owner: "ada", wire: w, log: c.log}
		s.box = &outbox{line: w, limit: 1 << 20}
		began := time.Now()
		in := func(d time.Duration) identity { return identity{User: "ada", Expires: time.Now().Add(d)} }
		wait := func(until time.Duration) {
			t.Helper()
			sleep(t.Context(), until-time.Since(began))
			synctest.Wait()
		}
		warned := func(n int) {
			t.Helper()
			if got := len(w.of(eventExpiring)); got != n || w.how() != "" {
				t.Fatalf("after %v: %d warnings, ended %q", time.Since(began), got, w.how())
			}
		}
		s.renewed(in(10 * time.Minute))
		wait(10*time.Minute - warning - time.Second)
		warned(0)
		wait(10*time.Minute - warning + time.Second)
		warned(1)
		s.renewed(in(10 * time.Minute)) // in time
		wait(11 * time.Minute)
		warned(1)
		s.renewed(identity{User: "ada"}) // for ever
		wait(time.Hour)
		warned(1)
		s.renewed(in(time.Minute)) // shorter than the warning: at half of it
		wait(time.Hour + 31*time.Second)
		warned(2)
		wait(time.Hour + 59*time.Second)
		warned(2)
		wait(time.Hour + 61*time.Second)
		if w.how() != "dismissed" || len(w.of("error")) != 1 || !strings.Contains(w.of("error")[0], "Authentication expired") {
			t.Errorf("ended %q, errors %q", w.how(), w.of("error"))
		}
	})
}

// Users of one name in two tenants are strangers, and an admin of a tenant is
// none elsewhere.
func TestTenants(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, hsConfig())
		as := func(claims jwt.MapClaims) *client {
			return connect(t, addr, `{"token":"`+hs(t, claims)+`"}`)
		}
		hers := as(jwt.MapClaims{"sub": "ada", "tenant": "a"})
		tab := as(jwt.MapClaims{"sub": "ada", "tenant": "a"})
		strangers := []*client{
			as(jwt.MapClaims{"sub": "ada", "tenant": "b"}), as(jwt.MapClaims{"sub": "ada"}),
			as(jwt.MapClaims{"sub": "root", "tenant": "b", "role": "admin"}),
		}
		admins := []*client{as(jwt.MapClaims{"sub": "root", "tenant": "a", "role": "admin"}), as(jwt.MapClaims{"sub": "root", "role": "admin"})}
		awaitFeeds(t, rdb, job.Owner("a", "ada"), 1)
		wantOK(t, hers.ask("search:start:v1", `{"query":"secret","jobId":"hers"}`))
		tab.await("job:started:v1")
		a := host.begin("hers", 1)
		for _, c := range strangers {
			wantCode(t, c.ask("job:resume:v1", `{"jobId":"hers"}`), codeNotFound)
			wantCode(t, c.ask("task:cancel:v1", `{"jobId":"hers"}`), codeNotFound)
			wantCode(t, c.ask("search:start:v1", `{"query":"x","jobId":"hers"}`), codeInvalidJobID)
		}
		for _, c := range admins {
			wantOK(t, c.ask("job:resume:v1", `{"jobId":"hers"}`))
		}
		host.chunks(a, "secret")
		// What older workers publish names no tenant.
		if err := rdb.Publish(t.Context(), "model:chunk", `{"userId":"ada","jobId":"old","chunk":"legacy","index":0}`).Err(); err != nil {
			t.Fatal(err)
		}
		strangers[1].await("model:chunk:v1")
		wantOK(t, admins[0].ask("task:cancel:v1", `{"jobId":"hers"}`))
		if err := a.Finish(context.Background(), &job.Cancelled{}); err != nil {
			t.Fatal(err)
		}
		for _, c := range append(admins, hers, tab) {
			m := c.await("task:cancelled")
			if m.field(t, "userId") != "ada" {
				t.Errorf("the client's own name: %s", m.Data)
			}
			equalFrames(t, c.frames("hers"), host.log("hers", 0))
			if s := c.dump(); strings.Contains(s, "legacy") {
				t.Errorf("a user of a tenant got a message that names none:%s", s)
			}
		}
		for _, c := range strangers {
			c.barrier()
			if s := c.dump(); strings.Contains(s, "secret") {
				t.Errorf("a stranger saw:%s", s)
			}
		}
	})
}
