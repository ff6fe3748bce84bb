package queue

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed exchange.lua
	exchangeLua string
	//go:embed giveback.lua
	givebackLua string
	//go:embed lease.lua
	leaseLua string
	//go:embed forward.lua
	forwardLua string
	//go:embed park.lua
	parkLua string
	//go:embed enter.lua
	enterLua string

	exchangeScript = newScript(exchangeLua)
	givebackScript = newScript(givebackLua)
	leaseScript    = newScript(leaseLua)
	forwardScript  = newScript(forwardLua)
	parkScript     = newScript(parkLua)
	enterScript    = newScript(enterLua)
)

// A script of ours, with and without the flag allow-oom. It is run with it where
// the server knows flags (Redis 7, Valkey): while a full Redis lets nobody take
// tasks, it never empties.
type script struct{ plain, oom source }

type source struct{ text, sha string }

const allowOOM = "#!lua flags=allow-oom\n"

func newScript(text string) script {
	with := func(text string) source { return source{text, redis.NewScript(text).Hash()} }
	return script{plain: with(text), oom: with(allowOOM + text)}
}

func (s script) source(ctx context.Context, rdb redis.UniversalClient, f *flags) source {
	if f.allowed(ctx, rdb) {
		return s.oom
	}
	return s.plain
}

// run may send the script again when its reply is lost.
func (s script) run(ctx context.Context, rdb redis.UniversalClient, f *flags, keys []string, args ...any) *redis.Cmd {
	src := s.source(ctx, rdb, f)
	cmd := rdb.EvalSha(ctx, src.sha, keys, args...)
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd = rdb.Eval(ctx, src.text, keys, args...)
	}
	return cmd
}

// once never lets the script be executed twice.
func (s script) once(ctx context.Context, rdb redis.UniversalClient, f *flags, keys []string, args ...any) *redis.Cmd {
	src := s.source(ctx, rdb, f)
	cmd := evalOnce(ctx, rdb, "evalsha", src.sha, keys, args)
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd = evalOnce(ctx, rdb, "eval", src.text, keys, args)
	}
	return cmd
}

func evalOnce(ctx context.Context, rdb redis.UniversalClient, verb, script string, keys []string, args []any) *redis.Cmd {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, verb, script, len(keys))
	for _, k := range keys {
		all = append(all, k)
	}
	cmd := redis.NewCmd(ctx, append(all, args...)...)
	if err := rdb.Process(ctx, once{cmd}); err != nil && cmd.Err() == nil {
		cmd.SetErr(err)
	}
	return cmd
}

// once is a command that go-redis does not send again when its reply is lost.
type once struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (once) NoRetry() bool { return true }

// refused tells that the server answered, and that the answer was no.
func refused(err error) bool {
	var r redis.Error
	return errors.As(err, &r)
}

// flags remembers whether the server knows script flags. The zero value has yet
// to ask. Safe for concurrent use.
type flags struct{ state atomic.Int32 }

const (
	flagsKnown   = 1
	flagsUnknown = 2
)

func (f *flags) allowed(ctx context.Context, rdb redis.UniversalClient) bool {
	switch f.state.Load() {
	case flagsKnown:
		return true
	case flagsUnknown:
		return false
	}
	err := rdb.Eval(ctx, allowOOM+"return 1", nil).Err()
	switch {
	case err == nil:
		f.state.Store(flagsKnown)
		return true
	case strings.Contains(strings.ToLower(err.Error()), "compil"):
		f.state.Store(flagsUnknown)
	}
	return false
}

func stringSlice(cmd *redis.Cmd) ([]string, error) {
	got, err := cmd.StringSlice()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return got, err
}
