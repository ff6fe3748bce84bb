package egress

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

var errBodyLimit = errors.New("request body over its limit")

// boundedBody fails a request whose body is larger than allowed.
type boundedBody struct {
	r    io.Reader
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errBodyLimit
	}
	return n, err
}

// decodeBody undoes gzip, which some services send without being asked. What
// can't be decoded can't be searched for secrets, so it isn't let through.
func decodeBody(resp *http.Response) (io.Reader, error) {
	switch enc := strings.ToLower(strings.TrimSpace(strings.Join(resp.Header.Values("Content-Encoding"), ", "))); enc {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		return &gzipReader{src: resp.Body}, nil
	default:
		return nil, &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Status: resp.StatusCode,
			Message: fmt.Sprintf("upstream: answered in content encoding %q, which was not asked for", clip(enc))}
	}
}

// gzipReader starts to read only when it is read, so that the head of a
// response doesn't wait for its body.
type gzipReader struct {
	src io.Reader
	z   *gzip.Reader
}

func (g *gzipReader) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, err
		}
		g.z = z
	}
	return g.z.Read(p)
}

// bodyReader gives errors their kinds and the body its limit.
type bodyReader struct {
	ctx    context.Context
	src    io.Reader
	closer io.Closer
	left   int64
	limit  int64
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, &sdk.Error{Kind: sdk.Internal, Fault: sdk.Upstream, Message: fmt.Sprintf("upstream: the response is larger than %d bytes", b.limit)}
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	if n > 0 {
		return n, nil // the error comes again
	}
	if e := contextError(b.ctx); e != nil {
		return 0, e
	}
	return 0, &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream, Message: "upstream: the response broke off", Err: err}
}

func (b *bodyReader) Close() error { return b.closer.Close() }
