package job

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// Queue gives tickets to asynq and rings for them. Safe for concurrent use.
type Queue struct{}

// NewQueue returns a Queue on rdb.
func NewQueue(rdb redis.UniversalClient) *Queue { return &Queue{} }

// Enqueue hands a ticket to asynq, now or after delay, and rings the wake channel. A ticket that is there
// already is a success. Safe to repeat after a Retryable error.
func (q *Queue) Enqueue(ctx context.Context, t Ticket, priority string, delay time.Duration) error {
	return errProtocol
}
