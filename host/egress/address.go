package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// privateError is the refusal of an address.
type privateError struct {
	host string
	addr netip.Addr
}

func (e *privateError) Error() string {
	return fmt.Sprintf("%s is at %s, which is not a public address; the operator can allow the name under allow_private", e.host, e.addr)
}

// special lists ranges that are not public, beyond those netip knows.
// https://www.iana.org/assignments/iana-ipv4-special-registry
// https://www.iana.org/assignments/iana-ipv6-special-registry
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
)

// embedding lists IPv6 ranges that carry an IPv4 address, and where.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// public reports whether an address is a host on the internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || a.IsPrivate() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() ||
		a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	for _, e := range embedding {
		if e.prefix.Contains(a) {
			b := a.As16()
			return public(netip.AddrFrom4([4]byte(b[e.at : e.at+4])))
		}
	}
	return true
}

// permitted decides on the address that is about to be dialled for host:port.
// Link-local addresses, where clouds keep their credentials, need the address
// itself on the operator's list: a name that turns out to live there isn't
// enough.
func (g *Gate) permitted(host, port string, a netip.Addr) bool {
	a = a.Unmap()
	if public(a) {
		return true
	}
	if a.IsUnspecified() || a.IsMulticast() {
		return false
	}
	if a.IsLinkLocalUnicast() && host != a.String() {
		return false
	}
	return g.private[host] || g.private[net.JoinHostPort(host, port)]
}

// dial resolves, checks each address, and checks again what the socket is
// really about to connect to. A name is resolved once per connection, so there
// is nothing between check and use for it to change in.
func (g *Gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := g.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Control: func(_, raw string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(raw)
		if err != nil {
			return err
		}
		if !g.permitted(host, port, ap.Addr()) {
			return &privateError{host, ap.Addr()}
		}
		return nil
	}}
	return race(ctx, addrs, func(ctx context.Context, a netip.Addr) (net.Conn, error) {
		if !g.permitted(host, port, a) {
			return nil, &privateError{host, a.Unmap()}
		}
		return d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
	})
}

// headStart is how long an address is tried before the next one is tried beside it.
const headStart = 300 * time.Millisecond

// race connects to the first address that answers. One that swallows packets, as
// IPv6 does on many a machine, must not use up the time of the others.
func race(ctx context.Context, addrs []netip.Addr, connect func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	started, ended := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for {
		select {
		case <-next.C:
			if started == len(addrs) {
				continue
			}
			a := addrs[started]
			started++
			go func() {
				conn, err := connect(ctx, a)
				results <- result{conn, err}
			}()
			next.Reset(headStart)
			continue
		case r := <-results:
			ended++
			if r.err == nil {
				cancel()
				for ; ended < started; ended++ {
					if late := <-results; late.err == nil {
						late.conn.Close()
					}
				}
				return r.conn, nil
			}
			errs = append(errs, r.err)
		}
		if ended == len(addrs) {
			return nil, errors.Join(errs...)
		}
		next.Reset(0)
	}
}

func (g *Gate) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := g.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("look up %s: no address", host)
	}
	return addrs, nil
}
