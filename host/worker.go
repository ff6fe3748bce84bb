package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/queue"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// lingerFor is how long the last words of an attempt (its terminal frame, its
// hand-over) may take once the host has been told to stop at once.
const lingerFor = 8 * time.Second

// errSelfFence stops what runs here when Redis has not been heard of for long:
// others may be running it by now, and nobody sees what is generated.
var errSelfFence = errors.New("no word from Redis for too long")

// worker turns tickets into answers. Safe for concurrent use.
type worker struct {
	id      string
	config  config.Host
	store   *job.Store
	enqueue func(ctx context.Context, t job.Ticket, priority string, delay time.Duration) error
	routes  *routes
	rooms   *rooms
	canWait func() bool // whether tickets can wait in rooms
	others  *others
	// failedBefore reports whether a task comes out of the archive of failed ones.
	failedBefore func(queue, task string) (bool, error)
	running      *running
	budget       *semaphore.Weighted // bytes waiting for Redis, of all attempts
	report       func(Report)
	metrics      *metrics
	log          *slog.Logger
}

// ProcessTask is the asynq handler.
func (w *worker) ProcessTask(ctx context.Context, task *asynq.Task) error {
	id, _ := asynq.GetTaskID(ctx)
	t, err := job.ParseTicket(id)
	if err != nil {
		w.log.Error("ticket can't be read", "task", id, "error", err)
		return fmt.Errorf("%w: %w", err, asynq.SkipRetry)
	}
	return w.process(ctx, t)
}

// process runs a ticket to its end: a terminal frame, or the ticket of the next
// attempt, or the discovery that it is somebody else's. ctx ends only when the
// host must stop at once. The error is for the queue: it archives the task of a
// job that failed for good.
func (w *worker) process(ctx context.Context, t job.Ticket) error {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer w.running.add(t.Job, stop)()

	spot := w.rooms.claimed(t.TaskID())
	log := w.log.With("job", t.Job, "attempt", t.Attempt)
	last, done := lingering(ctx, lingerFor)
	defer done()
	a, err := w.begin(last, t)
	if err != nil && spot != nil {
		spot.give()
	}
	switch {
	case err == nil:
	case errors.Is(err, job.ErrStale), errors.Is(err, job.ErrCancelled), errors.Is(err, job.ErrNotFound):
		log.Debug("ticket is of no use any more", "reason", err)
		return nil
	case errors.Is(err, job.ErrGone):
		log.Warn("job of a ticket is gone", "error", err)
		return nil
	default:
		return fmt.Errorf("begin attempt of job %s: %w", t.Job, err)
	}
	log = w.log.With("job", t.Job, "attempt", a.Number, "user", a.Job.User)
	// The task of one that is run again from the archive has the id of another attempt.
	x := &attempt{worker: w, Attempt: a, log: log, spot: spot, returns: w.canWait() && a.Number == t.Attempt}
	defer x.leave()
	err = x.generate(run, ctx)
	if errors.Is(err, errNoSlot) {
		var wait error
		if wait, err = x.toRoom(last); err == nil {
			return wait
		}
	}
	return x.end(last, err)
}

// begin begins the attempt of a ticket. It tries until Redis answers, whoever
// cancels the job meanwhile: an attempt that was begun without our knowing would
// be nobody's.
func (w *worker) begin(ctx context.Context, t job.Ticket) (a *job.Attempt, err error) {
	begin := func() error {
		return persist(ctx, func(ctx context.Context) (err error) {
			a, err = w.store.Begin(ctx, t, w.id)
			return err
		})
	}
	if err := begin(); !errors.Is(err, job.ErrStale) {
		return a, err
	}
	// The task of a job that failed lies in asynq's archive under its old id.
	// Run from there, it asks for the next attempt.
	var st job.Status
	err = persist(ctx, func(ctx context.Context) (err error) {
		st, err = w.store.Status(ctx, t.Job)
		return err
	})
	if err != nil {
		return nil, err
	}
	if st.State != job.StateFailed || st.Attempt < t.Attempt {
		return nil, job.ErrStale
	}
	name, _ := asynq.GetQueueName(ctx)
	if again, err := w.failedBefore(name, t.TaskID()); err != nil || !again {
		return nil, errors.Join(job.ErrStale, err)
	}
	t.Attempt = st.Attempt + 1
	err = begin()
	return a, err
}

// pick finds who answers: the first of the job's models, beginning with the
// one whose turn it is, that is served here. A model before it that only
// another host serves is that host's: errElsewhere.
func (w *worker) pick(ctx context.Context, models []string, turn int) (route, string, error) {
	for i := range models {
		model := models[(turn+i)%len(models)]
		if r, ok := w.routes.take(model); ok {
			return r, model, nil
		}
		there := false
		err := persist(ctx, func(ctx context.Context) (err error) {
			there, err = w.others.serve(ctx, model)
			return err
		})
		switch {
		case err != nil:
			return route{}, "", fmt.Errorf("look for another host: %w", err)
		case there:
			return route{}, model, errElsewhere
		}
	}
	return route{}, "", &sdk.Error{
		Kind: sdk.Unavailable, Fault: sdk.Host, Code: codeUnknownModel, Message: "no host serves any of the job's models",
	}
}

var (
	errElsewhere = errors.New("another host serves the model")
	// errStopping is the cause when the host must stop at once.
	errStopping = queue.ErrStopping
)
