package job

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// Options of a Store; the zero value is usable.
type Options struct {
	TTL        time.Duration // of every key of a job after its last frame; 0 = 24 h
	MaxRequest int           // bytes of an encoded Job; 0 = 4 MiB
	General    bool          // publish every frame on the general channels too
	MaxCrashes int64         // hosts a job may lose before Reclaim fails it; 0 = 3
	MaxBacklog int           // bytes of frames an Attempt holds while Redis takes none; 0 = 4 MiB
}

// Store reads and writes jobs. Safe for concurrent use.
type Store struct {
	rdb redis.UniversalClient
	o   Options
}

// NewStore returns a Store on rdb: single, Sentinel, Cluster, or miniredis.
func NewStore(rdb redis.UniversalClient, o Options) *Store {
	if o.TTL <= 0 {
		o.TTL = 24 * time.Hour
	}
	if o.MaxRequest <= 0 {
		o.MaxRequest = 4 << 20
	}
	if o.MaxCrashes <= 0 {
		o.MaxCrashes = 3
	}
	if o.MaxBacklog <= 0 {
		o.MaxBacklog = 4 << 20
	}
	return &Store{rdb: rdb, o: o}
}

// Create accepts a job: it writes the record and makes it known to the owner's tabs (job:started on
// UserChannel). Idempotent per (id, user): again, it returns the record as it is and created = false, and the
// caller enqueues Ticket{id, Attempt+1} again if the state is queued. ErrExists if the id is another user's,
// ErrTooLarge over Options.MaxRequest, *IDError for a bad id.
func (s *Store) Create(ctx context.Context, j Job) (st Status, created bool, err error) {
	return st, false, errProtocol
}

// Status returns a job's record, ErrNotFound if there is none. It doesn't check who asks: compare User.
func (s *Store) Status(ctx context.Context, id string) (Status, error) {
	return Status{}, errProtocol
}
