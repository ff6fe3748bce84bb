package job

import (
	"encoding/json"
	"time"
)

// Job is a request as it was accepted: immutable once created.
type Job struct {
	ID     string `json:"id"`
	User   string `json:"user"`
	Tenant string `json:"tenant,omitempty"`

	Query    string          `json:"query,omitempty"`
	Messages json.RawMessage `json:"messages,omitempty"` // OpenAI-style messages array, or nil
	// Models are candidates in order: the first one that a live host serves is used, the next one after a
	// retryable failure.
	Models  []string        `json:"models,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`  // object, or nil
	Context json.RawMessage `json:"context,omitempty"` // object, or nil

	Priority string    `json:"priority,omitempty"` // PriorityHigh, PriorityDefault (also ""), PriorityLow
	Policy   string    `json:"policy,omitempty"`   // PolicyRestart (also ""), PolicyContinue, PolicyFail
	Created  time.Time `json:"-"`                  // Redis time, set by Create
}

// Priorities.
const (
	PriorityHigh    = "high"
	PriorityDefault = "default"
	PriorityLow     = "low"
)

// Policies: what becomes of a job whose host was lost.
const (
	PolicyRestart  = "restart"  // a new attempt that drops the text so far
	PolicyContinue = "continue" // a new attempt that goes on from the text so far, if the model can
	PolicyFail     = "fail"     // a final model:error
)

// State of a job.
type State string

// States. A job is queued or waiting while a ticket for its next attempt is out, running while an attempt holds it.
const (
	StateQueued    State = "queued"
	StateRunning   State = "running"
	StateWaiting   State = "waiting" // for a retry
	StateComplete  State = "complete"
	StateFailed    State = "failed"
	StateCancelled State = "cancelled"
)

// Terminal reports whether the terminal frame has been written.
func (s State) Terminal() bool { return s == StateComplete || s == StateFailed || s == StateCancelled }

// Status is a job's record without its request.
type Status struct {
	ID, User, Tenant string
	State            State
	Attempt          int64  // last attempt begun, 0 before the first
	Seq              int64  // last frame appended, 0 before the first
	Model            string // of the last model:start
	Host             string // that runs it now
	Crashes          int64  // hosts lost while they ran it
	Cancel           bool   // cancel accepted; the state may still be running until its host has written the receipt
	// Redis time; zero if it has not happened. Started is the beginning of the first attempt.
	Created, Started, Ended time.Time
}

// Owner names a user for whoever compares: users of different tenants are different, even if they share a name.
// Without a tenant it is the user. Neither may hold the separator, a control character.
func Owner(tenant, user string) string {
	if tenant == "" {
		return user
	}
	return tenant + "\x1f" + user
}

// Owner is the job's.
func (s Status) Owner() string { return Owner(s.Tenant, s.User) }
