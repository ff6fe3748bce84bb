package job

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// errAway is what everybody may know of a Redis that gives no answer: not where it is.
var errAway = errors.New("redis can't be reached")

// Writable returns nil when Redis takes writes, and else why not, in words that are fit for everybody: what Redis
// says, or that it says nothing. It writes nothing: SET with XX on a key that never exists is refused as a write is,
// by a Redis that is out of memory, can't write to its disk, or is a replica. A PING is answered by most of those.
func (s *Store) Writable(ctx context.Context) error {
	err := s.rdb.SetXX(ctx, probeKey, "", 0).Err()
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	if said, ok := errors.AsType[redis.Error](err); ok {
		return fmt.Errorf("redis takes no writes: %w", said)
	}
	return errAway
}
