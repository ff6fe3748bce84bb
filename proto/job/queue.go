package job

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// What a ticket is to asynq. A job's own budget of attempts is the host's business; its tasks are never retried
// by asynq unless a host fails to settle one.
const (
	taskMaxRetry = 50
	taskTimeout  = 2 * time.Hour
)

// Queue gives tickets to asynq and rings for them. Safe for concurrent use.
type Queue struct{ client *asynq.Client }

// NewQueue returns a Queue on rdb: the client itself, not one wrapped in another type, which would hide a Cluster.
func NewQueue(rdb redis.UniversalClient) *Queue {
	_, cluster := rdb.(*redis.ClusterClient)
	return &Queue{asynq.NewClientFromRedisClient(&bell{UniversalClient: rdb, sharded: cluster})}
}

// Enqueue hands a ticket to asynq, now or after delay (never earlier), and rings the wake channel. A ticket that
// is there already is a success. Safe to repeat after a Retryable error.
func (q *Queue) Enqueue(ctx context.Context, t Ticket, priority string, delay time.Duration) error {
	if err := CheckID(t.Job); err != nil {
		return err
	}
	payload, err := appendJSON(nil, t)
	if err != nil {
		return fmt.Errorf("enqueue %s: %w: %w", t.TaskID(), errEncode, err)
	}
	opts := []asynq.Option{
		asynq.TaskID(t.TaskID()), asynq.Queue(QueueName(priority)), asynq.MaxRetry(taskMaxRetry), asynq.Timeout(taskTimeout),
	}
	if delay > 0 {
		due := time.Now().Add(delay)
		ctx = context.WithValue(ctx, dueKey{}, due)
		opts = append(opts, asynq.ProcessAt(due))
	}
	_, err = q.client.EnqueueContext(ctx, asynq.NewTask(TaskType, payload), opts...)
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue %s: %w", t.TaskID(), err)
	}
	return nil
}

type dueKey struct{}

// bell wraps the client that asynq enqueues with. Each state change of asynq is one script:
//
//	enqueue   KEYS asynq:{<queue>}:t:<id>, asynq:{<queue>}:pending
//	schedule  KEYS asynq:{<queue>}:t:<id>, asynq:{<queue>}:scheduled  ARGV message, due in whole seconds, task id
//
// It rings the wake channel in the pipeline of the script, and gives schedule the due time to the millisecond:
// cut to whole seconds it would be up to a second early.
type bell struct {
	redis.UniversalClient
	sharded bool
}

func (b *bell) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return b.ring(ctx, keys, args, func(p redis.Pipeliner, args []any) *redis.Cmd { return p.EvalSha(ctx, sha, keys, args...) })
}

func (b *bell) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return b.ring(ctx, keys, args, func(p redis.Pipeliner, args []any) *redis.Cmd { return p.Eval(ctx, script, keys, args...) })
}

func (b *bell) ring(ctx context.Context, keys []string, args []any, run func(redis.Pipeliner, []any) *redis.Cmd) *redis.Cmd {
	p := b.Pipeline()
	if len(keys) < 2 {
		cmd := run(p, args)
		p.Exec(ctx) // its error is cmd's
		return cmd
	}
	if due, ok := ctx.Value(dueKey{}).(time.Time); ok && strings.HasSuffix(keys[1], ":scheduled") && len(args) > 1 {
		args = append([]any(nil), args...)
		args[1] = strconv.FormatFloat(float64(due.UnixMilli())/1000, 'f', 3, 64)
	}
	cmd := run(p, args)
	_, rest, _ := strings.Cut(keys[1], "{")
	queue, _, _ := strings.Cut(rest, "}")
	if b.sharded {
		p.SPublish(ctx, ShardWakeChannel(queue), queue)
	} else {
		p.Publish(ctx, WakeChannel, queue)
	}
	p.Exec(ctx) // a lost ring costs the fallback interval of the host's poll; the script's error is cmd's
	return cmd
}
