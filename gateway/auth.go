package gateway

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/proto/job"
)

// leeway is how far the clock of whoever signs tokens may be off.
const leeway = 30 * time.Second

// anonymous is everybody's user id when nobody has to sign in.
const anonymous = "anonymous"

// identity is who stands behind a socket, and what that user may do. User and
// tenant are fixed for the socket's life.
type identity struct {
	User   string
	Tenant string
	// Admin may watch, resume and cancel all jobs: of the tenant, or without a
	// tenant of everybody.
	Admin bool
	// Monitor may read the metrics; an admin without a tenant may, too.
	Monitor bool
	Limits  grant
	// Expires ends the session; zero is never.
	Expires time.Time
	// Key is the API key that was shown, zero for none.
	Key fingerprint
}

// owner names the user for whoever compares.
func (i identity) owner() string { return job.Owner(i.Tenant, i.User) }

// take gives a role.
func (i *identity) take(role string) {
	switch role {
	case "admin":
		i.Admin = true
	case "metrics":
		i.Monitor = true
	}
}

// may reports whether a job is this user's business.
func (i identity) may(st job.Status) bool {
	return st.Owner() == i.owner() || i.Admin && (i.Tenant == "" || i.Tenant == st.Tenant)
}

// credentials are the places of a handshake where a token may be, in the order
// in which they are looked at.
type credentials struct {
	Auth   string // token of the client's auth object
	Header string // Authorization: Bearer …
	Query  string // token=…
}

func (c credentials) token() string {
	if c.Auth != "" {
		return strings.TrimPrefix(c.Auth, "Bearer ")
	}
	if scheme, token, ok := strings.Cut(c.Header, " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return c.Query
}

// authenticator tells who holds a token. A *refused says that it can't be told now.
type authenticator interface {
	identify(ctx context.Context, c credentials) (identity, error)
}

// newAuthenticator builds what the configuration asks for. Keys of a JWKS are
// fetched now and refreshed until ctx ends; an endpoint that doesn't answer now
// is logged, and refuses every token until it does.
func newAuthenticator(ctx context.Context, c config.Auth, log *slog.Logger) (authenticator, error) {
	options := []jwt.ParserOption{jwt.WithLeeway(leeway)}
	if c.Issuer != "" {
		options = append(options, jwt.WithIssuer(c.Issuer))
	}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	switch c.Mode {
	case "", "none":
		return openDoor{}, nil
	case "keys":
		return shutDoor{}, nil
	case "hs256":
		secret := []byte(c.Secret.Reveal())
		if len(secret) < 32 {
			return nil, errors.New("gateway.auth.secret: shorter than 32 bytes: set a longer one, such as the output of `openssl rand -hex 32`")
		}
		options = append(options, jwt.WithValidMethods([]string{"HS256"}))
		return tokenDoor{parser: jwt.NewParser(options...), key: func(context.Context) jwt.Keyfunc {
			return func(*jwt.Token) (any, error) { return secret, nil }
		}}, nil
	case "jwt":
		if c.JWKSURL == "" {
			return nil, errors.New("gateway.auth.jwks_url: empty: gateway.auth.mode jwt needs the address of a JWKS")
		}
		keys, err := fetchKeys(ctx, c.JWKSURL, log)
		if err != nil {
			return nil, fmt.Errorf("gateway.auth.jwks_url: %q: %w", c.JWKSURL, err)
		}
		// Only asymmetric methods: a public key must never be taken for an
		// HMAC secret.
		options = append(options, jwt.WithValidMethods([]string{"RS256", "ES256", "EdDSA"}))
		return tokenDoor{parser: jwt.NewParser(options...), key: keys.of}, nil
	}
	return nil, fmt.Errorf("gateway.auth.mode: %q is unknown: use none, keys, hs256 or jwt", c.Mode)
}

// openDoor lets everybody in as the same user.
type openDoor struct{}

func (openDoor) identify(context.Context, credentials) (identity, error) {
	return identity{User: anonymous}, nil
}

// tokenDoor lets in who holds a valid JSON Web Token (RFC 7519).
type tokenDoor struct {
	parser *jwt.Parser
	key    func(context.Context) jwt.Keyfunc
}

// claims are what a token says. Roles may be written as a list or as one word.
type claims struct {
	jwt.RegisteredClaims
	Tenant string   `json:"tenant"`
	Roles  wordList `json:"roles"`
	Role   string   `json:"role"`
	Limits struct {
		Connections *uint16 `json:"connections"`
		Starts      *uint16 `json:"starts_per_minute"`
		Jobs        *uint16 `json:"jobs"`
	} `json:"limits"`
}

type wordList []string

func (w *wordList) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*w = strings.Fields(one)
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// errAuth marks a refused handshake. Its text goes to the client; clients of
// old look for the word "Authentication" in it.
type errAuth struct{ reason string }

func (e errAuth) Error() string { return "Authentication failed: " + e.reason }

// leastRSA is how many bits an RSA key has at least, as RFC 7518, section 3.3 demands.
const leastRSA = 2048

// sound refuses what the library lets through: a token that says that it can't be
// understood without an extension (RFC 7515, section 4.1.11: we have none), and an
// RSA key that is too short to prove anything.
func sound(key jwt.Keyfunc) jwt.Keyfunc {
	return func(token *jwt.Token) (any, error) {
		if _, critical := token.Header["crit"]; critical {
			return nil, errors.New("its header crit asks for an extension")
		}
		k, err := key(token)
		if public, ok := k.(*rsa.PublicKey); ok && public.N.BitLen() < leastRSA {
			return nil, fmt.Errorf("its key has %d bits, and %d are the least", public.N.BitLen(), leastRSA)
		}
		return k, err
	}
}

const noToken = "no token: send one as auth.token, as a bearer in the Authorization header or as the query parameter token"

func (d tokenDoor) identify(ctx context.Context, c credentials) (identity, error) {
	token := c.token()
	if token == "" {
		return identity{}, errAuth{noToken}
	}
	var said claims
	if _, err := d.parser.ParseWithClaims(token, &said, sound(d.key(ctx))); errors.Is(err, errNoKeys) {
		return identity{}, refuse(codeUnavailable, "the keys that tokens are signed with can't be asked for now: try again").after(keysPause)
	} else if err != nil {
		return identity{}, errAuth{refusal(err)}
	}
	if err := checkNames(said.Subject, said.Tenant); err != nil {
		return identity{}, errAuth{"claims sub and tenant: " + err.Error()}
	}
	id := identity{User: said.Subject, Tenant: said.Tenant}
	for _, role := range append(said.Roles, said.Role) {
		id.take(role)
	}
	for _, limit := range []struct {
		said *uint16
		own  *int
	}{
		{said.Limits.Connections, &id.Limits.Connections},
		{said.Limits.Starts, &id.Limits.Starts},
		{said.Limits.Jobs, &id.Limits.Jobs},
	} {
		if limit.said != nil {
			*limit.own = own(int(*limit.said))
		}
	}
	if said.ExpiresAt != nil {
		id.Expires = said.ExpiresAt.Add(leeway)
	}
	return id, nil
}

// asUnauthorized is what the client is told when it could not be identified. One
// that nobody could judge is told to come again: the others stay away.
func asUnauthorized(err error) *refused {
	if r, ok := errors.AsType[*refused](err); ok {
		return r
	}
	return refuse(codeUnauthorized, "%v", err)
}

// refusal says why a token was refused, without what only an attacker wants.
func refusal(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenExpired, "the token has expired"},
		{jwt.ErrTokenNotValidYet, "the token is not valid yet"},
		{jwt.ErrTokenInvalidIssuer, "the token is from another issuer"},
		{jwt.ErrTokenInvalidAudience, "the token is for another audience"},
		{jwt.ErrTokenMalformed, "this is not a token"},
		{jwt.ErrTokenUnverifiable, "the token is signed with an unknown key"},
		{jwt.ErrTokenSignatureInvalid, "the signature does not match"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "the token is not valid"
}

func checkNames(user, tenant string) error {
	if user == "" {
		return errors.New("no user is named")
	}
	for _, name := range []string{user, tenant} {
		if len(name) > 256 {
			return errors.New("a name is longer than 256 bytes")
		}
		if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			return errors.New("a name has control characters")
		}
	}
	return nil
}

// checkExposure refuses to open an unguarded gateway to the network. It judges
// the resolved address, which is then the one listened on.
func checkExposure(c config.Gateway, at *net.TCPAddr) error {
	if (c.Auth.Mode != "none" && c.Auth.Mode != "") || c.Auth.InsecurePublic {
		return nil
	}
	if at.IP.IsLoopback() {
		return nil
	}
	return fmt.Errorf("gateway.addr: %q can be reached from other machines, and gateway.auth.mode is none: "+
		"set gateway.auth.mode to keys, hs256 or jwt, or listen on 127.0.0.1, or set gateway.auth.insecure_public to let everybody in", c.Addr)
}
