package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// takeSHA is the hash of the dequeue script that exchange.lua was written to
// replace. Another one may keep its books differently.
const takeSHA = "a8153319360adc71cdc370107f8ab9786f204765"

// patience bounds the self-test. It takes some milliseconds when all is well.
const patience = 5 * time.Second

// recognised tells, once per process, whether the asynq that is linked in is one
// whose scripts we know. It runs its client and its server against a Redis that
// is played by a hook, so it needs no Redis, changes nothing, and is as good
// while the real one is away or full.
var recognised = sync.OnceValue(func() error { return selfTest(takeSHA) })

func selfTest(take string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p := &player{take: take, seen: map[step]int{}, all: make(chan struct{})}
	rdb := redis.NewClient(&redis.Options{
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("nobody is there")
		},
		MaxRetries: -1,
	})
	defer rdb.Close()
	rdb.AddHook(p)

	tasks := asynq.NewClientFromRedisClient(rdb)
	task := asynq.NewTask("selftest", nil, asynq.TaskID("t"), asynq.MaxRetry(1))
	if _, err := tasks.EnqueueContext(ctx, task, asynq.ProcessIn(time.Hour)); err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	if _, err := tasks.EnqueueContext(ctx, task); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	var runs int // one handler at a time
	server := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency: 1, Logger: asynqLog{slog.New(slog.DiscardHandler)}, ShutdownTimeout: time.Millisecond,
		TaskCheckInterval: time.Millisecond, DelayedTaskCheckInterval: time.Millisecond,
	})
	err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		switch runs++; runs {
		case 1:
			return errors.New("once more")
		case 2:
			return asynq.SkipRetry
		}
		return nil
	}))
	if err != nil {
		return err
	}
	select {
	case <-p.all:
	case <-ctx.Done():
	}
	server.Shutdown()
	return p.verdict()
}

// wanted is what the play must show, and how often.
var wanted = map[step]int{stepSchedule: 1, stepEnqueue: 1, stepTake: 3, stepRetry: 1, stepEnd: 2, stepForward: 2}

// A player answers asynq's commands as a Redis would that holds one task, which
// is there again after every end.
type player struct {
	take string
	all  chan struct{}

	mu     sync.Mutex
	seen   map[step]int
	msg    string
	taken  bool
	drift  error
	closed bool
}

// DialHook implements redis.Hook.
func (p *player) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (p *player) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { return nil }
}

// ProcessHook implements redis.Hook.
func (p *player) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		if c, ok := cmd.(*redis.Cmd); ok && cmd.Name() == "evalsha" {
			p.play(c)
		}
		return cmd.Err()
	}
}

func (p *player) play(cmd *redis.Cmd) {
	sha, keys, args := script3(cmd.Args())
	what, _ := shape(keys)
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd.SetVal(int64(0))
	switch what {
	case stepSchedule:
		cmd.SetVal(int64(1))
		if len(args) < 2 {
			p.drift = errors.New("schedule has too few arguments")
		} else if _, ok := args[1].(int64); !ok {
			p.drift = fmt.Errorf("schedule has a %T for its time", args[1])
		}
	case stepEnqueue:
		cmd.SetVal(int64(1))
		if b, ok := args[0].([]byte); ok {
			p.msg = string(b)
		}
	case stepTake:
		if sha != p.take {
			p.drift = fmt.Errorf("dequeue has hash %s", sha)
		}
		if p.taken || p.msg == "" {
			cmd.SetErr(redis.Nil)
			return // seen when it gave something
		}
		p.taken = true
		cmd.SetVal(p.msg)
	case stepRetry:
		cmd.SetVal("OK")
		p.taken = false
		if len(args) < 3 {
			p.drift = errors.New("retry has too few arguments")
		} else if _, ok := args[2].(int64); !ok || first(args) != "t" {
			p.drift = fmt.Errorf("retry has a %T for its time and %q for its task", args[2], first(args))
		}
	case stepEnd:
		cmd.SetVal("OK")
		p.taken = false
		if first(args) != "t" {
			p.drift = fmt.Errorf("end has %q for its task", first(args))
		}
	}
	p.seen[what]++
	if !p.closed && (p.drift != nil || len(p.missing()) == 0) {
		p.closed = true
		close(p.all)
	}
}

func (p *player) missing() []string {
	var names []string
	for s, n := range wanted {
		if p.seen[s] < n {
			names = append(names, fmt.Sprintf("%s (%d of %d)", s, p.seen[s], n))
		}
	}
	slices.Sort(names)
	return names
}

func (p *player) verdict() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drift != nil {
		return p.drift
	}
	if m := p.missing(); len(m) > 0 {
		return fmt.Errorf("not seen: %v", m)
	}
	return nil
}

// script3 splits the arguments of an EVALSHA.
func script3(all []any) (sha string, keys []string, args []any) {
	if len(all) < 3 {
		return "", nil, nil
	}
	sha, _ = all[1].(string)
	n, _ := all[2].(int)
	if n < 0 || 3+n > len(all) {
		return sha, nil, nil
	}
	for _, k := range all[3 : 3+n] {
		s, _ := k.(string)
		keys = append(keys, s)
	}
	return sha, keys, all[3+n:]
}
