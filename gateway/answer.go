package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Events that only a gateway sends.
const (
	eventConnected = "connected"
	eventComplaint = "error"
	eventModels    = "models:v1"
	eventExpiring  = "auth:expiring:v1"
)

// Codes of refusals. They are part of the wire: clients branch on them.
const (
	codeInvalidPayload = "invalid_payload"
	codeQueryMissing   = "query_missing"
	codeQueryTooLong   = "query_too_long"
	codeTooLarge       = "request_too_large"
	codeUnknownModel   = "unknown_model"
	codeInvalidJobID   = "invalid_job_id"
	codeNotFound       = "not_found"
	codeUnauthorized   = "unauthorized"
	codeLimit          = "limit_reached"
	codeRate           = "rate_limited"
	codeTooManyJobs    = "too_many_jobs"
	codeTooManySockets = "too_many_connections"
	codeSlow           = "too_slow"
	codeUnavailable    = "unavailable"
	codeInternal       = "internal"
)

// refused is the answer to an event that can't be done. It goes to the client
// as it is: no inner error belongs in it.
type refused struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// RetryAfterMs says when to try again, if that may help.
	RetryAfterMs int64 `json:"retryAfterMs,omitempty"`
}

// after says when to try again.
func (r *refused) after(wait time.Duration) *refused {
	r.RetryAfterMs = max(1, wait.Milliseconds())
	return r
}

func (r *refused) Error() string { return r.Code + ": " + r.Message }

func refuse(code, format string, args ...any) *refused {
	return &refused{Code: code, Message: fmt.Sprintf(format, args...)}
}

// asRefused turns any error into what the client may know of it.
func asRefused(err error) *refused {
	if r, ok := errors.AsType[*refused](err); ok {
		return r
	}
	return refuse(codeInternal, "something went wrong on the server")
}

// answer is the argument of an ack. Fields that an event doesn't have stay out.
type answer struct {
	OK      bool            `json:"ok"`
	AckID   json.RawMessage `json:"ackId,omitempty"`
	JobID   string          `json:"jobId,omitempty"`
	Status  string          `json:"status,omitempty"`
	State   string          `json:"state,omitempty"`
	Attempt *int64          `json:"attempt,omitempty"`
	Seq     *int64          `json:"seq,omitempty"`
	Expires int64           `json:"expiresAt,omitempty"` // ms
	Error   *refused        `json:"error,omitempty"`
}

// complaint is the data of the error event: a refusal that had no ack to go to.
type complaint struct {
	refused
	Event string          `json:"event,omitempty"`
	JobID string          `json:"jobId,omitempty"`
	AckID json.RawMessage `json:"ackId,omitempty"`
}

// encode writes a value of our own types as JSON; those always encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}
