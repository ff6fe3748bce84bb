package job

import (
	"context"
	"fmt"
)

// Return takes the begin of the attempt back: the job is queued as before, and the same ticket begins the same
// attempt again, here or elsewhere. Only while nothing was given to Append. The caller sees to it that the ticket
// stays in the queue. ErrFenced, ErrCancelled (Finish with a *Cancelled) and ErrGone as in Append; after a Retryable
// error call it again.
func (a *Attempt) Return(ctx context.Context) error {
	if n := len(a.frames); n > 0 && !a.frames[n-1].earlier || a.ending != nil {
		return fmt.Errorf("return job %s: %w: the attempt is under way", a.Job.ID, errEncode)
	}
	first := ""
	if a.Started.Equal(a.Begun) {
		first = "1"
	}
	n, err := returnScript.Run(ctx, a.s.rdb, []string{metaKey(a.Job.ID)}, a.Number, a.s.holder, first).Int64()
	switch {
	case err != nil:
		return fmt.Errorf("return job %s: %w", a.Job.ID, err)
	case n == codeFenced:
		return a.refuse(ErrFenced)
	case n == codeCancelled:
		return a.refuse(ErrCancelled)
	case n == codeGone:
		return a.refuse(ErrGone)
	}
	a.s.letGo(a.ticket())
	a.ending = ErrFenced
	// The entry may stay behind if Redis is gone now: it is ignored by whoever reclaims this host.
	if err := a.s.rdb.SRem(ctx, hostJobsKey(a.host), a.ticket().TaskID()).Err(); err != nil && !Retryable(err) && ctx.Err() == nil {
		return fmt.Errorf("forget job %s of host %s: %w", a.Job.ID, a.host, err)
	}
	return nil
}
