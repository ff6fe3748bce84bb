package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// awaitRedis waits until Redis answers, however long that takes. It fails when
// ctx ends, and for a Redis that will never do.
func awaitRedis(ctx context.Context, rdb redis.UniversalClient, url fmt.Stringer, log *slog.Logger) error {
	const longest = 5 * time.Second
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, longest) {
		ask, done := context.WithTimeout(ctx, longest)
		err := rdb.Ping(ask).Err()
		var old error
		var policy string
		if err == nil {
			old, policy = tooOld(ask, rdb), evicts(ask, rdb)
			// A new user may use no channel. Nobody listens to this one, also not to a pattern of jobs'
			// channels. What else refuses this may pass by itself.
			if refused := rdb.Publish(ask, "sluice:user:", "").Err(); redis.HasErrorPrefix(refused, "NOPERM") {
				err = refused
			}
		}
		done()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case old != nil:
			return old
		case err == nil:
			log.Info("redis answers", "url", url.String())
			if policy != "" {
				log.Warn("redis throws jobs away when its memory is full", "policy", policy, "remedy", "set its maxmemory-policy to noeviction")
			}
			return nil
		}
		what, remedy := diagnose(err)
		log.Warn(what+", trying again", "url", url.String(), "error", err, "remedy", remedy, "wait", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// diagnose says in whose hands the remedy lies when Redis can't be used.
func diagnose(err error) (what, remedy string) {
	var certificate *x509.CertificateInvalidError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	text := err.Error()
	switch {
	case redis.HasErrorPrefix(err, "LOADING"):
		return "redis loads its data", "none: it takes its time"
	case redis.HasErrorPrefix(err, "NOPERM"):
		return "redis does not let its user do what is needed", "ACL SETUSER <name> ~* &* +@all, the channels (&*) included; or give another user in redis.url, or in redis.username and redis.password"
	case redis.HasErrorPrefix(err, "WRONGPASS"), redis.HasErrorPrefix(err, "NOAUTH"),
		strings.Contains(text, "AUTH"), strings.Contains(text, "invalid password"):
		return "redis does not let us in", "give the right user and password in redis.url, or in redis.username and redis.password"
	case errors.As(err, &authority), errors.As(err, &name), errors.As(err, &certificate):
		return "redis shows a certificate that isn't trusted", "set redis.tls.ca_file, or redis.tls.server_name"
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return "redis does not speak TLS there", "write redis:// instead of rediss:// in redis.url, or give its TLS port"
	case redis.HasErrorPrefix(err, "MOVED"):
		return "redis is a cluster", "write redis-cluster:// in redis.url"
	case strings.Contains(text, "cluster support disabled"):
		return "redis is no cluster", "write redis:// instead of redis-cluster:// in redis.url"
	case strings.Contains(text, "DB index is out of range"):
		return "redis has no database of that number", "write a smaller one in redis.url, or raise its setting databases"
	case strings.Contains(text, "all sentinels specified in configuration are unreachable"):
		return "no sentinel names the master", "see whether they run, and whether redis.url has their addresses and the name of the master"
	}
	// A Redis without TLS waits for more of what it takes for a command.
	if errors.Is(err, context.DeadlineExceeded) {
		return "redis does not answer in time", "see whether it runs, whether redis.url is right, and if that asks for TLS, whether it speaks TLS there"
	}
	return "redis does not answer", "see whether it runs, and whether redis.url is right"
}

var memoryLimit = regexp.MustCompile(`(?m)^maxmemory:0*[1-9]`)
var memoryPolicy = regexp.MustCompile(`(?m)^maxmemory_policy:([\w-]+)`)

// evicts returns the policy of a Redis that makes room by throwing keys away: all
// of ours expire, so that any policy may choose them. "" is one that refuses to
// write instead, which is waited out, and one that doesn't say.
func evicts(ctx context.Context, rdb redis.UniversalClient) string {
	info, err := rdb.Info(ctx, "memory").Result()
	if err != nil || !memoryLimit.MatchString(info) {
		return ""
	}
	if found := memoryPolicy.FindStringSubmatch(info); found != nil && found[1] != "noeviction" {
		return found[1]
	}
	return ""
}

// The oldest Redis that has what is used here: since 6.0 users and RESP3, which
// the client speaks; since 7.0 sharded channels, which wake the hosts of a cluster.
const (
	oldestRedis   = 6
	oldestCluster = 7
)

var redisVersion = regexp.MustCompile(`(?m)^redis_version:((\d+)\.[\d.]+)`)

// tooOld is nil for a Redis that says nothing of its version, as one may that
// allows its users little.
func tooOld(ctx context.Context, rdb redis.UniversalClient) error {
	info, err := rdb.Info(ctx, "server").Result()
	if err != nil {
		return nil
	}
	oldest := oldestRedis
	if _, cluster := rdb.(*redis.ClusterClient); cluster {
		oldest = oldestCluster
	}
	found := redisVersion.FindStringSubmatch(info)
	if found == nil {
		return nil
	}
	if major, err := strconv.Atoi(found[2]); err != nil || major >= oldest {
		return nil //nolint:nilerr // a number beyond all numbers is not old
	}
	return fmt.Errorf("redis.url: the Redis there is version %s, and Sluice needs %d.0 or newer, or any Valkey", found[1], oldest)
}
