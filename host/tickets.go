package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/host/queue"
	"github.com/sluicehq/sluice/proto/job"
)

// tickets puts the tickets of further attempts into the queue that this host
// serves, through the queue's own client: so a delay is kept to the millisecond
// and the queue knows of it. Safe for concurrent use.
type tickets struct{ client *asynq.Client }

func newTickets(q *queue.Queue) *tickets {
	return &tickets{asynq.NewClientFromRedisClient(q.Client())}
}

// What a ticket is to asynq: never tried again by its word, since the job's
// record decides that, and without a deadline that matters.
const (
	taskRetries = 50
	taskTimeout = 2 * time.Hour
)

// enqueue hands a ticket out, now or after delay. One that is there already is
// a success: it may be repeated.
func (q *tickets) enqueue(ctx context.Context, t job.Ticket, priority string, delay time.Duration) error {
	payload, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode ticket %s: %w", t.TaskID(), err)
	}
	opts := []asynq.Option{
		asynq.TaskID(t.TaskID()), asynq.Queue(job.QueueName(priority)), asynq.MaxRetry(taskRetries), asynq.Timeout(taskTimeout),
	}
	if delay > 0 {
		due := time.Now().Add(delay)
		ctx = queue.DueAt(ctx, due)
		opts = append(opts, asynq.ProcessAt(due))
	}
	_, err = q.client.EnqueueContext(ctx, asynq.NewTask(job.TaskType, payload), opts...)
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue %s: %w", t.TaskID(), err)
	}
	return nil
}
