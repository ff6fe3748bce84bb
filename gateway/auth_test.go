package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

var testSecret = []byte("0123456789abcdef0123456789abcdef")

func hsConfig() config.Gateway {
	c := testConfig()
	c.Auth = config.Auth{Mode: "hs256", Secret: config.NewSecret(string(testSecret))}
	return c
}

func signed(t testing.TB, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func hs(t testing.TB, claims jwt.MapClaims) string {
	return signed(t, jwt.SigningMethodHS256, testSecret, "", claims)
}

func hsAuth(t testing.TB, user string) string {
	return `{"token":"` + hs(t, jwt.MapClaims{"sub": user, "exp": time.Now().Add(time.Hour).Unix()}) + `"}`
}

// keyServer serves a JWKS that can be changed.
func keyServer(t *testing.T, keys ...map[string]any) (url string, set func(...map[string]any), asked *atomic.Int64) {
	var body atomic.Value
	set = func(keys ...map[string]any) {
		b, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		body.Store(b)
	}
	set(keys...)
	asked = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(body.Load().([]byte))
	}))
	t.Cleanup(s.Close)
	return s.URL, set, asked
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func rsaKey(t *testing.T, kid string, bits int) (*rsa.PrivateKey, map[string]any) {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key, map[string]any{"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}
}

// critical is a token that nobody may take who doesn't know its extension.
func critical(t *testing.T, claims jwt.Claims) string {
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	token.Header["crit"], token.Header["unknown"] = []string{"unknown"}, true
	text, err := token.SignedString(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func ecKey(t *testing.T, kid string) (*ecdsa.PrivateKey, map[string]any) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return key, map[string]any{"kty": "EC", "kid": kid, "alg": "ES256", "use": "sig", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

func TestAuthentication(t *testing.T) {
	rsaPrivate, rsaPublic := rsaKey(t, "r1", 2048)
	otherRSA, _ := rsaKey(t, "r1", 2048)
	ecPrivate, ecPublic := ecKey(t, "e1")
	shortRSA, shortPublic := rsaKey(t, "short", 1024)
	url, _, _ := keyServer(t, rsaPublic, ecPublic, shortPublic)
	hour := time.Now().Add(time.Hour).Unix()
	full := jwt.MapClaims{"sub": "u1", "exp": hour, "iss": "me", "aud": "sluice"}
	without := func(claim string) jwt.MapClaims {
		c := jwt.MapClaims{}
		for k, v := range full {
			if k != claim {
				c[k] = v
			}
		}
		return c
	}
	with := func(claim string, value any) jwt.MapClaims {
		c := without(claim)
		c[claim] = value
		return c
	}
	hs256 := config.Auth{Mode: "hs256", Secret: config.NewSecret(string(testSecret)), Issuer: "me", Audience: "sluice"}
	jwks := config.Auth{Mode: "jwt", JWKSURL: url, Issuer: "me", Audience: "sluice"}
	auth := func(token string) credentials { return credentials{Auth: token} }
	// The secret confusion: a public key used as an HMAC secret.
	confused := signed(t, jwt.SigningMethodHS256, []byte(rsaPublic["n"].(string)), "r1", full)
	none := signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", full)

	for name, test := range map[string]struct {
		conf config.Auth
		cred credentials
		want identity // no user: refused
	}{
		"nobody asks":            {config.Auth{Mode: "none"}, credentials{}, identity{User: anonymous}},
		"nobody asks, token":     {config.Auth{Mode: "none"}, auth("x"), identity{User: anonymous}},
		"auth object":            {hs256, auth(hs(t, full)), identity{User: "u1"}},
		"auth object, bearer":    {hs256, auth("Bearer " + hs(t, full)), identity{User: "u1"}},
		"header":                 {hs256, credentials{Header: "Bearer " + hs(t, full)}, identity{User: "u1"}},
		"header, lower case":     {hs256, credentials{Header: "bearer " + hs(t, full)}, identity{User: "u1"}},
		"query":                  {hs256, credentials{Query: hs(t, full)}, identity{User: "u1"}},
		"auth object first":      {hs256, credentials{Auth: "bad", Query: hs(t, full)}, identity{}},
		"roles":                  {hs256, auth(hs(t, with("roles", []string{"user", "admin"}))), identity{User: "u1", Admin: true}},
		"roles, one word":        {hs256, auth(hs(t, with("roles", "admin"))), identity{User: "u1", Admin: true}},
		"role":                   {hs256, auth(hs(t, with("role", "admin"))), identity{User: "u1", Admin: true}},
		"another role":           {hs256, auth(hs(t, with("roles", []string{"administrator"}))), identity{User: "u1"}},
		"roles of another shape": {hs256, auth(hs(t, with("roles", 7))), identity{}},
		"tenant":                 {hs256, auth(hs(t, with("tenant", "t1"))), identity{User: "u1", Tenant: "t1"}},
		"no expiry":              {hs256, auth(hs(t, without("exp"))), identity{User: "u1"}},
		"no token":               {hs256, credentials{}, identity{}},
		"not a bearer":           {hs256, credentials{Header: "Basic dTpw"}, identity{}},
		"garbage":                {hs256, auth("a.b.c"), identity{}},
		"expired":                {hs256, auth(hs(t, with("exp", time.Now().Add(-time.Hour).Unix()))), identity{}},
		"not yet":                {hs256, auth(hs(t, with("nbf", hour))), identity{}},
		"another issuer":         {hs256, auth(hs(t, with("iss", "you"))), identity{}},
		"no issuer":              {hs256, auth(hs(t, without("iss"))), identity{}},
		"another audience":       {hs256, auth(hs(t, with("aud", "x"))), identity{}},
		"no user":                {hs256, auth(hs(t, without("sub"))), identity{}},
		"empty user":             {hs256, auth(hs(t, with("sub", ""))), identity{}},
		"odd user":               {hs256, auth(hs(t, with("sub", "a\nb"))), identity{}},
		"long user":              {hs256, auth(hs(t, with("sub", strings.Repeat("u", 300)))), identity{}},
		"another secret":         {hs256, auth(signed(t, jwt.SigningMethodHS256, []byte("another secret of some length..."), "", full)), identity{}},
		"unsigned":               {hs256, auth(none), identity{}},
		"RS256 where HS256 is":   {hs256, auth(signed(t, jwt.SigningMethodRS256, rsaPrivate, "r1", full)), identity{}},
		"RS256":                  {jwks, auth(signed(t, jwt.SigningMethodRS256, rsaPrivate, "r1", full)), identity{User: "u1"}},
		"ES256":                  {jwks, auth(signed(t, jwt.SigningMethodES256, ecPrivate, "e1", full)), identity{User: "u1"}},
		"another key, same id":   {jwks, auth(signed(t, jwt.SigningMethodRS256, otherRSA, "r1", full)), identity{}},
		"unknown key":            {jwks, auth(signed(t, jwt.SigningMethodRS256, otherRSA, "r9", full)), identity{}},
		"public key as secret":   {jwks, auth(confused), identity{}},
		"HS256 where JWKS is":    {jwks, auth(hs(t, full)), identity{}},
		"unsigned, JWKS":         {jwks, auth(none), identity{}},
		"RSA of 1024 bits":       {jwks, auth(signed(t, jwt.SigningMethodRS256, shortRSA, "short", full)), identity{}},
		"an extension":           {hs256, auth(critical(t, full)), identity{}},
		"RS256, another issuer":  {jwks, auth(signed(t, jwt.SigningMethodRS256, rsaPrivate, "r1", with("iss", "you"))), identity{}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a, err := newAuthenticator(ctx, test.conf, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.identify(ctx, test.cred)
			got.Expires = time.Time{}
			if got != test.want {
				t.Errorf("identity %+v, want %+v (%v)", got, test.want, err)
			}
			if (err == nil) != (test.want.User != "") {
				t.Errorf("error %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "Authentication") {
				t.Errorf("clients of old don't understand %q", err)
			}
		})
	}
}

// A key that is new on the server is found without waiting for the refresh, and
// strangers with made-up key ids can't make us ask for each.
func TestKeyRotation(t *testing.T) {
	oldKey, oldPublic := rsaKey(t, "old", 2048)
	newKey, newPublic := rsaKey(t, "new", 2048)
	url, set, asked := keyServer(t, oldPublic)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, err := newAuthenticator(ctx, config.Auth{Mode: "jwt", JWKSURL: url}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	try := func(key *rsa.PrivateKey, kid string) error {
		_, err := a.identify(ctx, credentials{Auth: signed(t, jwt.SigningMethodRS256, key, kid, jwt.MapClaims{"sub": "u"})})
		return err
	}
	if err := try(oldKey, "old"); err != nil {
		t.Error("old key:", err)
	}
	set(newPublic)
	if err := try(newKey, "new"); err != nil {
		t.Error("new key:", err)
	}
	before := asked.Load()
	for i := range 50 {
		if try(oldKey, fmt.Sprint("made-up-", i)) == nil {
			t.Error("a made-up key was accepted")
		}
	}
	if n := asked.Load() - before; n > 2 {
		t.Errorf("strangers made us ask %d times", n)
	}
}

// A token whose key can't be asked for now is not judged: its holder is told to come
// again, and not to stay away.
func TestKeysThatCantBeAsked(t *testing.T) {
	key, public := rsaKey(t, "k", 2048)
	later, laterPublic := rsaKey(t, "later", 2048)
	url, set, _ := keyServer(t, public)
	var broken atomic.Bool
	broken.Store(true)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		res, err := http.Get(url)
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		_, _ = io.Copy(w, res.Body)
	}))
	defer front.Close()
	conf := testConfig()
	conf.Auth = config.Auth{Mode: "jwt", JWKSURL: front.URL}
	begin := func() func(*rsa.PrivateKey, string) string {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		a, err := newAuthenticator(ctx, conf.Auth, testLog(t))
		if err != nil {
			t.Fatal(err)
		}
		return func(key *rsa.PrivateKey, kid string) string {
			_, err := a.identify(ctx, credentials{Auth: signed(t, jwt.SigningMethodRS256, key, kid, jwt.MapClaims{"sub": "u"})})
			if err == nil {
				return ""
			}
			return asUnauthorized(err).Code
		}
	}
	try := begin()
	for _, kid := range []string{"k", "k", ""} { // asked in vain, and then not asked
		if code := try(key, kid); code != codeUnavailable {
			t.Errorf("key %q, no keys yet: %q", kid, code)
		}
	}
	addr, _ := startGateway(t, memoryRedis(t), conf)
	token := signed(t, jwt.SigningMethodRS256, key, "k", jwt.MapClaims{"sub": "u"})
	c := dial(t, addr, nil)
	c.send(`40{"token":"` + token + `"}`)
	m := c.find("refusal", func(m message) bool { return m.Kind == packetRefusal })
	if data, _ := m.field(t, "data").(map[string]any); data["code"] != codeUnavailable || data["retryAfterMs"] == nil || strings.Contains(string(m.Data), "uthentication") {
		t.Errorf("refusal %s", m.Data)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/jobs/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, %v", res.StatusCode, res.Header)
	}

	try = begin()
	broken.Store(false)
	if code := try(key, ""); code != "" { // names no key, and has them asked for all the same
		t.Errorf("no key id: %q", code)
	}
	set(public, laterPublic)
	if code := try(later, "later"); code != codeUnavailable { // they have just been asked for
		t.Errorf("a key that is new: %q", code)
	}
	try = begin()
	if code := try(later, "later"); code != "" {
		t.Errorf("a key that is known: %q", code)
	}
	if code := try(key, "none"); code != codeUnauthorized { // asked, and there is none
		t.Errorf("a key that isn't there: %q", code)
	}
}

func TestBadAuthConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		conf config.Auth
		want string
	}{
		"short secret":  {config.Auth{Mode: "hs256", Secret: config.NewSecret("short")}, "gateway.auth.secret"},
		"no secret":     {config.Auth{Mode: "hs256"}, "gateway.auth.secret"},
		"no key server": {config.Auth{Mode: "jwt"}, "gateway.auth.jwks_url"},
		"unknown mode":  {config.Auth{Mode: "ldap"}, `gateway.auth.mode: "ldap"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newAuthenticator(t.Context(), test.conf, testLog(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one about %s", err, test.want)
			}
		})
	}
}

func TestRefusesToStandOpen(t *testing.T) {
	for _, test := range []struct {
		addr, mode string
		insecure   bool
		ok         bool
	}{
		{"127.0.0.1:3210", "none", false, true},
		{"127.8.7.6:3210", "none", false, true},
		{"[::1]:3210", "none", false, true},
		{"localhost:3210", "none", false, true},
		{":3210", "none", false, false},
		{"0.0.0.0:3210", "none", false, false},
		{"[::]:3210", "none", false, false},
		{"192.0.2.1:3210", "none", false, false},
		{"0.0.0.0:3210", "none", true, true},
		{"0.0.0.0:3210", "hs256", false, true},
		{"0.0.0.0:3210", "jwt", false, true},
	} {
		at, err := net.ResolveTCPAddr("tcp", test.addr)
		if err != nil {
			t.Fatal(err)
		}
		err = checkExposure(config.Gateway{Addr: test.addr, Auth: config.Auth{Mode: test.mode, InsecurePublic: test.insecure}}, at)
		if (err == nil) != test.ok {
			t.Errorf("%+v: %v", test, err)
		}
		if err != nil {
			for _, word := range []string{"gateway.addr", test.addr, "gateway.auth.mode", "gateway.auth.insecure_public"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not name %s: %v", word, err)
				}
			}
		}
	}
	// And by Run, before anything listens.
	c := testConfig()
	c.Addr = "0.0.0.0:0"
	if err := Run(t.Context(), Options{Config: c, Redis: memoryRedis(t), Log: testLog(t)}); err == nil {
		t.Error("stood open to the network")
	}
}

func TestHandshakeRefused(t *testing.T) {
	addr, _ := startGateway(t, memoryRedis(t), hsConfig())
	for _, auth := range []string{"", "{}", `{"token":"x"}`, `{"token":7}`, `{"token":{"a":1}}`} {
		c := dial(t, addr, nil)
		c.send("40" + auth)
		m := c.find("refusal", func(m message) bool { return m.Kind == packetRefusal })
		if message, _ := m.field(t, "message").(string); !strings.Contains(message, "Authentication") {
			t.Errorf("refusal %s", m.Data)
		}
		if data, _ := m.field(t, "data").(map[string]any); data["code"] != codeUnauthorized {
			t.Errorf("refusal %s", m.Data)
		}
	}
	// The other two ways of bringing a token.
	token := hs(t, jwt.MapClaims{"sub": "u"})
	c := dial(t, addr, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	c.send("40")
	if m := c.await("connected"); m.field(t, "userId") != "u" {
		t.Errorf("connected %s", m.Data)
	}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/socket.io/?EIO=4&transport=websocket&token="+token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	_, _, _ = ws.Read(t.Context())
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("40")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := ws.Read(t.Context()); err != nil || !strings.HasPrefix(string(b), "40{") {
		t.Errorf("query token: %s %v", b, err)
	}
}

// A stranger can't fill the log with refusals.
func TestRefusalsFillNoLog(t *testing.T) {
	var lines atomic.Int64
	log := slog.New(onMessage(func(text string) {
		if text == "handshake refused" {
			lines.Add(1)
		}
	}))
	c := newCore(t.Context(), Options{Config: hsConfig(), Redis: memoryRedis(t), Log: log}, shutDoor{})
	sockets := newSocketServer(c)
	server := httptest.NewServer(newHTTPServer(c, sockets).Handler)
	defer server.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- sockets.run(ctx) }()
	const tries = 500
	client := dial(t, server.Listener.Addr().String(), nil)
	for range tries {
		client.send("40")
		client.find("refusal", func(m message) bool { return m.Kind == packetRefusal })
	}
	if n := lines.Load(); n == 0 || n > tries/2 {
		t.Errorf("%d lines for %d refusals", n, tries)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestExpiry(t *testing.T) {
	addr, _ := startGateway(t, memoryRedis(t), hsConfig())
	// The token has expired by now, and the leeway for clocks that differ ends soon.
	c := dial(t, addr, nil)
	c.send(`40{"token":"` + hs(t, jwt.MapClaims{"sub": "u", "exp": time.Now().Add(2*time.Second - leeway).Unix()}) + `"}`)
	c.await("connected")
	wantCode(t, c.await("error"), codeUnauthorized)
	c.find("goodbye", func(m message) bool { return m.Kind == packetDisconnect })
	c.closed()
}

// A foreign job id gets the same answer as one that doesn't exist, whatever is
// asked, and nothing of it is seen.
func TestForeignJobs(t *testing.T) {
	onEachRedis(t, func(t *testing.T, rdb redis.UniversalClient) {
		host := newHost(t, rdb)
		addr, _ := startGateway(t, rdb, hsConfig())
		alice, mallory := connect(t, addr, hsAuth(t, "alice")), connect(t, addr, hsAuth(t, "mallory"))
		wantOK(t, alice.ask("search:start:v1", `{"query":"secret","jobId":"hers"}`))
		a := host.begin("hers", 1)
		host.chunks(a, "secret")
		for _, event := range []string{"job:resume:v1", "task:cancel:v1", "CANCEL_TASK"} {
			foreign := mallory.ask(event, `{"jobId":"hers"}`)
			wantCode(t, foreign, codeNotFound)
			unknown := mallory.ask(event, `{"jobId":"none"}`)
			if got, want := string(foreign.Data), strings.ReplaceAll(string(unknown.Data), "none", "hers"); got != want {
				t.Errorf("%s: foreign %s, unknown %s", event, got, want)
			}
		}
		wantOK(t, mallory.ask("job:leave:v1", `{"jobId":"hers"}`))
		wantCode(t, mallory.ask("search:start:v1", `{"query":"x","jobId":"hers"}`), codeInvalidJobID)
		host.chunks(a, "more")
		host.complete(a)
		alice.await("model:complete:v1")
		mallory.barrier()
		if s := mallory.dump(); strings.Contains(s, "secret") {
			t.Errorf("mallory saw:%s", s)
		}
		equalFrames(t, alice.frames("hers"), host.log("hers", 0))
	})
}

func TestAdmin(t *testing.T) {
	rdb := memoryRedis(t)
	host := newHost(t, rdb)
	addr, _ := startGateway(t, rdb, hsConfig())
	alice := connect(t, addr, hsAuth(t, "alice"))
	admin := connect(t, addr, `{"token":"`+hs(t, jwt.MapClaims{"sub": "root", "roles": []string{"admin"}})+`"}`)
	wantOK(t, alice.ask("search:start:v1", `{"query":"x","jobId":"hers"}`))
	a := host.begin("hers", 1)
	host.chunks(a, "a")
	wantOK(t, admin.ask("job:resume:v1", `{"jobId":"hers"}`))
	wantOK(t, admin.ask("task:cancel:v1", `{"jobId":"hers"}`))
	if err := a.Finish(context.Background(), &job.Cancelled{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{alice, admin} {
		c.await("task:cancelled")
		equalFrames(t, c.frames("hers"), host.log("hers", 0))
	}
}
