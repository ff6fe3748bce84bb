package job

import (
	"context"
	"time"
)

// Attempt is one execution of a job, held by one host. Not safe for concurrent use.
//
// It may be held through an outage of Redis of any length. Events given to Append are taken: after a
// Retryable error they are kept, and the next Append, also one without events, writes them again under the
// same seq; giving the same events again would write them twice. If Redis comes back without the record, or
// with an older one, Append seeds the record again from memory (see Job) with the frames of this attempt.
type Attempt struct {
	Job    Job
	Number int64
	Seq    int64 // last frame appended and acknowledged
	// Reset is what the attempt's model:start should say: the text of earlier attempts is dropped.
	// It is false for the first attempt and under PolicyContinue; a host whose model can't continue sets it.
	Reset bool
	// Prefix is the text so far that an attempt without Reset goes on from.
	Prefix string

	Created, Started, Begun time.Time // Redis time: the job's creation, its first attempt's begin, this attempt's begin
	Crashes                 int64     // hosts lost so far
}

// Begin turns a ticket into the next attempt and fences all earlier ones. ErrStale if that attempt was begun
// before or the job has ended, ErrCancelled if the job was cancelled (its terminal frame is then written),
// ErrGone if Redis has no record of it. A failed job begins again only with the ticket after its last attempt.
func (s *Store) Begin(ctx context.Context, t Ticket, host string) (*Attempt, error) {
	return nil, errProtocol
}

// Append writes events to the log and publishes them, all or none, in order, each once. It fills their Head and
// a chunk's Index. ErrFenced and ErrCancelled are final: the events were refused, stop generating (after
// ErrCancelled, Finish with a *Cancelled). ErrBacklog: Options.MaxBacklog is held already and these events
// were not taken; call Append without events until it succeeds. Any other Retryable error: see Attempt.
func (a *Attempt) Append(ctx context.Context, events ...Event) error { return errProtocol }

// Finish writes the terminal frame and the terminal state in one step: *Complete, *Error or
// *Cancelled. ErrCancelled: a cancel came first, Finish with a *Cancelled. After a Retryable error call
// it again; the first terminal event of its kind counts. Text of a *Cancelled is set to what the log holds.
func (a *Attempt) Finish(ctx context.Context, terminal Event) error { return errProtocol }

// Release gives the job back for another attempt: next is StateQueued (hand-over) or StateWaiting (retry). The caller
// enqueues the ticket, then calls Done. ErrFenced, ErrCancelled (Finish with a *Cancelled) as in Append.
func (a *Attempt) Release(ctx context.Context, next State) (Ticket, error) {
	return Ticket{}, errProtocol
}

// Done forgets the attempt in the index of what its host runs. Finish does it by itself; after Release it is
// called when the ticket is enqueued: until then whoever reclaims the host enqueues it.
func (a *Attempt) Done(ctx context.Context) error { return nil }

// Text is the answer so far as the log holds it.
func (a *Attempt) Text() string { return "" }

// Elapsed is the time since the job started, across attempts and hosts.
func (a *Attempt) Elapsed() time.Duration { return 0 }
