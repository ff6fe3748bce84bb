package egress

import (
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
	"golang.org/x/net/http/httpguts"
)

const (
	maxHeaders     = 64
	maxHeaderBytes = 32 << 10
)

var methods = map[string]bool{"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true}

// forbidden are request headers that say where a message goes or where it
// ends. Only the host decides on those.
var forbidden = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Keep-Alive": true,
	"Te": true, "Trailer": true, "Upgrade": true, "Expect": true, "Http2-Settings": true, "Forwarded": true,
}

// hopByHop are response headers that mean something to the connection only.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade", "Content-Length", "Content-Encoding", "Alt-Svc", ErrorHeader,
}

// secretOpen begins the place of a secret in a header value; a brace ends it.
const secretOpen = "${secret:"

// requestHeader checks a plugin's header fields and puts the secrets in.
func (g *Gate) requestHeader(r *Request, u *url.URL, origin manifest.Origin, k *keys) (http.Header, error) {
	out := http.Header{}
	size := 0
	for name, values := range r.Header {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, fmt.Sprintf("header name %q is malformed", clip(name)))
		case canonical == "Accept-Encoding":
			continue // the host decodes, so the host asks
		case forbidden[canonical] || strings.HasPrefix(canonical, "Proxy-") || strings.HasPrefix(canonical, "Sluice-"):
			return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, "header "+canonical+" is the host's to set")
		case out[canonical] != nil:
			return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, "header "+canonical+" is given twice")
		}
		for _, given := range values {
			v, send, err := g.substitute(r, u, origin, canonical, given, k)
			if err != nil {
				return nil, err
			}
			size += len(name) + max(len(v), len(given)) // as it is sent, a secret for every place of one
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, "the value of header "+canonical+" is malformed")
			}
			if send {
				out[canonical] = append(out[canonical], v)
			}
		}
		if len(out) > maxHeaders || size > maxHeaderBytes {
			return nil, g.refuse(r, u, sdk.Denied, sdk.Plugin, "there are more than 64 headers or 32 KiB of them")
		}
	}
	if out["User-Agent"] == nil {
		out["User-Agent"] = []string{"sluice"}
	}
	return out, nil
}

// substitute replaces ${secret:NAME}. It says not to send the header when an
// optional secret has no value.
func (g *Gate) substitute(r *Request, u *url.URL, origin manifest.Origin, header, v string, k *keys) (string, bool, error) {
	if !strings.Contains(v, secretOpen) {
		return v, true, nil
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(v, secretOpen)
		b.WriteString(before)
		if !ok {
			return b.String(), true, nil
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			return "", false, g.refuse(r, u, sdk.Denied, sdk.Plugin, "header "+header+" holds an unfinished ${secret:")
		}
		s, known := k.byName[name]
		if !known {
			return "", false, g.refuse(r, u, sdk.Denied, sdk.Plugin, fmt.Sprintf("secret %q is not in its manifest", clip(name)))
		}
		if s.header != header || !covered(s.origins, origin) {
			return "", false, g.refuse(r, u, sdk.Denied, sdk.Plugin, fmt.Sprintf("secret %s is not bound to header %s at %s", name, header, origin))
		}
		if s.value == "" {
			return "", false, nil
		}
		b.WriteString(s.value)
		v = after
	}
}

func (g *Gate) responseHeader(h http.Header) http.Header {
	out := make(http.Header, len(h))
	drop := map[string]bool{}
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			drop[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	for _, name := range hopByHop {
		drop[name] = true
	}
	redact := g.redactor()
	for name, values := range h {
		if drop[name] {
			continue
		}
		for _, v := range values {
			out.Add(redact.text(name), redact.text(v))
		}
	}
	return out
}
