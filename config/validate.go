package config

import (
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate checks a configuration that was put together in code; what Load
// returns has been checked.
func (c Config) Validate() error {
	d := &decoder{}
	c.validate(d.report)
	if len(d.issues) > 0 {
		return &Error{Issues: d.issues}
	}
	return nil
}

// check gathers issues; report(key, value, problem) gets one.
type check struct {
	report func(key, value, problem string)
}

func (c *Config) validate(report func(key, value, problem string)) {
	k := check{report}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	k.redis(&c.Redis)
	k.gateway(&c.Gateway)
	k.host(&c.Host)
	k.plugins(&c.Plugins)
}

func (k check) redis(r *Redis) {
	k.oneOf("redis.embedded", r.Embedded, "auto", "server", "memory")
	k.between("redis.pool_size", int64(r.PoolSize), 0, 100_000)
	if r.PoolSize > 0 && r.PoolSize < minPool {
		k.report("redis.pool_size", strconv.Itoa(r.PoolSize), "is too small: at least 10, or 0 for 10 per CPU")
	}
	if (r.TLS.CertFile == "") != (r.TLS.KeyFile == "") {
		k.report("redis.tls.cert_file", r.TLS.CertFile, "and redis.tls.key_file belong together: set both or neither")
	}
	if r.URL.IsZero() {
		if r.DataDir == "" {
			k.report("redis.data_dir", "", "is empty; name a folder for the embedded server")
		}
		return
	}
	t, err := r.target()
	switch {
	case err != nil:
		k.report("redis.url", r.URL.String(), err.Error())
	case !t.tls && r.TLS != TLS{}:
		k.report("redis.tls", "", "has no use while redis.url is not encrypted; write rediss:// (or rediss-sentinel://, rediss-cluster://)")
	case t.tls:
		if _, key, err := r.TLS.config(); err != nil {
			k.report(key, "", err.Error())
		}
	}
}

func (k check) gateway(g *Gateway) {
	if host, _, _ := net.SplitHostPort(g.Addr); !isAddress(g.Addr) {
		k.report("gateway.addr", g.Addr, "is not host:port; write something like 127.0.0.1:3210")
	} else if g.Auth.Mode == "none" && !g.Auth.InsecurePublic && !isLoopback(host) {
		k.report("gateway.addr", g.Addr, "is open to the network while gateway.auth.mode is none: everybody could use and read everything; "+
			"set gateway.auth.mode to keys, hs256 or jwt, or listen on 127.0.0.1, or say gateway.auth.insecure_public: true")
	}
	k.path("gateway.path", g.Path)
	for _, origin := range g.Origins {
		if origin == "*" {
			continue
		}
		if sent, ok := asSent(origin); !ok {
			k.report("gateway.origins", origin, "is not an origin: scheme://host, with :port if it isn't the scheme's own")
		} else if sent != origin {
			k.report("gateway.origins", origin, "is not as browsers send it; write "+sent)
		}
	}
	if g.DefaultModel == "" {
		k.report("gateway.default_model", "", "is empty; name the model of jobs that name none, such as echo")
	}
	k.duration("gateway.grace", g.Grace, 0, time.Hour)
	k.size("gateway.limits.query", g.Limits.Query, 1, 64*MiB)
	k.size("gateway.limits.request", g.Limits.Request, KiB, 256*MiB)
	if g.Limits.Query > g.Limits.Request {
		k.report("gateway.limits.query", g.Limits.Query.String(), "is larger than gateway.limits.request ("+g.Limits.Request.String()+"), which holds it")
	}
	k.between("gateway.limits.watched", int64(g.Limits.Watched), 1, 1_000_000)
	k.between("gateway.limits.connections", int64(g.Limits.Connections), 0, 10_000_000)
	k.size("gateway.limits.pending", g.Limits.Pending, 64*KiB, GiB)
	k.between("gateway.limits.connections_per_address", int64(g.Limits.ConnectionsPerAddress), 0, 10_000_000)
	k.between("gateway.limits.connections_per_user", int64(g.Limits.ConnectionsPerUser), 0, 10_000_000)
	k.between("gateway.limits.starts_per_minute", int64(g.Limits.StartsPerMinute), 0, 100_000)
	k.between("gateway.limits.jobs_per_user", int64(g.Limits.JobsPerUser), 0, 100_000)
	for _, proxy := range g.Proxies {
		_, addrErr := netip.ParseAddr(proxy)
		_, netErr := netip.ParsePrefix(proxy)
		if addrErr != nil && netErr != nil {
			k.report("gateway.proxies", proxy, "is neither an address nor a network such as 10.0.0.0/8")
		}
	}
	k.auth(&g.Auth)
}

// ownPaths are what a gateway serves beside its Socket.IO endpoint.
var ownPaths = []string{"healthz", "readyz", "metrics", "v1", "page"}

func (k check) path(key, text string) {
	inner := strings.Trim(text, "/")
	first, _, _ := strings.Cut(inner, "/")
	switch {
	case !strings.HasPrefix(text, "/") || path.Clean("/"+inner) != "/"+inner || inner == "" || strings.HasPrefix(text, "//") || strings.ContainsAny(text, "?#%{} \t\r\n"):
		k.report(key, text, "is not a path below the root, such as /socket.io/")
	case slices.Contains(ownPaths, first):
		k.report(key, text, "is where the gateway serves other things; write another path, such as /socket.io/")
	case text != "/"+inner+"/":
		k.report(key, text, "does not end with the one / that clients ask with; write /"+inner+"/")
	}
}

// asSent is an origin as browsers write it, since it is compared letter by letter:
// https://html.spec.whatwg.org/multipage/browsers.html#ascii-serialisation-of-an-origin
func asSent(origin string) (string, bool) {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", false
	}
	host := strings.ToLower(u.Host) // the scheme is lower case already
	own := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	return u.Scheme + "://" + strings.TrimSuffix(strings.TrimSuffix(host, own), ":"), true
}

// isAddress reports whether text is host:port, the host of which may be empty.
func isAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	n, numErr := strconv.Atoi(port)
	return err == nil && numErr == nil && n >= 0 && n <= 65535
}

// minSecret is the least length of an HS256 key, RFC 7518 section 3.2.
const minSecret = 32

func (k check) auth(a *Auth) {
	k.oneOf("gateway.auth.mode", a.Mode, "none", "keys", "hs256", "jwt")
	switch a.Mode {
	case "none":
		if a.KeysFile != "" {
			k.report("gateway.auth.keys_file", a.KeysFile, "has no use while gateway.auth.mode is none, which lets everybody in; set the mode to keys")
		}
		if !a.Secret.IsZero() {
			k.report("gateway.auth.secret", "", "has no use while gateway.auth.mode is none, which lets everybody in; set the mode to hs256")
		}
		if a.JWKSURL != "" {
			k.report("gateway.auth.jwks_url", a.JWKSURL, "has no use while gateway.auth.mode is none, which lets everybody in; set the mode to jwt")
		}
	case "keys":
		if a.KeysFile == "" {
			k.report("gateway.auth.keys_file", "", "is empty; gateway.auth.mode keys needs the file of API keys")
		}
	case "hs256":
		if len(a.Secret.Reveal()) < minSecret {
			k.report("gateway.auth.secret", "", "is shorter than 32 bytes, which hs256 needs; make one with: openssl rand -base64 32")
		}
	case "jwt":
		u, err := url.Parse(a.JWKSURL)
		if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
			k.report("gateway.auth.jwks_url", a.JWKSURL, "is not an https:// address, which jwt needs to find its public keys")
		}
	}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)

func (k check) host(h *Host) {
	if h.Addr != "" && !isAddress(h.Addr) {
		k.report("host.addr", h.Addr, "is not host:port; write something like 127.0.0.1:3211, or nothing")
	}
	if h.ID != "" && !hostName.MatchString(h.ID) {
		k.report("host.id", h.ID, "is not 1 to 128 of A-Za-z0-9_.:-")
	}
	k.between("host.concurrency", int64(h.Concurrency), 1, 100_000)
	k.duration("host.coalesce", h.Coalesce, 0, 10*time.Second)
	k.duration("host.ttl", h.TTL, time.Minute, 365*24*time.Hour)
	k.duration("host.timeout", h.Timeout, time.Second, 24*time.Hour)
	k.duration("host.grace", h.Grace, 0, time.Hour)
	k.between("host.max_attempts", int64(h.MaxAttempts), 1, 50)
	k.duration("host.backoff.min", h.Backoff.Min, time.Millisecond, time.Hour)
	k.duration("host.backoff.max", h.Backoff.Max, time.Millisecond, 24*time.Hour)
	k.duration("host.progress", h.Progress, 100*time.Millisecond, time.Hour)
	k.size("host.buffer.job", h.Buffer.Job, KiB, GiB)
	k.size("host.buffer.total", h.Buffer.Total, KiB, 1024*GiB)
	if h.Buffer.Job > h.Buffer.Total {
		k.report("host.buffer.job", h.Buffer.Job.String(), "is larger than host.buffer.total ("+h.Buffer.Total.String()+")")
	}
	if h.Backoff.Min > h.Backoff.Max {
		k.report("host.backoff.min", shortDuration(h.Backoff.Min), "is longer than host.backoff.max ("+shortDuration(h.Backoff.Max)+")")
	}
}

var (
	pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	secretName = regexp.MustCompile(`^[A-Za-z0-9_]{1,128}$`)
)

func (k check) plugins(p *Plugins) {
	for _, dir := range p.Dirs {
		if dir == "" {
			k.report("plugins.dirs", "", "holds an empty entry; name folders of installed plugins")
		}
	}
	if p.CacheDir == "" {
		k.report("plugins.cache_dir", "", "is empty; name a folder that may be written to")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Config)) {
		key := "plugins.config." + name
		if !pluginName.MatchString(name) {
			k.report(key, "", "is not a plugin's name: lower case letters, digits, - and _, at most 64")
			continue
		}
		c := p.Config[name]
		for _, secret := range slices.Sorted(maps.Keys(c.Secrets)) {
			if !secretName.MatchString(secret) {
				k.report(key+".secrets."+secret, "", "is not a secret's name: letters, digits and _")
			}
		}
		for _, origin := range c.Egress {
			u, err := url.Parse(origin)
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
				k.report(key+".egress", origin, "is not an origin such as https://api.example.com")
			}
		}
		for _, host := range c.AllowPrivate {
			if host == "" || strings.ContainsAny(host, "/ @") {
				k.report(key+".allow_private", host, "is not a host or host:port")
			}
		}
		for _, guarantee := range c.RequireBox {
			k.oneOf(key+".require_box", guarantee, "network", "files", "processes", "sockets", "memory", "tasks")
		}
		k.size(key+".limits.memory", c.Limits.Memory, 0, 64*GiB)
		k.between(key+".limits.concurrency", int64(c.Limits.Concurrency), 0, 100_000)
		k.duration(key+".limits.first_token", c.Limits.FirstToken, 0, 24*time.Hour)
		k.duration(key+".limits.idle", c.Limits.Idle, 0, 24*time.Hour)
		k.duration(key+".limits.total", c.Limits.Total, 0, 24*time.Hour)
		k.duration(key+".limits.cpu", c.Limits.CPU, 0, 24*time.Hour)
		k.size(key+".limits.output", c.Limits.Output, 0, GiB)
		k.between(key+".limits.open_requests", int64(c.Limits.OpenRequests), 0, 1000)
		k.size(key+".limits.request_body", c.Limits.RequestBody, 0, GiB)
		k.size(key+".limits.response_body", c.Limits.ResponseBody, 0, 64*GiB)
	}
}

func (k check) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		last := len(allowed) - 1
		k.report(key, value, "is not "+strings.Join(allowed[:last], ", ")+" or "+allowed[last])
	}
}

func (k check) between(key string, n, low, high int64) {
	if n < low || n > high {
		k.report(key, strconv.FormatInt(n, 10), "is out of range: "+strconv.FormatInt(low, 10)+" to "+strconv.FormatInt(high, 10))
	}
}

func (k check) size(key string, s, low, high Size) {
	if s < low || s > high {
		k.report(key, s.String(), "is out of range: "+low.String()+" to "+high.String())
	}
}

func (k check) duration(key string, d, low, high time.Duration) {
	if d < low || d > high {
		k.report(key, shortDuration(d), "is out of range: "+shortDuration(low)+" to "+shortDuration(high))
	}
}

// isLoopback says whether only this machine can reach the host part of an address.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
