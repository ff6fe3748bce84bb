package job

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

func TestQueue(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		_, sharded := rdb.(*redis.ClusterClient)
		var bell *redis.PubSub
		if sharded {
			bell = rdb.SSubscribe(ctx, ShardWakeChannel(QueueHigh))
		} else {
			bell = rdb.Subscribe(ctx, WakeChannel)
		}
		defer bell.Close()
		if _, err := bell.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		rung := func(queue string) {
			t.Helper()
			for { // a script that Redis doesn't know yet rings twice
				m, err := bell.ReceiveTimeout(ctx, soon)
				must(t, err)
				if msg, ok := m.(*redis.Message); ok && msg.Payload == queue {
					return
				}
			}
		}
		q := NewQueue(rdb)
		k := Ticket{Job: "a:b", Attempt: 1}
		must(t, q.Enqueue(ctx, k, PriorityHigh, 0))
		rung(QueueHigh)
		must(t, q.Enqueue(ctx, k, PriorityHigh, 0)) // there already
		rung(QueueHigh)
		later := Ticket{Job: "a:b", Attempt: 2}
		delay := 90*time.Second + 900*time.Millisecond
		due := time.Now().Add(delay)
		must(t, q.Enqueue(ctx, later, PriorityHigh, delay))
		rung(QueueHigh)
		z := rdb.ZRangeWithScores(ctx, "asynq:{"+QueueHigh+"}:scheduled", 0, -1).Val()
		if len(z) != 1 || z[0].Score < float64(due.UnixMilli())/1000 || z[0].Score > float64(due.UnixMilli())/1000+10 {
			t.Fatalf("due at %v: %v", due.Unix(), z)
		}
		if err := q.Enqueue(ctx, Ticket{Job: "a b"}, "", 0); err == nil || Retryable(err) {
			t.Fatal(err)
		}

		in := asynq.NewInspectorFromRedisClient(rdb)
		for _, k := range []Ticket{k, later} {
			info, err := in.GetTaskInfo(QueueHigh, k.TaskID())
			must(t, err)
			var got Ticket
			must(t, json.Unmarshal(info.Payload, &got))
			if got != k || info.Type != TaskType || info.MaxRetry != taskMaxRetry || info.Timeout != taskTimeout {
				t.Fatalf("%+v", info)
			}
		}
		if sharded {
			return // the default queue's bell is another channel
		}
		must(t, q.Enqueue(ctx, k, "", 0))
		rung(QueueDefault)
	})
}

// asynq itself takes the tickets.
func TestQueueIsServed(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		got := make(chan string, 10)
		srv := asynq.NewServerFromRedisClient(rdb, asynq.Config{
			Concurrency: 2, Queues: Queues(), TaskCheckInterval: 10 * time.Millisecond, LogLevel: asynq.FatalLevel,
		})
		must(t, srv.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
			id, _ := asynq.GetTaskID(ctx)
			got <- task.Type() + " " + id
			return nil
		})))
		defer srv.Shutdown()
		q := NewQueue(rdb)
		for _, p := range []string{PriorityHigh, PriorityLow, PriorityDefault, "", "odd"} {
			k := Ticket{Job: NewID(), Attempt: 1}
			must(t, q.Enqueue(t.Context(), k, p, 0))
			select {
			case s := <-got:
				if s != TaskType+" "+k.TaskID() {
					t.Fatal(s)
				}
			case <-time.After(soon):
				t.Fatal("not served")
			}
		}
	})
}
