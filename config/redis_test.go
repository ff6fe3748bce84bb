package config

import (
	"slices"
	"strings"
	"testing"
)

func TestRedisURL(t *testing.T) {
	tests := []struct {
		url            string
		addrs          string
		user, password string
		db             int
		master         string
		cluster, tls   bool
	}{
		{url: "redis://host", addrs: "host:6379"},
		{url: "redis://host:7000/3", addrs: "host:7000", db: 3},
		{url: "redis://:pw@host?db=2", addrs: "host:6379", user: "fallback", password: "pw", db: 2},
		{url: "redis://alice:p%40ss%25@host:1", addrs: "host:1", user: "alice", password: "p@ss%"},
		{url: "redis://alice@host", addrs: "host:6379", user: "alice", password: "other"},
		{url: "redis://[::1]:7000", addrs: "[::1]:7000"},
		{url: "rediss://u:p@host", addrs: "host:6379", user: "u", password: "p", tls: true},
		{url: "unix:///run/r.sock", addrs: "/run/r.sock"},
		{url: "unix://u:p@/run/r.sock?db=1", addrs: "/run/r.sock", user: "u", password: "p", db: 1},
		{url: "redis-sentinel://a,b:1/mymaster", addrs: "a:26379 b:1", master: "mymaster"},
		{url: "rediss-sentinel://u:p@a/m/4", addrs: "a:26379", user: "u", password: "p", master: "m", db: 4, tls: true},
		{url: "redis-cluster://a:1,b:2,c", addrs: "a:1 b:2 c:6379", cluster: true},
		{url: "rediss-cluster://a", addrs: "a:6379", cluster: true, tls: true},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			r := Redis{URL: NewURL(tt.url), Username: "fallback", Password: NewSecret("other")}
			o, err := r.Options()
			if err != nil {
				t.Fatal(err)
			}
			if tt.user == "" {
				tt.user = "fallback"
			}
			if tt.password == "" {
				tt.password = "other"
			}
			if !slices.Equal(o.Addrs, strings.Fields(tt.addrs)) || o.Username != tt.user || o.Password != tt.password ||
				o.DB != tt.db || o.MasterName != tt.master || o.IsClusterMode != tt.cluster || (o.TLSConfig != nil) != tt.tls {
				t.Errorf("%+v", o)
			}
			if o.PoolSize < minPool || !o.ContextTimeoutEnabled {
				t.Errorf("pool %d, context timeouts %v", o.PoolSize, o.ContextTimeoutEnabled)
			}
		})
	}
}

func TestBadRedisURL(t *testing.T) {
	for url, want := range map[string]string{
		"host:6379":                       "is not a Redis address",
		"http://host":                     "scheme nobody knows",
		"redisss://host":                  "scheme nobody knows",
		"rediss-unix:///x":                "scheme nobody knows",
		"redis://":                        "names no host",
		"redis://a,b":                     "names several hosts",
		"redis://host:99999":              "port that can't be",
		"redis://host/x":                  "database that isn't a number",
		"redis://host/-1":                 "database that isn't a number",
		"redis://host?dbb=1":              `unknown parameter "dbb"`,
		"redis://u:hunter2%@host":         "bare %",
		"unix://run/r.sock":               "absolute path",
		"redis-sentinel://a:1":            "names no master",
		"redis-cluster://a/1":             "only database 0",
		"redis-cluster://a,,b":            "names no host",
		"redis://u:hunter2@host:port/ten": "port that can't be",
	} {
		r := Redis{URL: NewURL(url)}
		_, err := r.Options()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error lacks %q: %v", url, want, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", url, err)
		}
	}
}

func TestTLSFiles(t *testing.T) {
	r := Redis{URL: NewURL("rediss://host"), TLS: TLS{CAFile: write(t, "no certificate"), ServerName: "name"}}
	if _, err := r.Options(); err == nil || !strings.Contains(err.Error(), "redis.tls.ca_file") {
		t.Errorf("a file without certificates: %v", err)
	}
	r.TLS.CAFile = ""
	o, err := r.Options()
	if err != nil || o.TLSConfig.ServerName != "name" || o.TLSConfig.InsecureSkipVerify {
		t.Errorf("%+v, %v", o.TLSConfig, err)
	}
	r.TLS.CertFile, r.TLS.KeyFile = "/nowhere/cert", "/nowhere/key"
	if _, err := r.Options(); err == nil || !strings.Contains(err.Error(), "redis.tls.cert_file") {
		t.Errorf("a missing certificate: %v", err)
	}
}
