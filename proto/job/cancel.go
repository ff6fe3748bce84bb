package job

import "context"

// Cancel ends a job for its user (or for anybody's if admin). ErrNotFound also for foreign jobs. The state
// returned is the one the cancel found: running means that its host writes the receipt; queued and waiting jobs
// are ended by Cancel itself and StateCancelled is returned; a terminal state is left as it is. Idempotent.
// After it returns no chunk is appended any more.
func (s *Store) Cancel(ctx context.Context, id, user string, admin bool) (State, error) {
	return "", errProtocol
}

// Cancels calls f with the id of each running job that is cancelled, until ctx ends. After a (re)subscription it
// calls f(""): cancels may have been missed, ask CancelledOf. Blocks; returns only ctx's error.
func (s *Store) Cancels(ctx context.Context, f func(id string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// CancelledOf returns those of ids that have been cancelled.
func (s *Store) CancelledOf(ctx context.Context, ids ...string) ([]string, error) {
	return nil, errProtocol
}
