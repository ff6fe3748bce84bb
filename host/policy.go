package host

import (
	"context"
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/sdk"
)

// Codes of the errors that the host itself gives a client. Every other error
// carries its kind as its code.
const (
	codeUnknownModel = "unknown_model"
	codeFirstToken   = "first_token_timeout"
	codeIdle         = "idle_timeout"
	codeTotal        = "total_timeout"
	codeOutput       = "output_limit"
	codeHostLost     = "host_lost"
)

// longestWait is how long a job is kept waiting at most, whatever it is told:
// nobody waits for longer.
const longestWait = 12 * time.Hour

// longWait is how long a person is made to wait for a model that is limited when
// another one may answer instead.
const longWait = 5 * time.Second

// verdict is what becomes of a job whose attempt has failed.
type verdict struct {
	retry bool          // another attempt follows
	next  bool          // with the next of the job's models
	wait  time.Duration // after this long
	spare bool          // and the failure counts for none
}

// judge decides by the error's kind. failures counts the failed attempts of
// the job, this one included, most is how many there may be, and models is how
// many models the job names.
//
//	limited      again after the wait that was told, with the same model
//	unavailable  again after a back-off, with the next model; a wait that was
//	truncated    told is kept
//	else         never
//
// If the wait is long and the job names other models, the next is asked at once;
// if it is longer than a job can wait, and all were asked, that was it.
//
// That a plugin has no process to ask is no failure of the job: it waits until
// there may be one again, for as long as it is younger than oldest.
func judge(e *sdk.Error, failures, most, models int, backoff config.Backoff, age, oldest time.Duration) verdict {
	if errors.Is(e, native.ErrDown) && e.Retryable() && age < oldest {
		return verdict{retry: true, next: true, wait: max(e.Wait, backoffFor(1, backoff)), spare: true}
	}
	if !e.Retryable() || failures >= most {
		return verdict{}
	}
	v := verdict{retry: true, next: e.Kind != sdk.Limited, wait: e.Wait}
	switch {
	case e.Wait > longWait && failures < models:
		v.next, v.wait = true, 0 // each of the others is asked once before anybody waits
	case e.Wait > longestWait:
		return verdict{}
	case e.Wait <= 0:
		v.wait = backoffFor(failures, backoff)
	}
	return v
}

// backoffFor is the wait after the n-th failure: it doubles from Min to Max,
// and a random half of it is left out so that jobs that failed together don't
// come back together.
func backoffFor(n int, b config.Backoff) time.Duration {
	d := b.Min
	for range n - 1 {
		if d *= 2; d >= b.Max {
			break
		}
	}
	d = min(d, b.Max)
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d/2+1)
}

// failure makes what ended a generation into an *sdk.Error. The cause of the
// generation's context comes first: a plugin that was stopped by a deadline of
// ours may report anything.
func failure(ctx context.Context, err error) *sdk.Error {
	var limit *sdk.Error
	if cause := context.Cause(ctx); cause != nil && errors.As(cause, &limit) {
		return limit
	}
	e := sdk.AsError(err)
	if e.Kind == sdk.Cancelled {
		// Nobody here cancelled it: the plugin gave up by itself.
		e = &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Plugin, Message: e.Message, Err: err}
	}
	return bounded(e)
}

// Bounds of what an error says, in bytes. Ordinary ones are far below them.
const (
	maxMessage = 4096
	maxCode    = 100
)

// bounded is an error as it is, but for what nobody says in good faith.
func bounded(e *sdk.Error) *sdk.Error {
	b := *e
	b.Message, b.Code = clip(e.Message, maxMessage), clip(e.Code, maxCode)
	if e.Status < 0 || e.Status > 999 {
		b.Status = 0
	}
	b.Wait = max(0, e.Wait)
	return &b
}

// clip makes a text that came from outside valid, and of at most limit bytes and
// what says that there was more.
func clip(text string, limit int) string {
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// shown drops what a terminal or a browser would obey instead of showing it.
func shown(r rune) rune {
	switch {
	case unicode.IsControl(r):
		return ' '
	case unicode.Is(unicode.Bidi_Control, r):
		return -1
	}
	return r
}

// secretish matches what looks like a credential, in case an upstream echoed one.
var secretish = regexp.MustCompile(`(?i)(bearer\s+[^\s"']+|\b(sk|pk|rk|key)[-_][a-z0-9_-]{8,}|(api[-_]?key|token|secret|password)["']?\s*[=:]\s*["']?[^\s"',}]+)`)

// scrub makes a text that came from outside fit to be shown: on one line, of at
// most limit bytes, without what looks like a credential or steers a terminal.
func scrub(text string, limit int) string {
	text = strings.Map(shown, strings.ToValidUTF8(text, "\uFFFD"))
	text = secretish.ReplaceAllString(text, "[removed]")
	return clip(strings.Join(strings.Fields(text), " "), limit)
}

// publicMessage is what the client is told. The text of an error is passed on
// only where it is about the caller's own request; anything else could carry
// the inside of the house.
func publicMessage(e *sdk.Error) string {
	if e.Fault == sdk.Caller && e.Message != "" {
		return scrub(e.Message, 500)
	}
	switch e.Code {
	case codeFirstToken:
		return "the model did not begin to answer in time"
	case codeIdle:
		return "the model stopped in the middle of its answer"
	case codeTotal:
		return "the model took too long to answer"
	case codeOutput:
		return "the answer is longer than allowed"
	case codeHostLost:
		return "the host that ran the job was lost"
	}
	switch e.Kind {
	case sdk.Invalid:
		return "the provider does not accept the request"
	case sdk.Denied:
		return "the provider does not admit this installation"
	case sdk.Limited:
		return "the provider is receiving too many requests"
	case sdk.Unavailable:
		return "the provider is not available"
	case sdk.Truncated:
		return "the answer broke off before its end"
	case sdk.Refused:
		return "the model declined to answer"
	}
	return "something went wrong inside the provider"
}

// publicCode is the code a client sees: one of the host's own, or the kind.
func publicCode(e *sdk.Error) string {
	switch e.Code {
	case codeUnknownModel, codeFirstToken, codeIdle, codeTotal, codeOutput, codeHostLost:
		return e.Code
	}
	return string(e.Kind)
}
