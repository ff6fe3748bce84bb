//go:build !wasip1

package sdk

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/proto/provider"
)

// Outgoing requests take the host's egress gate when there is one, and the plain way when the
// provider runs outside a host, in tests or by hand.

// maxHead bounds the head of a response.
const maxHead = 64 << 10

func newTransport(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: maxHead,
		DisableCompression:     true, // compressed streams are held back by some servers
	}
}

var direct = sync.OnceValue(func() *http.Transport {
	t := newTransport((&net.Dialer{Timeout: 30 * time.Second}).DialContext)
	t.Proxy = http.ProxyFromEnvironment
	t.TLSHandshakeTimeout = 30 * time.Second
	t.ForceAttemptHTTP2 = true
	return t
})

// gate is the way through the socket that the environment named at start.
var gate = sync.OnceValue(func() *http.Transport {
	socket := os.Getenv(provider.EnvEgress)
	if socket == "" {
		return nil
	}
	return newTransport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
})

func send(ctx context.Context, req HTTPRequest) (*HTTPResponse, error) {
	if t := gate(); t != nil {
		return sendGate(ctx, t, req)
	}
	return sendDirect(ctx, direct(), req)
}

func newRequest(ctx context.Context, req HTTPRequest) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, req.Method, req.URL, bytes.NewReader(req.Body))
	if err == nil && (r.URL.Scheme != "http" && r.URL.Scheme != "https" || r.URL.Host == "") {
		err = errors.New("not an absolute http or https URL")
	}
	if err != nil {
		return nil, &Error{Kind: Internal, Fault: Plugin, Message: "http request: " + err.Error(), Err: err}
	}
	for name, value := range req.Header {
		if strings.EqualFold(name, "host") {
			continue // it follows from the URL
		}
		r.Header.Set(name, value)
	}
	return r, nil
}

// sendGate sends the absolute URL as request target: the gate resolves, checks, fills in
// secrets and speaks TLS.
func sendGate(ctx context.Context, t *http.Transport, req HTTPRequest) (*HTTPResponse, error) {
	r, err := newRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	target := *r.URL
	target.Fragment, target.RawFragment = "", ""
	r.URL = &url.URL{Scheme: "http", Host: "egress", Opaque: target.String()}
	r.Host = target.Host
	resp, err := t.RoundTrip(r)
	if err != nil {
		return nil, sendError(ctx, Host, "egress gate", err)
	}
	if text := resp.Header.Get(provider.HeaderError); text != "" {
		resp.Body.Close()
		e := new(Error)
		b, err := base64.StdEncoding.DecodeString(text)
		if err == nil {
			err = e.UnmarshalBinary(b)
		}
		if err != nil {
			return nil, &Error{Kind: Internal, Fault: Host, Message: "egress gate: unreadable error: " + err.Error()}
		}
		return nil, e
	}
	return response(ctx, resp), nil
}

func sendDirect(ctx context.Context, t *http.Transport, req HTTPRequest) (*HTTPResponse, error) {
	head := make(Header, len(req.Header))
	for name, value := range req.Header {
		filled, err := fillSecrets(value, os.LookupEnv)
		if err != nil {
			return nil, err
		}
		head[name] = filled
	}
	req.Header = head
	r, err := newRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(r)
	if err != nil {
		return nil, sendError(ctx, Upstream, "upstream", err)
	}
	return response(ctx, resp), nil
}

// fillSecrets replaces every ${secret:NAME}.
func fillSecrets(value string, lookup func(string) (string, bool)) (string, error) {
	const open = "${secret:"
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(value, open)
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		secret, ok := lookup(name)
		if !closed || !ok {
			return "", &Error{Kind: Denied, Fault: Host, Message: "no secret " + name + ": outside a host, secrets are environment variables"}
		}
		b.WriteString(secret)
		value = after
	}
}

func sendError(ctx context.Context, fault Fault, what string, err error) *Error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return &Error{Kind: Unavailable, Fault: fault, Message: what + ": " + err.Error(), Err: err}
}

// contextError keeps the cause, which may be an *Error of the host.
func contextError(ctx context.Context) *Error {
	return AsError(context.Cause(ctx))
}

func response(ctx context.Context, resp *http.Response) *HTTPResponse {
	head := make(Header, len(resp.Header))
	for name, values := range resp.Header {
		head[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return &HTTPResponse{Status: resp.StatusCode, Header: head, Body: &upstreamBody{ReadCloser: resp.Body, ctx: ctx}}
}

// upstreamBody gives read errors their kind.
type upstreamBody struct {
	io.ReadCloser
	ctx    context.Context
	closed atomic.Bool
}

func (b *upstreamBody) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

func (b *upstreamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil || err == io.EOF:
	case b.ctx.Err() != nil:
		err = contextError(b.ctx)
	case b.closed.Load():
		err = errBodyClosed
	default:
		err = &Error{Kind: Truncated, Fault: Upstream, Message: "response broke off: " + err.Error(), Err: err}
	}
	return n, err
}
