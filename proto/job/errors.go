package job

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Errors, told apart by what the receiver should do. Test with errors.Is; *IDError with errors.As.
var (
	// ErrNotFound: no such job, or not this user's.
	ErrNotFound = errors.New("no such job")
	// ErrExists: the id is taken by another user.
	ErrExists = errors.New("job id is taken")
	// ErrFenced: another attempt owns the job, or it has ended. Stop at once, say nothing.
	ErrFenced = errors.New("fenced: the attempt no longer owns its job")
	// ErrCancelled: the job was cancelled. A running attempt stops and finishes with an EventCancelled.
	ErrCancelled = errors.New("job was cancelled")
	// ErrGone: Redis lost the record.
	ErrGone = errors.New("gone: Redis lost the job's record")
	// ErrTooLarge: the request or a frame is over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrStale: the ticket's attempt was begun before, or the job has ended. Drop the ticket.
	ErrStale = errors.New("stale ticket")
	// ErrBacklog: an attempt holds too many frames that Redis has not taken; the events were not accepted.
	ErrBacklog = errors.New("too many frames waiting for Redis")
)

// Retryable reports whether the same call may succeed later: Redis was away, slow, loading, failing over, out of
// memory, or the outcome is unknown. Every operation of this package may be repeated after such an error.
// It is false for refusals (fenced, cancelled, …), for bad input and for a context cancelled by the caller.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if errors.Is(err, ErrBacklog) {
		return true
	}
	for _, final := range []error{ErrNotFound, ErrExists, ErrFenced, ErrCancelled, ErrGone, ErrTooLarge, ErrStale, errEncode, errProtocol} {
		if errors.Is(err, final) {
			return false
		}
	}
	if _, bad := errors.AsType[*IDError](err); bad {
		return false
	}
	if errors.Is(err, redis.ErrClosed) {
		return false
	}
	if re, isReply := errors.AsType[redis.Error](err); isReply {
		return retryableReply(re.Error())
	}
	return true
}

// retryableReply tells a server's passing troubles from its refusals.
func retryableReply(msg string) bool {
	for _, p := range []string{"LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "OOM", "BUSY", "MOVED", "ASK", "MISCONF", "NOSCRIPT", "UNBLOCKED", "EXECABORT", "ERR max number of clients"} {
		if strings.HasPrefix(msg, p) {
			return true
		}
	}
	return strings.Contains(msg, "OOM command not allowed") // as a script reports it
}

var (
	errEncode   = errors.New("encode event")
	errProtocol = errors.New("unexpected reply from Redis")
)
