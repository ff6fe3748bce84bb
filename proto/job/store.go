package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
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
//
// A Store that begins attempts stands for one incarnation of a host: a process makes one.
type Store struct {
	rdb    redis.UniversalClient
	o      Options
	holder string // random: tells this incarnation's attempts from those of an earlier one under the same host id

	mu   sync.Mutex
	held map[Ticket]struct{} // attempts begun here and not ended yet

	look    int                  // shard of open jobs to look at next; of Orphans alone
	idle    bool                 // there were no open jobs in any shard; of Orphans alone
	missing map[Ticket]time.Time // tickets that a look did not find; of Orphans alone
}

// NewStore returns a Store on rdb: single, Sentinel, Cluster, or miniredis; the client itself, not one wrapped in
// another type, which would hide a Cluster. ContextTimeoutEnabled should be set, else deadlines of a ctx are not kept.
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
	return &Store{rdb: rdb, o: o, holder: NewID(), held: make(map[Ticket]struct{}), missing: make(map[Ticket]time.Time)}
}

// Create accepts a job: it writes the record and makes it known to the owner's tabs (job:started on
// UserChannel). Idempotent per (id, tenant, user): again, it returns the record as it is and created = false, and the
// caller enqueues Ticket{id, Attempt+1} again if the state is queued. ErrExists if the id is another user's,
// ErrTooLarge over Options.MaxRequest, *IDError for a bad id.
func (s *Store) Create(ctx context.Context, j Job) (st Status, created bool, err error) {
	if err := CheckID(j.ID); err != nil {
		return Status{}, false, err
	}
	req, err := appendJSON(nil, j)
	if err != nil {
		return Status{}, false, fmt.Errorf("%w %s: %w", errEncode, j.ID, err)
	}
	if len(req) > s.o.MaxRequest {
		return Status{}, false, fmt.Errorf("request of %d bytes, at most %d: %w", len(req), s.o.MaxRequest, ErrTooLarge)
	}
	now := time.Now().UnixMilli()
	started := &Started{JobID: j.ID, Query: j.Query, Created: now}
	if len(j.Models) > 0 {
		started.Model = j.Models[0]
	}
	frame, err := encodeFrame(started, now)
	if err != nil {
		return Status{}, false, err
	}
	keys, args := []string{metaKey(j.ID)}, []any{j.User, j.Tenant, req, j.Policy, j.Priority, s.o.TTL.Milliseconds(),
		UserChannel(Owner(j.Tenant, j.User)), frame}
	var cmd *redis.Cmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		s.open(ctx, p, j.ID)
		cmd = createScript.EvalSha(ctx, p, keys, args...)
		return nil
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd, err = createScript.Eval(ctx, s.rdb, keys, args...), nil
	}
	if err != nil {
		return Status{}, false, fmt.Errorf("create job %s: %w", j.ID, err)
	}
	r, err := cmd.Slice()
	if err != nil {
		return Status{}, false, fmt.Errorf("create job %s: %w", j.ID, err)
	}
	switch code, _ := r[0].(int64); {
	case code == 1 && len(r) == 2:
		return Status{ID: j.ID, User: j.User, Tenant: j.Tenant, State: StateQueued, Created: redisTime(r[1])}, true, nil
	case code == 0:
		st, err := s.Status(ctx, j.ID)
		return st, false, err
	case code == -1:
		return Status{}, false, ErrExists
	}
	return Status{}, false, fmt.Errorf("create job %s: %w: %v", j.ID, errProtocol, r)
}

// statusFields are read in this order by parseStatus.
var statusFields = []string{"user", "tenant", "state", "attempt", "seq", "model", "host", "crashes", "cancel", "created", "started", "ended"}

// Status returns a job's record, ErrNotFound if there is none. It doesn't check who asks: compare Owner.
func (s *Store) Status(ctx context.Context, id string) (Status, error) {
	if err := CheckID(id); err != nil {
		return Status{}, err
	}
	v, err := s.rdb.HMGet(ctx, metaKey(id), statusFields...).Result()
	if err != nil {
		return Status{}, fmt.Errorf("read status of job %s: %w", id, err)
	}
	return parseStatus(id, v)
}

func parseStatus(id string, v []any) (Status, error) {
	if len(v) != len(statusFields) {
		return Status{}, fmt.Errorf("read status of job %s: %w: %d fields", id, errProtocol, len(v))
	}
	if v[2] == nil {
		return Status{}, ErrNotFound
	}
	return Status{
		ID: id, User: text(v[0]), Tenant: text(v[1]), State: State(text(v[2])), Attempt: integer(v[3]), Seq: integer(v[4]),
		Model: text(v[5]), Host: text(v[6]), Crashes: integer(v[7]), Cancel: v[8] != nil,
		Created: redisTime(v[9]), Started: redisTime(v[10]), Ended: redisTime(v[11]),
	}, nil
}

// Request returns a job as it was created.
func (s *Store) Request(ctx context.Context, id string) (Job, error) {
	if err := CheckID(id); err != nil {
		return Job{}, err
	}
	v, err := s.rdb.HMGet(ctx, metaKey(id), "req", "created").Result()
	if err != nil {
		return Job{}, fmt.Errorf("read request of job %s: %w", id, err)
	}
	if v[0] == nil {
		return Job{}, ErrNotFound
	}
	return parseRequest(id, text(v[0]), redisTime(v[1]))
}

func parseRequest(id, req string, created time.Time) (Job, error) {
	var j Job
	if err := json.Unmarshal([]byte(req), &j); err != nil {
		return Job{}, fmt.Errorf("decode request of job %s: %w", id, errors.Join(errProtocol, err))
	}
	j.ID, j.Created = id, created
	return j, nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func integer(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	return 0
}

// redisTime reads ms since the epoch; zero time for nothing.
func redisTime(v any) time.Time {
	ms := integer(v)
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
