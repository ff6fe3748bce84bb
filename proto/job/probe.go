package job

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// errAway is what everybody may know of a Redis that gives no answer: not where it is.
var errAway = errors.New("redis can't be reached")

// Writable returns nil when Redis takes writes and publications, and else why not, in words that are fit for
// everybody: what Redis says, or that it says nothing. It writes nothing: SET with XX on a key that never exists is
// refused as a write is, by a Redis that is out of memory, can't write to its disk, or is a replica. A PING is answered
// by most of those. Nobody listens to the channel that it publishes on, also not to a pattern of jobs' channels; a user
// has none if nobody thought of them.
func (s *Store) Writable(ctx context.Context) error {
	var said redis.Error
	err := s.rdb.SetXX(ctx, probeKey, "", 0).Err()
	switch {
	case errors.As(err, &said) && !errors.Is(err, redis.Nil):
		return fmt.Errorf("redis takes no writes: %w", said)
	case err != nil && !errors.Is(err, redis.Nil):
		return errAway
	}
	switch err := s.rdb.Publish(ctx, userChannelPrefix, "").Err(); {
	case errors.As(err, &said):
		return fmt.Errorf("redis takes no publications: %w", said)
	case err != nil:
		return errAway
	}
	return nil
}
