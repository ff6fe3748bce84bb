package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/host/queue"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// How long a plugin may take to return once its generation has been stopped:
// the receipt waits for its last words (the usage), the slot for its return.
const (
	lastWords = 250 * time.Millisecond
	abandon   = 5 * time.Second
)

// lastWrite is how long a write under way may take once the attempt is over,
// before its connection is cut.
const lastWrite = 200 * time.Millisecond

// Statuses of task:progress:v1 that the host writes. The last two also keep
// count of the failures of a job: see history.
const (
	statusStarted    = "started"
	statusWaiting    = "waiting"    // for the model's first chunk
	statusGenerating = "generating" // chunks are arriving
	statusRetrying   = "retrying"   // failed; the next attempt asks the job's next model
	statusLimited    = "limited"    // failed; the next attempt asks the same model, once it may
)

// attempt is one execution of a job on this host.
type attempt struct {
	*job.Attempt
	worker *worker
	log    *slog.Logger

	route    route
	model    string
	turn     int // which of the job's models is asked first
	failures int // failed attempts before this one
	answer   answer
	stream   *stream
	spot     *spot // nil until there is one
	returns  bool  // its ticket can be given back as if it had not begun
	call     *call // nil until the provider is asked
	began    time.Time
	took     time.Duration
}

// generate runs the provider and writes what it says. nil means that the answer
// is whole and all of it but the terminal frame is in the log. run ends when the
// attempt must stop, with the reason as its cause; host when the host must. The
// provider may still be at work then: see leave.
func (a *attempt) generate(run, host context.Context) error {
	a.began = time.Now()
	defer func() { a.took = time.Since(a.began) }()
	req, err := a.prepare(run)
	if err != nil {
		return err
	}
	if err := a.enter(run); err != nil {
		return err
	}
	p := a.route.plugin
	a.began = time.Now()
	a.worker.metrics.began()

	generation, cancel := context.WithCancelCause(run)
	defer cancel(nil)
	w := a.worker
	a.stream = newStream(a.Attempt, w.config.Coalesce, int(w.config.Buffer.Job), w.budget, int64(w.config.Buffer.Total), cancel)
	a.stream.push(&job.Start{Provider: p.name, PluginDigest: p.digest, Model: a.model, Reset: a.Reset})
	a.stream.push(&job.Progress{Status: statusStarted, Message: "attempt " + fmt.Sprint(a.Number)})
	writing, cut := context.WithCancelCause(context.WithoutCancel(host))
	written := make(chan error, 1)
	go func() { written <- a.stream.run(writing) }()
	defer cut(nil)

	a.call = a.ask(generation, cancel, req)
	err = a.wait(generation, a.call)

	// Cancelled, fenced, told to stop: what waits is of no use.
	giveUp := func(cause error) error {
		a.stream.fail(cause)
		late := time.AfterFunc(lastWrite, func() { cut(cause) })
		defer late.Stop()
		<-written
		return cause
	}
	if cause := lostCause(generation); cause != nil {
		return giveUp(cause)
	}
	// Whole or broken off, what was said belongs in the log.
	a.stream.close()
	select {
	case werr := <-written:
		if werr != nil {
			return werr
		}
	case <-run.Done():
		return giveUp(context.Cause(run))
	}
	if errors.Is(err, errRetired) {
		return err
	}
	if err != nil {
		return failure(generation, err)
	}
	return nil
}

// prepare decides who answers, and reads the request.
func (a *attempt) prepare(ctx context.Context) (*sdk.Request, error) {
	req, err := requestOf(a.Job)
	if err != nil {
		return nil, err
	}
	if a.Number > 1 {
		err := persist(ctx, func(ctx context.Context) (err error) {
			a.failures, a.turn, err = a.worker.history(ctx, a.Job.ID)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the job's history: %w", err)
		}
	}
	a.route, a.model, err = a.worker.pick(ctx, a.Job.Models, a.turn)
	if err != nil {
		return nil, err
	}
	p := a.route.plugin
	a.log = a.log.With("provider", p.name, "model", a.model)
	a.answer.limit, a.answer.hidden = p.limits.Output, int64(a.route.model.OutputTokens)
	req.Attempt, req.Model, req.Settings = a.Number, a.model, p.settings
	if !a.Reset && a.Prefix != "" {
		if p.continues(a.route.model) {
			req.Prefix = a.Prefix
		} else {
			a.Reset = true
		}
	}
	return req, nil
}

// enter finds the attempt its place: a seat on the host, and a slot of its
// provider. Without one it fails with errNoSlot.
func (a *attempt) enter(ctx context.Context) (err error) {
	p, r := a.route.plugin, a.worker.rooms
	if a.spot != nil && a.spot.provider == p.slots {
		return nil // it was let in
	}
	if a.spot != nil { // for another provider: its models have changed hands since
		a.spot.give()
	}
	if a.spot = r.enter(job.QueueName(a.Job.Priority), p.name, p.slots); a.spot != nil {
		return nil
	}
	if a.returns {
		return errNoSlot
	}
	a.spot, err = r.wait(ctx, p.slots)
	return err
}

// toRoom has the ticket of an attempt that found no slot wait for one; its error
// says so to the queue. The attempt has never been then.
func (a *attempt) toRoom(ctx context.Context) (wait, err error) {
	if err := persist(ctx, a.Return); err != nil {
		return nil, err
	}
	flow := a.Job.Tenant
	if flow == "" {
		flow = a.Job.User
	}
	a.log.Debug("no slot is free: the ticket waits")
	return queue.Wait(a.route.plugin.name, flow), nil
}

// call is a provider at work.
type call struct {
	done chan struct{}
	err  error // once done is closed
}

// ask starts the provider in a goroutine of its own: one that doesn't obey
// its context must not hold up the job.
func (a *attempt) ask(ctx context.Context, cancel context.CancelCauseFunc, req *sdk.Request) *call {
	p := a.route.plugin
	total := p.limits.Total
	if t := a.worker.config.Timeout; t > 0 && (total <= 0 || t < total) {
		total = t
	}
	limits := startDeadlines(total, p.limits.FirstToken, p.limits.Idle, cancel)
	var text runes
	say := func(c sdk.Chunk) error {
		if silent(c) {
			return nil
		}
		return a.stream.emit(ctx, c)
	}
	emit := func(c sdk.Chunk) error {
		if ctx.Err() != nil {
			if _, ok := c.(sdk.Usage); ok { // last words
				return a.answer.take(c)
			}
			return a.answer.refuse(context.Cause(ctx))
		}
		limits.arrived(c)
		if t, ok := c.(sdk.Text); ok {
			c = sdk.Text(text.whole(string(t)))
		}
		if err := a.answer.take(c); err != nil {
			cancel(err)
			return a.answer.refuse(err)
		}
		if err := say(c); err != nil {
			return a.answer.refuse(err)
		}
		limits.delivered()
		return nil
	}
	c := &call{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.err = p.generate(ctx, req, emit)
		limits.end()
		if c.err == nil {
			c.err = say(sdk.Text(text.rest()))
		}
		if c.err == nil {
			c.err = a.answer.refusal() // the provider didn't look
		}
	}()
	return c
}

// wait waits for the provider, reporting progress, until it returns or its
// generation is stopped and it has had its last words.
func (a *attempt) wait(ctx context.Context, c *call) error {
	tick := time.NewTicker(a.worker.config.Progress)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return c.err
		case <-tick.C:
			a.stream.push(a.progress())
		case <-ctx.Done():
			last := time.NewTimer(lastWords)
			defer last.Stop()
			select {
			case <-c.done:
				return c.err
			case <-last.C:
				return context.Cause(ctx)
			}
		}
	}
}

// leave waits until the provider has returned, which it may not have when its
// answer was no longer waited for, and gives its slot back.
func (a *attempt) leave() {
	if a.route.plugin != nil {
		defer a.route.plugin.done()
	}
	if a.spot != nil {
		defer a.spot.give()
	}
	if a.call == nil {
		return
	}
	timer := time.NewTimer(abandon)
	defer timer.Stop()
	select {
	case <-a.call.done:
	case <-timer.C:
		a.log.Error("plugin goes on after its generation was stopped", "waited", abandon)
	}
}

// progress tells how far a long answer is. Where it will end is not known: the
// figure only ever grows towards 1.
func (a *attempt) progress() *job.Progress {
	n := a.answer.tokens()
	if a.answer.firstAt().IsZero() {
		return &job.Progress{Status: statusWaiting, Message: "waiting for the model"}
	}
	return &job.Progress{Progress: float64(n) / float64(n+500), Status: statusGenerating, Message: fmt.Sprintf("%d tokens", n)}
}

// lostCause is why nobody wants the answer any more, nil while somebody does.
func lostCause(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.As(cause, new(*sdk.Error)) {
		return nil
	}
	return cause
}

// end writes how the attempt ended. Its error archives the task.
func (a *attempt) end(ctx context.Context, err error) error {
	outcome, err := a.settle(ctx, err)
	if errors.Is(err, job.ErrCancelled) {
		outcome = outcomeCancelled
		receipt := &job.Cancelled{Tokens: a.answer.tokens(), Usage: a.answer.spent()}
		err = persist(ctx, func(ctx context.Context) error { return a.Finish(ctx, receipt) })
	}
	var archive error
	switch failed := (*failedError)(nil); {
	case err == nil:
		a.log.Info("attempt ended", "outcome", outcome, "took", a.took)
	case errors.As(err, &failed):
		// A request that is wrong isn't made right by running it again.
		if errors.Is(err, asynq.SkipRetry) {
			archive = err
		}
		a.log.Info("attempt ended", "outcome", outcome, "took", a.took)
	case errors.Is(err, job.ErrFenced):
		outcome = outcomeFenced
		a.log.Warn("attempt is fenced: another one owns the job")
	case errors.Is(err, job.ErrGone):
		outcome = outcomeGone
		a.log.Error("Redis lost the job's record")
	default:
		outcome = outcomeLeft
		a.log.Error("attempt is left to whoever takes over this host's jobs", "error", err)
	}
	a.worker.report(a.account(outcome, err))
	return archive
}

// fail writes the terminal frame of a job that failed for good.
func (a *attempt) fail(ctx context.Context, failed *sdk.Error) error {
	final := &job.Error{
		Code: publicCode(failed), Message: publicMessage(failed), Retryable: failed.Retryable(), Fault: string(failed.Fault),
	}
	return persist(ctx, func(ctx context.Context) error { return a.Finish(ctx, final) })
}

// settle turns the result of generate into a terminal frame or another attempt.
func (a *attempt) settle(ctx context.Context, err error) (string, error) {
	var failed *sdk.Error
	switch {
	case err == nil:
		return outcomeComplete, persist(ctx, func(ctx context.Context) error { return a.Finish(ctx, a.complete()) })
	case errors.As(err, &failed):
	case errors.Is(err, job.ErrCancelled), errors.Is(err, job.ErrFenced), errors.Is(err, job.ErrGone):
		return outcomeFenced, err
	case errors.Is(err, errStopping), errors.Is(err, errSelfFence), errors.Is(err, errRetired), errors.Is(err, context.Canceled):
		return outcomeHandedOver, a.again(ctx, job.StateQueued, 0)
	case errors.Is(err, errElsewhere):
		a.worker.others.giveWay(ctx, job.QueueName(a.Job.Priority), a.Number)
		return outcomeHandedOver, a.again(ctx, job.StateQueued, 0)
	default: // a refusal of ours, such as a frame that is too large
		failed = &sdk.Error{Kind: sdk.Internal, Fault: sdk.Host, Message: err.Error(), Err: err}
	}
	a.log.Warn("attempt failed", "kind", failed.Kind, "fault", failed.Fault, "code", failed.Code, "status", failed.Status, "error", scrub(failed.Message, 2000))
	v := judge(failed, a.failures+1, a.worker.config.MaxAttempts, len(a.Job.Models), a.worker.config.Backoff, time.Since(a.Created), a.worker.config.Timeout)
	if v.retry {
		note := &job.Progress{Status: statusLimited, Message: publicMessage(failed), Spared: v.spare}
		if v.next {
			note.Status = statusRetrying
		}
		if v.wait > 0 {
			note.Message += "; trying again in " + spoken(v.wait)
		} else {
			note.Message += "; trying the next model"
		}
		if err := appendAll(ctx, a.Attempt, note); err != nil {
			return outcomeRetried, err
		}
		return outcomeRetried, a.again(ctx, job.StateWaiting, v.wait)
	}
	if err := a.fail(ctx, failed); err != nil {
		return outcomeFailed, err
	}
	if failed.Fault == sdk.Caller {
		return outcomeFailed, &failedError{failed}
	}
	return outcomeFailed, fmt.Errorf("%w: %w", &failedError{failed}, asynq.SkipRetry)
}

// spoken writes a wait as people say it, and never a shorter one: 7 seconds, 1 minute.
func spoken(wait time.Duration) string {
	n, unit := int64((wait+time.Second-1)/time.Second), "second"
	for _, larger := range []string{"minute", "hour"} {
		if n < 120 && n != 60 {
			break
		}
		n, unit = (n+59)/60, larger
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// failedPrefix begins the error with which the task of a failed job is archived.
const failedPrefix = "job failed: "

// failedError is the failure of a job as its task in asynq's archive tells it.
type failedError struct{ cause *sdk.Error }

func (e *failedError) Error() string {
	return fmt.Sprintf("%s%s (%s): %s", failedPrefix, e.cause.Kind, e.cause.Fault, scrub(e.cause.Message, 500))
}

func (e *failedError) Unwrap() error { return e.cause }

// again gives the job back for another attempt after delay.
func (a *attempt) again(ctx context.Context, state job.State, delay time.Duration) error {
	due := time.Now().Add(delay)
	if delay > 0 {
		a.Due = due
	}
	var next job.Ticket
	err := persist(ctx, func(ctx context.Context) (err error) {
		next, err = a.Release(ctx, state)
		return err
	})
	if err != nil {
		return err
	}
	err = persist(ctx, func(ctx context.Context) error {
		return a.worker.enqueue(ctx, next, a.Job.Priority, max(0, time.Until(due)))
	})
	if err != nil {
		return err
	}
	return persist(ctx, a.Done)
}

// complete is the terminal frame of a whole answer.
func (a *attempt) complete() *job.Complete {
	c := &job.Complete{
		Tokens: a.answer.tokens(), Duration: a.Elapsed().Milliseconds(), FinishReason: a.answer.reason(), Usage: a.answer.spent(),
		Provider: a.route.plugin.name, Model: a.model,
		Timings: &job.Timings{Queued: a.Begun.Sub(a.Created).Milliseconds(), Total: a.took.Milliseconds()},
	}
	if first := a.answer.firstAt(); !first.IsZero() {
		c.Timings.FirstChunk = first.Sub(a.began).Milliseconds()
	}
	return c
}
