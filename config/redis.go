package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// minPool is the least number of connections: with a smaller pool go-redis
// probes only once a second after failed dials, and Sluice comes back late
// from an outage.
const minPool = 10

// target is a parsed redis.url.
type target struct {
	addrs              []string
	master             string // Sentinel
	cluster            bool
	tls                bool
	username, password string
	db                 int
}

// redisForms is what the errors about redis.url say would do.
const redisForms = "write redis://host:6379/0, rediss://user:password@host:6379, unix:///run/redis.sock, " +
	"redis-sentinel://host1:26379,host2:26379/mymaster or redis-cluster://host1:6379,host2:6379"

// target parses redis.url. Its errors don't repeat the URL, which may hold a password.
func (r *Redis) target() (target, error) {
	scheme, rest, ok := strings.Cut(r.URL.Reveal(), "://")
	if !ok {
		return target{}, errors.New("is not a Redis address; " + redisForms)
	}
	t := target{username: r.Username, password: r.Password.Reveal()}
	rest, query, _ := strings.Cut(rest, "?")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var err1, err2 error
		user, err1 = url.PathUnescape(user)
		password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return target{}, errors.New("has a user or password with a bare %; write it as %25")
		}
		t.username, t.password = cmp.Or(user, t.username), cmp.Or(password, t.password)
		rest = rest[at+1:]
	}
	base, secure := strings.CutPrefix(scheme, "rediss")
	if secure {
		scheme, t.tls = "redis"+base, true
	}
	defaultPort := "6379"
	switch scheme {
	case "unix":
		return t.unix(rest, query)
	case "redis":
	case "redis-sentinel":
		defaultPort = "26379"
	case "redis-cluster":
		t.cluster = true
	default:
		return target{}, errors.New("has a scheme nobody knows here; " + redisForms)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	for addr := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(addr, defaultPort)
		if err != nil {
			return target{}, err
		}
		t.addrs = append(t.addrs, addr)
	}
	if scheme == "redis" && len(t.addrs) > 1 {
		return target{}, errors.New("names several hosts; write redis-cluster:// or redis-sentinel:// for those")
	}
	if scheme == "redis-sentinel" {
		t.master, path, _ = strings.Cut(path, "/")
		if t.master == "" {
			return target{}, errors.New("names no master; write redis-sentinel://host1:26379,host2:26379/mymaster")
		}
	}
	if err := t.database(path, query); err != nil {
		return target{}, err
	}
	if t.cluster && t.db != 0 {
		return target{}, errors.New("names a database, but a cluster has only database 0")
	}
	return t, nil
}

func (t target) unix(path, query string) (target, error) {
	if !strings.HasPrefix(path, "/") {
		return target{}, errors.New("is not an absolute path; write unix:///run/redis.sock")
	}
	t.addrs = []string{path}
	return t, t.database("", query)
}

// database reads the number behind the host's slash, or ?db=.
func (t *target) database(path, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("has a malformed part after the ?")
	}
	number := strings.TrimSuffix(path, "/")
	for name := range values {
		if name != "db" {
			return fmt.Errorf("has an unknown parameter %q; only db is one, everything else has a key of its own in the section redis", name)
		}
		number = values.Get("db")
	}
	if number == "" {
		return nil
	}
	db, err := strconv.Atoi(number)
	if err != nil || db < 0 {
		return errors.New("has a database that isn't a number; write redis://host:6379/0")
	}
	t.db = db
	return nil
}

func withPort(addr, port string) (string, error) {
	if addr == "" {
		return "", errors.New("names no host; " + redisForms)
	}
	host, given, err := net.SplitHostPort(addr)
	if err != nil {
		host, given = strings.Trim(addr, "[]"), port
	}
	if n, err := strconv.Atoi(given); err != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, "/[] ") {
		return "", errors.New("has a host or port that can't be; " + redisForms)
	}
	return net.JoinHostPort(host, given), nil
}

// RedisDefaults is what every client of ours has in common; the address is
// missing.
func RedisDefaults() *redis.UniversalOptions {
	return &redis.UniversalOptions{
		PoolSize:              minPool * runtime.GOMAXPROCS(0),
		DialTimeout:           5 * time.Second,
		ContextTimeoutEnabled: true, // without it a command outlives its context
		ClientName:            "sluice",
		// A handshake command that only managed Redis understands.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// Options are go-redis's options for redis.url. It fails on an unusable URL or
// certificate file; it doesn't connect.
func (r *Redis) Options() (*redis.UniversalOptions, error) {
	t, err := r.target()
	if err != nil {
		return nil, fmt.Errorf("redis.url %w", err)
	}
	o := RedisDefaults()
	o.Addrs, o.MasterName, o.IsClusterMode = t.addrs, t.master, t.cluster
	o.DB, o.Username, o.Password = t.db, t.username, t.password
	o.SentinelUsername, o.SentinelPassword = r.Sentinel.Username, r.Sentinel.Password.Reveal()
	if r.PoolSize != 0 {
		o.PoolSize = r.PoolSize
	}
	if t.tls {
		c, key, err := r.TLS.config()
		if err != nil {
			return nil, fmt.Errorf("%s %w", key, err)
		}
		o.TLSConfig = c
	}
	return o, nil
}

// config reads the files. It names the key that an error is about.
func (t *TLS) config() (c *tls.Config, key string, err error) {
	c = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, "redis.tls.ca_file", fmt.Errorf("can't be read: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "redis.tls.ca_file", errors.New("holds no certificate in PEM")
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, "redis.tls.cert_file", fmt.Errorf("can't be used with redis.tls.key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, "", nil
}
