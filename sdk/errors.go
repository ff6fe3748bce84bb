package sdk

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind is what the receiver of an error should do about it. The set is closed.
type Kind string

// The kinds of errors.
const (
	Invalid     Kind = "invalid"     // the request is wrong: don't repeat it
	Denied      Kind = "denied"      // not allowed, or not paid for: don't repeat it
	Limited     Kind = "limited"     // too many requests: repeat it after Wait
	Unavailable Kind = "unavailable" // nobody can answer now: repeat it, or ask another
	Truncated   Kind = "truncated"   // the answer broke off: repeat or continue it
	Refused     Kind = "refused"     // the content was declined: don't repeat it there
	Cancelled   Kind = "cancelled"   // nobody wants the answer any more
	Internal    Kind = "internal"    // a bug or a broken promise: don't expect better next time
)

// Fault is whose doing an error is.
type Fault string

// The faults.
const (
	Caller   Fault = "caller"   // who asked
	Upstream Fault = "upstream" // the service the provider talks to
	Plugin   Fault = "plugin"   // the provider's own code
	Host     Fault = "host"     // Sluice or its configuration, keys included
)

// Error is the error that crosses every wire whole: on the far side errors.As finds an equal one.
type Error struct {
	Kind    Kind
	Fault   Fault
	Message string        // for people; no secrets
	Wait    time.Duration // Limited, Unavailable: not before; 0 when not known
	Status  int           // HTTP status of the upstream, or 0
	Code    string        // the upstream's own code, or ""
	Err     error         // the cause; stays behind when the error crosses a wire
}

// Errorf makes an error of a kind, with the fault that usually goes with it: Invalid, Refused and
// Cancelled are the caller's, Denied is the host's, Internal the plugin's, the rest the
// upstream's. A %w is kept as the cause.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Fault: kind.fault(), Message: err.Error(), Err: errors.Unwrap(err)}
}

func (k Kind) fault() Fault {
	switch k {
	case Invalid, Refused, Cancelled:
		return Caller
	case Denied:
		return Host
	case Limited, Unavailable, Truncated:
		return Upstream
	}
	return Plugin
}

func (e *Error) Error() string {
	switch {
	case e == nil:
		return "an error that is a nil *sdk.Error" // as a typed nil in an error interface is
	case e.Message == "":
		return string(e.Kind)
	}
	return e.Message
}

// Unwrap is the cause.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Is makes a Cancelled error match context.Canceled.
func (e *Error) Is(target error) bool {
	return e != nil && e.Kind == Cancelled && target == context.Canceled
}

// Retryable reports whether the same request may succeed later, or elsewhere.
func (e *Error) Retryable() bool {
	return e.Kind == Limited || e.Kind == Unavailable || e.Kind == Truncated
}

// AsError finds the *Error in err, or makes one: a cancelled context is Cancelled, a deadline
// Unavailable, anything else Internal and the plugin's fault. It is nil only for nil. What was
// wrapped around an *Error stays in the message.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && e != nil {
		return e
	}
	var e *Error
	if errors.As(err, &e) && e != nil {
		wrapped := *e
		wrapped.Message, wrapped.Err = err.Error(), err
		return &wrapped
	}
	kind := Internal
	switch {
	case errors.Is(err, context.Canceled):
		kind = Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		kind = Unavailable
	}
	return &Error{Kind: kind, Fault: kind.fault(), Message: err.Error(), Err: err}
}
