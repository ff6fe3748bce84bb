package manifest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Origin is a scheme, a host and a port; Wild origins stand for every host
// below Host and not for Host itself. Two origins are the same when they are
// equal as values.
type Origin struct {
	Scheme string // http or https
	Host   string // lower case, no brackets, no trailing dot
	Port   string // always given
	Wild   bool
}

// ParseOrigin reads scheme://host[:port], where host may start with "*.".
func ParseOrigin(s string) (Origin, error) {
	rest, wild := s, false
	if scheme, host, ok := strings.Cut(s, "://*."); ok {
		rest, wild = scheme+"://"+host, true
	}
	u, err := url.Parse(rest)
	if err != nil {
		return Origin{}, errors.New("is not a URL")
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
		return Origin{}, errors.New("is more than an origin")
	}
	o, err := originOf(u)
	if err != nil {
		return Origin{}, err
	}
	if wild {
		if _, err := netip.ParseAddr(o.Host); err == nil || !strings.Contains(o.Host, ".") {
			return Origin{}, errors.New("is a wildcard over an address or a whole top-level domain")
		}
	}
	o.Wild = wild
	return o, nil
}

// OriginOf is the origin of an absolute URL.
func OriginOf(rawURL string) (Origin, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return Origin{}, errors.New("is not a URL")
	}
	return originOf(u)
}

func originOf(u *url.URL) (Origin, error) {
	scheme := strings.ToLower(u.Scheme)
	if scheme != "http" && scheme != "https" {
		return Origin{}, errors.New("has a scheme other than http and https")
	}
	if u.User != nil {
		return Origin{}, errors.New("carries a user name or password")
	}
	host, err := cleanHost(u.Hostname())
	if err != nil {
		return Origin{}, err
	}
	port := u.Port()
	switch {
	case port != "":
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Origin{}, errors.New("has a bad port")
		}
		port = strconv.FormatUint(n, 10)
	case strings.HasSuffix(u.Host, ":"):
		return Origin{}, errors.New("has an empty port")
	case scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return Origin{Scheme: scheme, Host: host, Port: port}, nil
}

// cleanHost wants an address, or a plain ASCII host name: what can be written
// in two ways (case, a final dot, other scripts, 0x7f000001) is either brought
// to one form or refused, so that a comparison of strings decides.
func cleanHost(h string) (string, error) {
	if h == "" {
		return "", errors.New("has no host")
	}
	if a, err := netip.ParseAddr(h); err == nil {
		if a.Zone() != "" {
			return "", errors.New("has an address with a zone")
		}
		return a.Unmap().String(), nil
	}
	h = strings.TrimSuffix(strings.ToLower(h), ".")
	if h == "" || len(h) > 253 {
		return "", errors.New("has a host name that is too long or empty")
	}
	labels := strings.Split(h, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return "", fmt.Errorf("has a malformed host name %q", h)
		}
		for _, c := range []byte(l) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return "", fmt.Errorf("has a host name with characters other than a-z, 0-9 and '-'")
			}
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "", errors.New("has an address in a form that isn't dotted decimal")
	}
	return h, nil
}

// Covers reports whether other is o, or lies within the wildcard o.
func (o Origin) Covers(other Origin) bool {
	if o.Scheme != other.Scheme || o.Port != other.Port {
		return false
	}
	if !o.Wild {
		return !other.Wild && o.Host == other.Host
	}
	if other.Wild && other.Host == o.Host {
		return true
	}
	return strings.HasSuffix(other.Host, "."+o.Host)
}

func within(list []Origin, o Origin) bool {
	for _, have := range list {
		if have.Covers(o) {
			return true
		}
	}
	return false
}

// Address is host:port, as dialled.
func (o Origin) Address() string { return net.JoinHostPort(o.Host, o.Port) }

// String gives the origin back, without the port where it is the scheme's own.
func (o Origin) String() string {
	host := o.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if o.Wild {
		host = "*." + host
	}
	if o.Scheme == "https" && o.Port == "443" || o.Scheme == "http" && o.Port == "80" {
		return o.Scheme + "://" + host
	}
	return o.Scheme + "://" + host + ":" + o.Port
}
