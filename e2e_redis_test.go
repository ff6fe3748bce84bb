package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job/redistest"
)

// A question is answered on every kind of Redis that redis.url can name.
func TestKindsOfRedis(t *testing.T) {
	in := install(t)
	need(t, "redis-server")
	kinds := []struct {
		name  string
		start func(t *testing.T) []string // returns settings
	}{
		{"TLS and an ACL user", tlsRedis},
		{"Sentinel", sentinelRedis},
		{"Cluster", clusterRedis},
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			env := kind.start(t)
			start(t, in, env, "host")
			url := start(t, in, env, "gateway").url
			c := newDriver(t).connect("a", url, transports["websocket"])
			var jobs []string
			for i := range 8 { // on a cluster, jobs of several nodes
				model := []string{"echo", "echo-sandbox"}[i%2]
				jobs = append(jobs, c.ask(map[string]any{"query": prompt, "model": model, "params": map[string]any{"delay_ms": 1}}))
			}
			for _, job := range jobs {
				checkComplete(t, c.finish(job), prompt)
			}
			job := c.ask(map[string]any{"query": "x", "params": map[string]any{"delay_ms": 5, "tokens": 100_000}})
			c.await("model:chunk:v1", func(e event) bool { return strings.Contains(string(e.Data), job) })
			if a := c.emit("CANCEL_TASK", map[string]any{"jobId": job}); !a.OK {
				t.Errorf("CANCEL_TASK: %+v", a)
			}
			if all := c.finish(job); all[len(all)-1].event != "task:cancelled" {
				t.Errorf("it ended with %s", all[len(all)-1].event)
			}
		})
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// daemon runs redis-server with args until the test ends.
func daemon(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("redis-server", args...)
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := redistest.Launch(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("redis-server %s:\n%s", strings.Join(args, " "), tail(log.String(), 3000))
		}
	})
}

func answering(t *testing.T, port string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port, MaxRetries: -1})
	t.Cleanup(func() { c.Close() })
	eventually(t, "redis-server answers on "+port, func() bool { return c.Ping(t.Context()).Err() == nil })
	return c
}

func tlsRedis(t *testing.T) []string {
	dir, port := t.TempDir(), freePort(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: certificate}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret}}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	daemon(t, "--port", "0", "--tls-port", port, "--tls-auth-clients", "no", "--save", "", "--dir", dir,
		"--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--user", "default", "off", "--user", "sluice", "on", ">pass%word", "~*", "&*", "+@all")
	return []string{
		"SLUICE_REDIS__URL=rediss://sluice:pass%25word@127.0.0.1:" + port,
		"SLUICE_REDIS__TLS__CA_FILE=" + filepath.Join(dir, "cert.pem"),
	}
}

func sentinelRedis(t *testing.T) []string {
	dir, master, sentinel := t.TempDir(), freePort(t), freePort(t)
	daemon(t, "--port", master, "--save", "", "--dir", dir)
	answering(t, master)
	file := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nsentinel monitor main 127.0.0.1 %s 1\n", sentinel, master)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon(t, file, "--sentinel")
	answering(t, sentinel)
	return []string{"SLUICE_REDIS__URL=redis-sentinel://127.0.0.1:" + sentinel + "/main"}
}

func clusterRedis(t *testing.T) []string {
	const nodes, slots = 3, 16384
	var ports, buses, addrs []string
	var clients []*redis.Client
	for range nodes {
		port, bus := freePort(t), freePort(t)
		daemon(t, "--port", port, "--cluster-enabled", "yes", "--cluster-port", bus, "--save", "", "--dir", t.TempDir())
		ports, buses, addrs = append(ports, port), append(buses, bus), append(addrs, "127.0.0.1:"+port)
		clients = append(clients, answering(t, port))
	}
	for i, c := range clients {
		first, last := i*slots/nodes, (i+1)*slots/nodes-1
		if err := c.ClusterAddSlotsRange(t.Context(), first, last).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := clients[0].Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", ports[i], buses[i]).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range clients {
		eventually(t, "the cluster is whole", func() bool {
			info, err := c.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return []string{"SLUICE_REDIS__URL=redis-cluster://" + strings.Join(addrs, ",")}
}
