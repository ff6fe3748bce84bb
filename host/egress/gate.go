// Package egress is the door through which plugins reach the network, the same
// for both runtimes: an allow-list of origins checked down to the address
// really dialled, header rules, and credentials that the host puts in on the
// way out and takes out of what comes back.
package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
	"golang.org/x/time/rate"
)

const (
	maxURL        = 8 << 10
	maxHeadBytes  = 64 << 10 // of a response's head
	dialTimeout   = 10 * time.Second
	idleTimeout   = 90 * time.Second
	idlePerOrigin = 256
	idleInAll     = 512 // a wildcard stands for as many origins as its owner likes
)

// Resolver finds the addresses of a host; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are what a Gate needs besides the manifest. Only Log is required.
type Options struct {
	Log *slog.Logger
	// Audit is told of every refusal, from the refused request's goroutine.
	// The log is told too, but at a bounded rate.
	Audit     func(Refusal)
	LookupEnv func(string) (string, bool) // for env: references; os.LookupEnv when nil
	Resolver  Resolver                    // net.DefaultResolver when nil
	TLS       *tls.Config                 // authorities to trust, when not the system's
}

// Refusal is the audit record of a request that did not go out.
type Refusal struct {
	Plugin string
	Method string
	Target string // scheme, host, port and path; never the query
	Reason string
}

// Gate is one plugin's way out. It is safe for concurrent use; connections are
// reused across the plugin's jobs and shared with no other plugin.
type Gate struct {
	plugin    string
	log       *slog.Logger
	audit     func(Refusal)
	allow     []manifest.Origin
	private   map[string]bool
	limits    manifest.Limits
	vault     *vault
	resolver  Resolver
	transport *http.Transport
	logRate   *rate.Limiter
	refused   atomic.Int64
}

// Request is an HTTP request as a plugin wants it sent. Header values may hold
// ${secret:NAME}.
type Request struct {
	Method string
	URL    string
	Header http.Header
	Body   io.Reader // nil for none; closed by nobody
	Length int64     // of Body; -1 when not known
}

// Response is the answer. Body streams; close it, on every path.
type Response struct {
	Status int
	Header http.Header
	Body   io.ReadCloser
}

// New makes the gate of a plugin from its manifest, narrowed by the operator.
// A secret that isn't optional and has no value is an error which says where
// it was looked for.
func New(m *manifest.Manifest, o Options) (*Gate, error) {
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Audit == nil {
		o.Audit = func(Refusal) {}
	}
	log := o.Log.With("provider", m.Name)
	vault, err := newVault(m.Secrets, o.LookupEnv, log)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	g := &Gate{
		plugin: m.Name, log: log, audit: o.Audit, allow: m.Egress, limits: m.Limits,
		private: map[string]bool{}, vault: vault, resolver: o.Resolver,
		logRate: rate.NewLimiter(1, 20),
	}
	for _, name := range m.AllowPrivate {
		g.private[strings.ToLower(strings.TrimSuffix(name, "."))] = true
	}
	g.transport = &http.Transport{
		Proxy:                  nil, // a proxy would dial for us, past the check
		DialContext:            g.dial,
		TLSClientConfig:        o.TLS.Clone(),
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    dialTimeout,
		MaxIdleConns:           idleInAll,
		MaxIdleConnsPerHost:    idlePerOrigin,
		IdleConnTimeout:        idleTimeout,
		DisableCompression:     true, // a stream is passed on as it comes
		MaxResponseHeaderBytes: maxHeadBytes,
	}
	return g, nil
}

// Close drops the idle connections. Requests under way go on.
func (g *Gate) Close() { g.transport.CloseIdleConnections() }

// Refused counts the requests that were refused.
func (g *Gate) Refused() int64 { return g.refused.Load() }

// Do sends a request and returns when the head of the response is there. Every
// error is an *sdk.Error, and so is every error of reading the body but io.EOF.
// Redirects are not followed: the plugin sees the status and may ask again,
// through the gate. Cancelling ctx closes the upstream connection, or resets
// its stream, at any time up to the end of the body.
func (g *Gate) Do(ctx context.Context, r *Request) (*Response, error) {
	k := g.vault.keys()
	again := *r
	replays := r.Body == nil
	if body, ok := r.Body.(*bytes.Reader); ok {
		start := *body // r.Body may be read from until long after the response
		again.Body, replays = &start, true
	}
	resp, err := g.send(ctx, r, k)
	if err != nil {
		return nil, err
	}
	if refuses(resp.StatusCode) && g.usesSecret(r) {
		// The credentials may have been changed meanwhile. A request that can be
		// sent once more is, so that nobody notices.
		if fresh, changed := g.vault.refused(k); changed && replays {
			resp.Body.Close()
			if resp, err = g.send(ctx, &again, fresh); err != nil {
				return nil, err
			}
		}
	}
	body, err := decodeBody(resp)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	origin, err := manifest.OriginOf(r.URL)
	if err != nil {
		resp.Body.Close()
		return nil, g.refuse(r, nil, sdk.Denied, sdk.Plugin, "the URL "+err.Error())
	}
	return &Response{
		Status: resp.StatusCode,
		Header: g.responseHeader(resp.Header),
		Body: &bodyReader{
			ctx: ctx, closer: resp.Body, left: g.limits.ResponseBody, limit: g.limits.ResponseBody,
			src: g.redactor().reader(body, origin),
		},
	}, nil
}

// send makes one try, with the secrets given.
func (g *Gate) send(ctx context.Context, r *Request, k *keys) (*http.Response, error) {
	req, err := g.request(ctx, r, k)
	if err != nil {
		return nil, err
	}
	resp, err := g.transport.RoundTrip(req)
	if err != nil {
		return nil, g.failure(ctx, r, err)
	}
	// Of a connection that was switched to another protocol the transport takes no more care: nothing
	// would end it with ctx.
	if resp.StatusCode < http.StatusOK {
		resp.Body.Close()
		return nil, &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Status: resp.StatusCode,
			Message: fmt.Sprintf("upstream: answered with status %d, which was not asked for", resp.StatusCode)}
	}
	return resp, nil
}

// refuses tells the statuses that speak of credentials.
func refuses(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// usesSecret reports whether a request names a secret.
func (g *Gate) usesSecret(r *Request) bool {
	for _, values := range r.Header {
		for _, v := range values {
			if strings.Contains(v, secretOpen) {
				return true
			}
		}
	}
	return false
}

// redactor takes out the secrets in force, and those before them.
func (g *Gate) redactor() *redactor { return g.vault.current.Load().redact }

// request checks everything that can be checked before dialling.
func (g *Gate) request(ctx context.Context, r *Request, k *keys) (*http.Request, error) {
	if len(r.URL) > maxURL {
		return nil, g.refuse(r, nil, sdk.Invalid, sdk.Plugin, "the URL is longer than 8 KiB")
	}
	if !methods[r.Method] {
		return nil, g.refuse(r, nil, sdk.Denied, sdk.Plugin, fmt.Sprintf("method %q is not allowed", clip(r.Method)))
	}
	u, err := url.Parse(r.URL)
	if err != nil || u.Opaque != "" {
		return nil, g.refuse(r, nil, sdk.Invalid, sdk.Plugin, "the URL is malformed")
	}
	origin, err := manifest.OriginOf(r.URL)
	if err != nil {
		return nil, g.refuse(r, nil, sdk.Denied, sdk.Plugin, "the URL "+err.Error())
	}
	if !covered(g.allow, origin) {
		return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, origin.String()+" is not among the origins of its manifest")
	}
	header, err := g.requestHeader(r, u, origin, k)
	if err != nil {
		return nil, err
	}
	if r.Length > g.limits.RequestBody {
		return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, fmt.Sprintf("the request body is larger than %d bytes", g.limits.RequestBody))
	}
	// From here on host and port are those that were checked, in the form they
	// were checked in.
	u.Scheme, u.Host, u.Fragment, u.RawFragment = origin.Scheme, strings.TrimPrefix(origin.String(), origin.Scheme+"://"), "", ""
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), nil)
	if err != nil {
		return nil, g.refuse(r, u, sdk.Invalid, sdk.Plugin, "the request is malformed")
	}
	req.Header = header
	if r.Body != nil && r.Length != 0 {
		req.Body = io.NopCloser(&boundedBody{r: r.Body, left: g.limits.RequestBody})
		req.ContentLength = r.Length
		if b, ok := r.Body.(*bytes.Reader); ok {
			// Lets the transport try again on a fresh connection when a kept one
			// turns out to be closed before anything was written to it.
			start := *b
			req.GetBody = func() (io.ReadCloser, error) {
				again := start
				return io.NopCloser(&again), nil
			}
		}
	}
	return req, nil
}

func covered(list []manifest.Origin, o manifest.Origin) bool {
	for _, have := range list {
		if have.Covers(o) {
			return true
		}
	}
	return false
}

// refuse records a refusal and makes its error.
func (g *Gate) refuse(r *Request, u *url.URL, kind sdk.Kind, fault sdk.Fault, reason string) error {
	g.refused.Add(1)
	ref := Refusal{Plugin: g.plugin, Method: clip(r.Method), Reason: g.redactor().text(reason)}
	if u != nil {
		ref.Target = g.redactor().text(clip(u.Scheme + "://" + u.Host + u.EscapedPath()))
	}
	g.audit(ref)
	if g.logRate.Allow() {
		g.log.Warn("egress refused", "method", ref.Method, "target", ref.Target, "reason", ref.Reason, "refused", g.refused.Load())
	}
	return &sdk.Error{Kind: kind, Fault: fault, Message: "egress refused: " + ref.Reason, Code: "egress_refused"}
}

// failure turns what went wrong on the way into an *sdk.Error.
func (g *Gate) failure(ctx context.Context, r *Request, err error) error {
	var private *privateError
	switch {
	case errors.As(err, &private):
		u, _ := url.Parse(r.URL)
		return g.refuse(r, u, sdk.Denied, sdk.Host, private.Error())
	case errors.Is(err, errBodyLimit):
		u, _ := url.Parse(r.URL)
		return g.refuse(r, u, sdk.Denied, sdk.Plugin, fmt.Sprintf("the request body is larger than %d bytes", g.limits.RequestBody))
	}
	if e := contextError(ctx); e != nil {
		return e
	}
	return &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: "upstream: " + clip(g.redactor().text(err.Error()))}
}

func contextError(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: "upstream: no answer within the time limit", Err: err}
	default:
		return &sdk.Error{Kind: sdk.Cancelled, Fault: sdk.Caller, Message: "cancelled", Err: err}
	}
}

// clip bounds text that comes from a plugin before it goes into a log line or
// an error.
func clip(s string) string {
	const limit = 300
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
