package queue

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// quietFor is the usual bell.quiet.
const quietFor = 15 * time.Second

// A bell listens for the names of queues that got a task. It may miss some: all
// it promises is that having been away counts as a ring for every queue.
type bell struct {
	wake  func(queue string) // "" = all
	quiet time.Duration      // how long it may hear nothing before it asks whether anybody is there
}

// listen runs until ctx ends. subscribe makes the subscription.
func (b *bell) listen(ctx context.Context, subscribe func(context.Context) *redis.PubSub) error {
	sub := subscribe(ctx)
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // Receive does not mind ctx
	defer stop()
	var back time.Duration
	for ctx.Err() == nil {
		m, err := sub.ReceiveTimeout(ctx, b.quiet)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && sub.Ping(ctx) == nil {
				continue
			}
			// The next Receive connects and subscribes again. The first at once:
			// until then every ring is lost.
			pause(ctx, back)
			back = min(2*back+time.Millisecond, 200*time.Millisecond)
			continue
		}
		back = 0
		switch m := m.(type) {
		case *redis.Subscription:
			b.wake("") // whatever was rung meanwhile is lost
		case *redis.Message:
			b.wake(m.Payload)
		}
	}
	return nil
}

// subscriptions are what has to be listened to: one channel for all queues, or
// on Cluster one for each, in the slot of its queue.
func subscriptions(rdb redis.UniversalClient, lines []*line) []func(context.Context) *redis.PubSub {
	if !isCluster(rdb) {
		return []func(context.Context) *redis.PubSub{
			func(ctx context.Context) *redis.PubSub { return rdb.Subscribe(ctx, job.WakeChannel) },
		}
	}
	var subs []func(context.Context) *redis.PubSub
	for _, l := range lines {
		subs = append(subs, func(ctx context.Context) *redis.PubSub {
			return rdb.SSubscribe(ctx, job.ShardWakeChannel(l.name))
		})
	}
	return subs
}

// ring tells all hosts that the queue got a task.
func ring(ctx context.Context, rdb redis.UniversalClient, queue string) error {
	return publish(ctx, rdb, queue, queue)
}

// publish tells all hosts that take from the queue.
func publish(ctx context.Context, rdb redis.UniversalClient, queue, what string) error {
	if isCluster(rdb) {
		return rdb.SPublish(ctx, job.ShardWakeChannel(queue), what).Err()
	}
	return rdb.Publish(ctx, job.WakeChannel, what).Err()
}

func isCluster(rdb redis.UniversalClient) bool {
	_, ok := rdb.(interface {
		ForEachMaster(context.Context, func(context.Context, *redis.Client) error) error
	})
	return ok
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
