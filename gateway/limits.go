package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/gateway/engine"
	"github.com/sluicehq/sluice/proto/job"
)

// When somebody who was refused should try again, where nothing better is known.
const (
	comeBack   = 2 * time.Second // to a gateway that is stopping or full
	jobsWait   = 2 * time.Second // for a job to end
	socketWait = 5 * time.Second // for a socket to be closed
)

// grant is what one user may do where it differs from the configuration: 0 is
// the configuration's word, -1 no limit.
type grant struct {
	Connections int
	Starts      int // per minute
	Jobs        int // that have not ended
}

// or returns what holds: 0 is no limit.
func (g grant) or(c config.GatewayLimits) grant {
	pick := func(own, configured int) int {
		switch {
		case own < 0:
			return 0
		case own > 0:
			return own
		}
		return configured
	}
	return grant{
		Connections: pick(g.Connections, c.ConnectionsPerUser),
		Starts:      pick(g.Starts, c.StartsPerMinute),
		Jobs:        pick(g.Jobs, c.JobsPerUser),
	}
}

func tooManySockets(max int) *refused {
	return refuse(codeTooManySockets, "you have %d connections open already: close one first", max).after(socketWait)
}

// admission judges connections by their address before anything else is done for
// them. Safe for concurrent use.
type admission struct {
	max     int // of one address
	proxies []netip.Prefix
	metrics *metrics

	mu     sync.Mutex
	open   map[netip.Prefix]int // sockets
	plain  map[netip.Prefix]int // connections that speak HTTP
	closed bool
}

// plainPerSocket is how many connections one address may have for each socket that
// it may have: a page is loaded over several, and a client that polls has two.
const plainPerSocket = 4

func newAdmission(c config.Gateway, m *metrics) *admission {
	a := &admission{max: c.Limits.ConnectionsPerAddress, metrics: m, open: map[netip.Prefix]int{}, plain: map[netip.Prefix]int{}}
	for _, text := range c.Proxies { // valid, see package config
		if one, err := netip.ParseAddr(text); err == nil {
			a.proxies = append(a.proxies, netip.PrefixFrom(one.Unmap(), one.Unmap().BitLen()))
		} else if net, err := netip.ParsePrefix(text); err == nil {
			a.proxies = append(a.proxies, net.Masked())
		}
	}
	return a
}

// address tells the client's address: the peer's, or if that is a proxy of ours
// the last one in X-Forwarded-For that isn't.
func (a *admission) address(r *http.Request) string {
	addr, ok := a.client(r)
	if !ok {
		return r.RemoteAddr
	}
	return addr.String()
}

func (a *admission) client(r *http.Request) (netip.Addr, bool) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = addr.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && a.proxy(addr); i-- {
		next, ok := hop(hops[i])
		if !ok {
			break
		}
		addr = next
	}
	return addr, true
}

// hop reads one entry of X-Forwarded-For; some proxies write the port, too.
func hop(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if at, err := netip.ParseAddrPort(text); err == nil {
		return at.Addr().Unmap().WithZone(""), true
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return addr.Unmap().WithZone(""), err == nil
}

func (a *admission) proxy(addr netip.Addr) bool {
	for _, p := range a.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// admit lets a handshake pass, and returns what is called when its connection
// has ended.
func (a *admission) admit(r *http.Request) (release func(), err error) {
	addr, known := a.client(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		a.metrics.refused(codeUnavailable)
		return nil, &engine.Refusal{Status: http.StatusServiceUnavailable, Message: codeUnavailable + ": this gateway is stopping", RetryAfter: comeBack}
	}
	key, counted := a.key(addr, known)
	if !counted {
		return nil, nil
	}
	if a.open[key] >= a.max {
		a.metrics.refused(codeTooManySockets)
		return nil, &engine.Refusal{Status: http.StatusTooManyRequests, Message: codeTooManySockets + ": too many connections from this address", RetryAfter: socketWait}
	}
	a.open[key]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.open[key]--; a.open[key] == 0 {
			delete(a.open, key)
		}
	}, nil
}

// key is what connections of an address are counted by, if they are.
func (a *admission) key(addr netip.Addr, known bool) (key netip.Prefix, counted bool) {
	if !known || addr.IsLoopback() || a.max <= 0 {
		return netip.Prefix{}, false
	}
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64 // one customer's network
	}
	key, err := addr.Prefix(bits)
	return key, err == nil
}

// watch counts the connections that are no sockets, and closes those that are too
// many of one address: they cost little, but whoever opens them pays less still.
func (a *admission) watch(nc net.Conn, now http.ConnState) {
	by := 0
	switch now {
	case http.StateNew:
		by = 1
	case http.StateHijacked, http.StateClosed:
		by = -1
	default:
		return
	}
	peer, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	addr := peer.Addr().Unmap().WithZone("")
	key, counted := a.key(addr, err == nil)
	if !counted || a.proxy(addr) {
		return
	}
	a.mu.Lock()
	n := a.plain[key] + by
	if a.plain[key] = n; n == 0 {
		delete(a.plain, key)
	}
	a.mu.Unlock()
	if now == http.StateNew && n > plainPerSocket*a.max {
		a.metrics.refused(codeTooManySockets)
		_ = nc.Close() // and is counted off when that is seen
	}
}

// close lets nobody in any more.
func (a *admission) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
}

func (a *admission) isClosed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

// maxPaces bounds the users that pacer remembers.
const maxPaces = 10_000

// pacer counts starts in this gateway alone, for as long as Redis is away. Safe
// for concurrent use.
type pacer struct {
	mu    sync.Mutex
	users map[string]*rate.Limiter
}

// take counts a start, or says how long to wait.
func (p *pacer) take(owner string, perMinute int, now time.Time) (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.users[owner]
	if l == nil {
		if p.users == nil || len(p.users) >= maxPaces { // then everybody begins anew
			p.users = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Limit(float64(perMinute)/60), perMinute)
		p.users[owner] = l
	}
	r := l.ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// reset forgets what was counted: Redis is back.
func (p *pacer) reset() {
	p.mu.Lock()
	p.users = nil
	p.mu.Unlock()
}

// admit counts the start of a job against its user's limits. With Redis away the
// starts are counted here, and the jobs not at all.
func (s *session) admit(ctx context.Context, id string) error {
	own := s.who().Limits.or(s.c.conf.Limits)
	if own.Starts <= 0 && own.Jobs <= 0 {
		return nil
	}
	err := s.c.store.Admit(ctx, s.owner, id, job.Allowance{StartsPerMinute: own.Starts, Jobs: own.Jobs})
	if err == nil {
		s.c.pacer.reset()
		return nil
	}
	limit, over := errors.AsType[*job.LimitError](err)
	switch {
	case over && limit.Jobs:
		return refuse(codeTooManyJobs, "%d of your jobs have not ended yet: wait for one, or cancel it", limit.Max).after(jobsWait)
	case over:
		return tooManyStarts(limit.Max, limit.Wait)
	case own.Starts > 0:
		s.c.metrics.fallbacks.Inc()
		if wait := s.c.pacer.take(s.owner, own.Starts, time.Now()); wait > 0 {
			return tooManyStarts(own.Starts, wait)
		}
	}
	return nil
}

func tooManyStarts(max int, wait time.Duration) *refused {
	return refuse(codeRate, "more than %d questions in a minute: try again in %s", max, spoken(wait)).after(wait)
}
