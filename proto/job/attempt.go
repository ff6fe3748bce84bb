package job

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
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
	// Due is when the next attempt may begin, for Release: zero is at once. Set it before.
	Due time.Time
	// Prefix is the text so far that an attempt without Reset goes on from.
	Prefix string

	Created, Started, Begun time.Time // Redis time: the job's creation, its first attempt's begin, this attempt's begin
	Crashes                 int64     // hosts lost so far

	s     *Store
	host  string
	began time.Time // local clock at Begin
	model string

	// The frames this attempt can write again: those after base. Up to Seq they are acknowledged, the rest pends.
	base    int64
	frames  []kept
	backlog int // bytes of pending frames
	// Text of all chunks in frames, pending ones too; textFrom is where the last reset began.
	buf      []byte
	textFrom int
	index    int64 // of the next chunk

	final  State // the last pending frame ends the job in it
	ending error // why nothing can be appended any more
}

// kept is a frame in memory: a chunk that Redis has acknowledged is reduced to its place in the text.
type kept struct {
	raw      []byte // nil: a chunk, encode it again
	event    string
	from, to int // chunk: its text in buf
	index    int64
	ms       int64
	reset    bool // model:start that drops the text before it
	earlier  bool // of an earlier attempt: raw is kept
}

func (k *kept) size() int {
	if k.raw == nil {
		return k.to - k.from
	}
	return len(k.raw)
}

// Limits of one script call.
const (
	maxBatch      = 128
	maxBatchBytes = 512 << 10
)

// Append writes events to the log and publishes them, all or none, in order, each once. It fills their Head and
// a chunk's Index. ErrFenced and ErrCancelled are final: the events were refused, stop generating (after
// ErrCancelled, Finish with a *Cancelled). ErrBacklog: Options.MaxBacklog is held already and these events
// were not taken; call Append without events until it succeeds. Any other Retryable error: see Attempt.
func (a *Attempt) Append(ctx context.Context, events ...Event) error {
	if a.ending != nil {
		return a.ending
	}
	if a.final != "" {
		return fmt.Errorf("append to job %s: %w: a terminal frame waits for Redis", a.Job.ID, errEncode)
	}
	if len(events) > 0 && a.backlog > a.s.o.MaxBacklog {
		return ErrBacklog
	}
	mark := a.mark()
	for _, e := range events {
		if terminalState(e.Name()) != "" {
			a.rewind(mark)
			return fmt.Errorf("append to job %s: %w: %s ends a job, use Finish", a.Job.ID, errEncode, e.Name())
		}
		if err := a.push(e); err != nil {
			a.rewind(mark)
			return fmt.Errorf("append to job %s: %w", a.Job.ID, err)
		}
	}
	return a.flush(ctx)
}

// Finish writes the terminal frame and the terminal state in one step: *Complete, *Error or *Cancelled.
// ErrCancelled: a cancel came first, Finish with a *Cancelled. After a Retryable error call it again: the terminal
// event given first counts. Text of a *Cancelled is set to what the log holds; Text and Digest of a *Complete are
// filled if empty.
func (a *Attempt) Finish(ctx context.Context, terminal Event) error {
	if terminal == nil || terminalState(terminal.Name()) == "" {
		return fmt.Errorf("finish job %s: %w: not a terminal event", a.Job.ID, errEncode)
	}
	_, receipt := terminal.(*Cancelled)
	if a.ending != nil && !(receipt && a.ending == ErrCancelled) {
		return a.ending
	}
	if receipt && a.ending == nil {
		// What waits is either in the log already or, after a cancel, not wanted there any more.
		if err := a.flush(ctx); err != nil && !errors.Is(err, ErrCancelled) {
			return err
		}
		if a.final != "" {
			return a.end(ctx)
		}
	}
	if a.final == "" {
		switch e := terminal.(type) {
		case *Complete:
			if e.Text == "" {
				e.Text = string(a.buf[a.textFrom:])
			}
			if e.Digest == "" {
				e.Digest = Digest(e.Text)
			}
		case *Cancelled:
			text, err := a.textInLog(ctx)
			if err != nil {
				return fmt.Errorf("finish job %s: %w", a.Job.ID, err)
			}
			e.Text = text
		}
		if err := a.push(terminal); err != nil {
			return fmt.Errorf("finish job %s: %w", a.Job.ID, err)
		}
		a.final = terminalState(terminal.Name())
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	return a.end(ctx)
}

func (a *Attempt) end(ctx context.Context) error {
	a.ending = ErrFenced
	// The entry may stay behind if Redis is gone now: it is ignored by whoever reclaims this host.
	if err := a.Done(ctx); err != nil && !Retryable(err) && ctx.Err() == nil {
		return err
	}
	return nil
}

// Release gives the job back for another attempt: next is StateQueued (hand-over) or StateWaiting (retry). The
// caller enqueues the ticket, then calls Done. ErrFenced, ErrCancelled (Finish with a *Cancelled) as in Append;
// after a Retryable error call it again.
func (a *Attempt) Release(ctx context.Context, next State) (Ticket, error) {
	if next != StateQueued && next != StateWaiting {
		return Ticket{}, fmt.Errorf("release job %s: %w: into state %q", a.Job.ID, errEncode, next)
	}
	due, ttl := "", a.s.o.TTL
	if !a.Due.IsZero() {
		ttl += max(0, time.Until(a.Due))                                       // the record outlives the wait
		due = strconv.FormatInt(a.Due.Add(time.Millisecond-1).UnixMilli(), 10) // rather late than early
	}
	for range maxTries {
		if err := a.Append(ctx); err != nil {
			return Ticket{}, err
		}
		n, err := releaseScript.Run(ctx, a.s.rdb, []string{metaKey(a.Job.ID), logKey(a.Job.ID)},
			a.Number, a.s.holder, string(next), ttl.Milliseconds(), due).Int64()
		if err != nil {
			return Ticket{}, fmt.Errorf("release job %s: %w", a.Job.ID, err)
		}
		switch n {
		case 1:
			a.ending = ErrFenced
			return Ticket{Job: a.Job.ID, Attempt: a.Number + 1}, nil
		case codeFenced:
			return Ticket{}, a.refuse(ErrFenced)
		case codeCancelled:
			return Ticket{}, a.refuse(ErrCancelled)
		case codeGone, codeBehind:
			if err := a.seed(ctx); err != nil {
				return Ticket{}, err
			}
		default:
			return Ticket{}, fmt.Errorf("release job %s: %w: %d", a.Job.ID, errProtocol, n)
		}
	}
	return Ticket{}, fmt.Errorf("release job %s: %w", a.Job.ID, ErrGone)
}

// Done forgets the attempt in the index of what its host runs. Finish does it by itself; after Release it is
// called when the ticket is enqueued: until then whoever reclaims the host enqueues it. Called after ErrFenced
// too, it lets the same ticket be begun again on this Store.
func (a *Attempt) Done(ctx context.Context) error {
	if a.ending == nil {
		a.ending = ErrFenced
	}
	a.s.letGo(a.ticket())
	if err := a.s.rdb.SRem(ctx, hostJobsKey(a.host), a.ticket().TaskID()).Err(); err != nil {
		return fmt.Errorf("forget job %s of host %s: %w", a.Job.ID, a.host, err)
	}
	return nil
}

func (a *Attempt) ticket() Ticket { return Ticket{Job: a.Job.ID, Attempt: a.Number} }

// textInLog is the whole answer: until this attempt has dropped the text of earlier ones, theirs stands.
func (a *Attempt) textInLog(ctx context.Context) (string, error) {
	own := a.Text()
	for _, k := range a.frames[:a.Seq-a.base] {
		if k.reset {
			return own, nil
		}
	}
	if a.base == 0 {
		return own, nil
	}
	earlier, err := a.s.textSoFar(ctx, a.Job.ID, a.base)
	return earlier + own, err
}

// Text is the answer of this attempt so far as the log holds it, Prefix included.
func (a *Attempt) Text() string {
	from, to := 0, 0
	for _, k := range a.frames[:a.Seq-a.base] {
		if k.reset {
			from = k.to
		}
		to = max(to, k.to)
	}
	return string(a.buf[from:max(from, to)])
}

// Elapsed is the time since the job started, across attempts and hosts.
func (a *Attempt) Elapsed() time.Duration { return a.Begun.Sub(a.Started) + time.Since(a.began) }

// Pending is the number of frames Redis has not acknowledged yet.
func (a *Attempt) Pending() int { return len(a.frames) - int(a.Seq-a.base) }

// Digest is the SHA-256 of an answer's text, hex.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// push gives an event its place and encodes it.
func (a *Attempt) push(e Event) error {
	h := e.head()
	if h == nil {
		return fmt.Errorf("%w: %s does not belong to a log", errEncode, e.Name())
	}
	ms := time.Now().UnixMilli()
	*h = Head{JobID: a.Job.ID, UserID: a.Job.User, Attempt: a.Number, Seq: a.base + int64(len(a.frames)) + 1}
	k := kept{event: e.Name(), from: len(a.buf), to: len(a.buf), ms: ms}
	switch e := e.(type) {
	case *Start:
		k.reset = e.Reset
	case *Chunk:
		e.Index = a.index
		if !utf8.ValidString(e.Chunk) {
			e.Chunk = string([]rune(e.Chunk)) // as the encoding does: one U+FFFD for each bad byte
		}
		k.index = e.Index
	}
	raw, err := encodeFrame(e, ms)
	if err != nil {
		return err
	}
	switch e := e.(type) {
	case *Start:
		a.model = e.Model
		if e.Reset {
			a.textFrom = len(a.buf)
		}
	case *Chunk:
		a.index++
		a.buf = append(a.buf, e.Chunk...)
		k.to = len(a.buf)
	}
	k.raw = raw
	a.frames = append(a.frames, k)
	a.backlog += len(raw)
	return nil
}

// raw is the frame at a place in frames, the same bytes each time.
func (a *Attempt) raw(i int) []byte {
	k := &a.frames[i]
	if k.raw != nil {
		return k.raw
	}
	return appendChunk(nil, &Chunk{
		Head:  Head{JobID: a.Job.ID, UserID: a.Job.User, Attempt: a.Number, Seq: a.base + int64(i) + 1},
		Chunk: string(a.buf[k.from:k.to]), Index: k.index,
	}, 0, k.ms)
}

type mark struct {
	frames, buf, textFrom, backlog int
	index                          int64
}

func (a *Attempt) mark() mark {
	return mark{len(a.frames), len(a.buf), a.textFrom, a.backlog, a.index}
}

func (a *Attempt) rewind(m mark) {
	clear(a.frames[m.frames:])
	a.frames, a.buf, a.textFrom, a.backlog, a.index = a.frames[:m.frames], a.buf[:m.buf], m.textFrom, m.backlog, m.index
}
