package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/config"
)

// strangeRedis answers commands by their name, at a unix socket.
func strangeRedis(t *testing.T, answers map[string]string) (url string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "r.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					words, err := command(r)
					if err != nil {
						return
					}
					answer := answers[strings.ToUpper(words[0])]
					if answer == "" {
						answer = "-ERR unknown command"
					}
					if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "unix://" + socket
}

// command reads an array of bulk strings.
func command(r *bufio.Reader) ([]string, error) {
	number := func() (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number()
	if err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		size, err := number()
		if err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, err
		}
		words[i] = string(word[:size])
	}
	return words, nil
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s", len(s), s) }

// A Redis that can't do what is needed stops the start, and says what would do.
func TestOldRedis(t *testing.T) {
	t.Chdir(t.TempDir())
	url := strangeRedis(t, map[string]string{"PING": "+PONG", "CLIENT": "+OK", "INFO": bulk("# Server\r\nredis_version:4.0.14\r\n")})
	var out, log bytes.Buffer
	err := run(t.Context(), []string{"host", "--redis.url", url}, &out, &log)
	if err == nil || !strings.Contains(err.Error(), "redis.url: the Redis there is version 4.0.14, and Sluice needs 6.0 or newer") {
		t.Errorf("error %v\n%s", err, &log)
	}
}

// A Redis that makes room by throwing keys away would lose jobs: the log says so.
func TestEvictingRedis(t *testing.T) {
	server := redisServer(t)
	rdb := server.client()
	for _, tt := range []struct{ limit, policy, want string }{
		{"100mb", "volatile-lru", "volatile-lru"}, {"100mb", "noeviction", ""}, {"0", "allkeys-lru", ""},
	} {
		if err := errors.Join(rdb.ConfigSet(t.Context(), "maxmemory", tt.limit).Err(), rdb.ConfigSet(t.Context(), "maxmemory-policy", tt.policy).Err()); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		if err := awaitRedis(t.Context(), rdb, config.NewURL(server.url()), slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		if warned := strings.Contains(log.String(), "throws jobs away"); warned != (tt.want != "") || !strings.Contains(log.String(), tt.want) {
			t.Errorf("%+v:\n%s", tt, &log)
		}
	}
}

// A Redis that can't be used yet is waited for, and the log says in whose hands
// the remedy lies.
func TestDiagnosis(t *testing.T) {
	t.Chdir(t.TempDir())
	for answer, want := range map[string]string{
		"-WRONGPASS invalid username-password pair or user is disabled.":                   `"redis does not let us in, trying again"`,
		"-NOAUTH Authentication required.":                                                 `"redis does not let us in, trying again"`,
		"-NOPERM this user has no permissions to run the 'ping' command":                   `redis.username and redis.password"`,
		"-ERR AUTH <password> called without any password configured for the default user": `"redis does not let us in, trying again"`,
		"-ERR DB index is out of range":                                                    `"redis has no database of that number, trying again"`,
		"-ERR This instance has cluster support disabled":                                  `"redis is no cluster, trying again"`,
		"-LOADING Redis is loading the dataset in memory":                                  `"redis loads its data, trying again"`,
		"-ERR max number of clients reached":                                               `error="ERR max number of clients reached" remedy="see whether it runs`,
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			url := strangeRedis(t, map[string]string{"PING": answer, "CLIENT": "+OK"})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			log := &logBuffer{}
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, []string{"host", "--redis.url", url}, io.Discard, log) }()
			wait, stop := context.WithTimeout(t.Context(), patience)
			defer stop()
			if _, err := log.find(wait, want); err != nil {
				t.Error(err)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("stopped while it waits: %v", err)
			}
		})
	}
}

// A user of Redis without channels, which is what it has if nobody gave it any, is
// seen before a job is accepted.
func TestUserWithoutChannels(t *testing.T) {
	server := redisServer(t)
	admin := server.client()
	for _, rule := range [][]any{
		{"ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels"},
		{"ACL", "SETUSER", "whole", "on", ">pw", "~*", "+@all", "&*"},
	} {
		if err := admin.Do(t.Context(), rule...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user string) *redis.Client {
		o := *admin.Options()
		o.Username, o.Password = user, "pw"
		rdb := redis.NewClient(&o)
		t.Cleanup(func() { rdb.Close() })
		return rdb
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := &logBuffer{}
	ended := make(chan error, 1)
	go func() {
		ended <- awaitRedis(ctx, as("mute"), config.NewURL(server.url()), slog.New(slog.NewTextHandler(log, nil)))
	}()
	wait, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if _, err := log.find(wait, `does not let its user do what is needed, trying again".* remedy=".*&\*`); err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
	if err := awaitRedis(t.Context(), as("whole"), config.NewURL(server.url()), slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

// A Redis that says nothing may be one that was asked for TLS.
func TestDiagnosisOfSilence(t *testing.T) {
	what, remedy := diagnose(fmt.Errorf("dial: %w", context.DeadlineExceeded))
	if what != "redis does not answer in time" || !strings.Contains(remedy, "TLS") {
		t.Errorf("%s: %s", what, remedy)
	}
}

// The address and the keys of a gateway are looked at before anything is
// started that takes its time.
func TestGatewayIsLookedAtFirst(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tt := range []struct{ args, err string }{
		{"--gateway.addr=127.0.0.1:0 --gateway.auth.mode=keys --gateway.auth.keys_file=none", "gateway.auth.keys_file: stat none: no such file"},
		{"--gateway.addr=no.such.host.invalid:1 --gateway.auth.insecure_public", "gateway.addr: "},
		{"--gateway.addr=127.0.0.1:0 --redis.embedded=auto --redis.data_dir=/proc/sluice", "make redis.data_dir, the data of the embedded redis"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var log bytes.Buffer
		err := run(ctx, strings.Fields(tt.args), io.Discard, &log)
		cancel()
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %s\n%s", tt.args, err, tt.err, &log)
		}
		if strings.Contains(log.String(), "plugin") {
			t.Errorf("%s: plugins were started first:\n%s", tt.args, &log)
		}
	}
}
