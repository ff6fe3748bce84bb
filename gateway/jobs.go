package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sluicehq/sluice/proto/job"
)

// patience is how long an event waits for a Redis that is away before its
// client is told so.
const patience = 5 * time.Second

// Bounds of a start that the configuration has no word about.
const (
	maxModels    = 16
	maxModelName = 256
)

// startRequest is the payload of search:start:v1 as it comes. Filters is the
// old name of context.
type startRequest struct {
	Query    json.RawMessage `json:"query"`
	Messages json.RawMessage `json:"messages"`
	Model    json.RawMessage `json:"model"`
	Models   json.RawMessage `json:"models"`
	Context  json.RawMessage `json:"context"`
	Filters  json.RawMessage `json:"filters"`
	Params   json.RawMessage `json:"params"`
	Priority json.RawMessage `json:"priority"`
}

// startJob accepts a job: recorded, queued, acknowledged; then its owner's
// sockets follow it.
func (s *session) startJob(ctx context.Context, req request) (answer, func(), error) {
	j, err := s.readStart(req)
	if err != nil {
		return answer{}, nil, err
	}
	if list, sure := s.c.models.list(ctx); sure && len(list) > 0 && !serves(list, j.Models) {
		return answer{}, nil, refuse(codeUnknownModel, "no host serves %s: use one of %s", quoted(j.Models), offered(list))
	}
	ans := answer{JobID: j.ID}
	earlier := s.knows(j.ID)
	var st job.Status
	var created, admitted bool
	var over error
	at := time.Now().UnixMilli()
	err = s.c.persist(ctx, func(ctx context.Context) error {
		if !admitted {
			if over = s.admit(ctx, j.ID); over != nil {
				return nil
			}
			admitted = true
		}
		var made bool
		var err error
		if st, made, err = s.c.store.Create(ctx, j); err != nil {
			return err
		}
		created = created || made
		if st.State != job.StateQueued {
			return nil
		}
		return s.c.queue.Enqueue(ctx, job.Ticket{Job: j.ID, Attempt: st.Attempt + 1}, j.Priority, 0)
	})
	if err != nil {
		return ans, nil, s.c.jobError("start", j.ID, err)
	}
	if over != nil {
		if st, err = s.c.store.Status(ctx, j.ID); req.JobID == "" || err != nil || st.Owner() != s.owner {
			return answer{}, nil, over
		} // no start: it is known already
	}
	ans.Status = string(st.State)
	if created {
		s.c.metrics.starts.Inc()
		s.log.Info("job accepted", "job", j.ID, "model", first(j.Models))
	}
	started := encode(job.Started{JobID: j.ID, Query: j.Query, Model: first(j.Models), Created: st.Created.UnixMilli()})
	return ans, func() {
		if created && earlier { // whose record has been lost
			s.renew(j.ID)
		}
		s.show(j.ID, started, !created || earlier)
		for _, tab := range s.c.hub.of(s.owner) {
			if tab != s && tab.opened <= at {
				tab.show(j.ID, started, false)
			}
		}
	}, nil
}

// readStart checks a start and makes a job of it.
func (s *session) readStart(req request) (job.Job, error) {
	limits, who := s.c.conf.Limits, s.who()
	var in startRequest
	if err := json.Unmarshal(req.Payload, &in); err != nil {
		return job.Job{}, refuse(codeInvalidPayload, "the payload is not a start of a job")
	}
	j := job.Job{ID: req.JobID, User: who.User, Tenant: who.Tenant}
	if !optional(in.Query, &j.Query) {
		return j, refuse(codeInvalidPayload, "query is not a text")
	}
	if len(j.Query) > int(limits.Query) {
		return j, refuse(codeQueryTooLong, "the query has %d bytes, at most %d are allowed", len(j.Query), int64(limits.Query))
	}
	if given(in.Messages) {
		if err := checkMessages(in.Messages); err != nil {
			return j, err
		}
		j.Messages = in.Messages
	} else if strings.TrimSpace(j.Query) == "" {
		return j, refuse(codeQueryMissing, "there is no query, and there are no messages")
	}
	var err error
	if j.Models, err = readModels(in, s.c.conf.DefaultModel); err != nil {
		return j, err
	}
	if j.Params, err = object("params", in.Params); err != nil {
		return j, err
	}
	if j.Context, err = readContext(in); err != nil {
		return j, err
	}
	if !optional(in.Priority, &j.Priority) || !knownPriority(j.Priority) {
		return j, refuse(codeInvalidPayload, "priority is none of high, default and low")
	}
	if size := len(req.Payload); size > int(limits.Request) {
		return j, refuse(codeTooLarge, "the request has %d bytes, at most %d are allowed", size, int64(limits.Request))
	}
	if j.ID == "" {
		j.ID = job.NewID()
	}
	return j, nil
}

func checkMessages(raw json.RawMessage) error {
	var messages []json.RawMessage
	if json.Unmarshal(raw, &messages) != nil {
		return refuse(codeInvalidPayload, "messages is not a list")
	}
	if len(messages) == 0 {
		return refuse(codeQueryMissing, "messages is empty")
	}
	for i, raw := range messages {
		var m struct {
			Role string `json:"role"`
		}
		if json.Unmarshal(raw, &m) != nil || m.Role == "" {
			return refuse(codeInvalidPayload, "messages[%d] is not an object with a role", i)
		}
	}
	return nil
}

// readModels lists the candidates in the order in which they are to be tried.
func readModels(in startRequest, fallback string) ([]string, error) {
	var one string
	if !optional(in.Model, &one) {
		return nil, refuse(codeInvalidPayload, "model is not a text")
	}
	var more []string
	if !optional(in.Models, &more) {
		return nil, refuse(codeInvalidPayload, "models is not a list of texts")
	}
	var names []string
	for _, name := range append([]string{one}, more...) {
		switch {
		case name == "" || slices.Contains(names, name):
		case len(name) > maxModelName || strings.ContainsFunc(name, unicode.IsControl):
			return nil, refuse(codeInvalidPayload, "a model's name is longer than %d bytes or has control characters", maxModelName)
		case len(names) == maxModels:
			return nil, refuse(codeInvalidPayload, "more than %d models", maxModels)
		default:
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		names = []string{fallback}
	}
	return names, nil
}

// readContext takes context, or filters, or with both an object of both.
func readContext(in startRequest) (json.RawMessage, error) {
	context, err := object("context", in.Context)
	if err != nil {
		return nil, err
	}
	if !given(in.Filters) {
		return context, nil
	}
	both := map[string]json.RawMessage{"filters": in.Filters}
	if context != nil {
		both["context"] = context
	}
	return encode(both), nil
}

func knownPriority(p string) bool {
	return p == "" || p == job.PriorityHigh || p == job.PriorityDefault || p == job.PriorityLow
}

// show begins to follow a job in this tab and says so, unless it does already.
// again takes up a job that this tab has left, or seen to its end, where that was.
func (s *session) show(id string, started []byte, again bool) {
	w, begun, err := s.follow(id, s.who(), again)
	if err != nil {
		s.complain(complaint{refused: *asRefused(err), JobID: id})
		return
	}
	if !begun {
		return
	}
	defer w.begin()
	if w.from > 0 {
		return
	}
	s.box.send(job.EventStarted, started)
	list, sure := s.c.models.recent()
	note := "waiting for a host"
	if sure && len(list) == 0 {
		note = "no host is running yet: the job waits for one"
	}
	s.emit(job.EventProgress, queuedProgress{JobID: id, UserID: w.user, Status: string(job.StateQueued), Message: note})
}

// queuedProgress is a progress of the gateway's own: it is in no log, so it has
// neither attempt nor seq.
type queuedProgress struct {
	JobID    string  `json:"jobId"`
	UserID   string  `json:"userId"`
	Progress float64 `json:"progress"`
	Status   string  `json:"status"`
	Message  string  `json:"message"`
	// Position in the queue, from 1, and a guess of how long that takes; 0 is
	// unknown.
	Position   int   `json:"position,omitempty"`
	EstimateMs int64 `json:"estimateMs,omitempty"`
}

// jobStarted shows a job that another tab of the user began, here or on another
// gateway. It comes from the tail and must not block. A tab that was opened after
// the job was created resumes it if it wants it: the news of it may be late, and
// to show it from its beginning would double what the tab has.
func (s *session) jobStarted(started []byte) {
	var in job.Started
	if json.Unmarshal(started, &in) != nil || checkJobID(in.JobID) != nil {
		s.log.Warn("a job's start was made known in a way that can't be read")
		return
	}
	if in.Created != 0 && in.Created < s.opened {
		return
	}
	started = bytes.Clone(started)
	s.show(in.JobID, started, false)
}

// cancelJob ends a job. The receipt comes as a frame, task:cancelled.
func (s *session) cancelJob(ctx context.Context, req request) (answer, func(), error) {
	if req.JobID == "" {
		return answer{}, nil, refuse(codeInvalidJobID, "jobId is missing")
	}
	var state job.State
	who := s.who()
	err := s.c.persist(ctx, func(ctx context.Context) error {
		everybody := false
		if who.Admin {
			st, err := s.c.store.Status(ctx, req.JobID)
			if err != nil {
				return err
			}
			everybody = who.may(st)
		}
		var err error
		state, err = s.c.store.Cancel(ctx, req.JobID, s.owner, everybody)
		return err
	})
	if err != nil {
		return answer{}, nil, s.c.jobError("cancel", req.JobID, err)
	}
	s.log.Info("job cancelled by its user", "job", req.JobID, "state", string(state))
	return answer{JobID: req.JobID, State: string(state)}, nil, nil
}

// resumeJob sends what a client says it lacks of a job, and what comes after. It
// is the one event that can bring a frame a second time on one connection.
func (s *session) resumeJob(ctx context.Context, req request) (answer, func(), error) {
	if req.JobID == "" {
		return answer{}, nil, refuse(codeInvalidJobID, "jobId is missing")
	}
	var in struct {
		LastSeq json.RawMessage `json:"lastSeq"`
	}
	var last int64
	if json.Unmarshal(req.Payload, &in) != nil || !optional(in.LastSeq, &last) || last < 0 {
		return answer{}, nil, refuse(codeInvalidPayload, "lastSeq is not a whole number from 0")
	}
	var st job.Status
	err := s.c.persist(ctx, func(ctx context.Context) error {
		var err error
		st, err = s.c.store.Status(ctx, req.JobID)
		return err
	})
	if err == nil && !s.who().may(st) {
		err = job.ErrNotFound
	}
	if err != nil {
		return answer{}, nil, s.c.jobError("resume", req.JobID, err)
	}
	whose := identity{User: st.User, Tenant: st.Tenant}
	w, _, err := s.follow(req.JobID, whose, true)
	if err != nil {
		return answer{}, nil, err
	}
	s.c.metrics.resumes.Inc()
	ans := answer{JobID: req.JobID, State: string(st.State), Attempt: &st.Attempt, Seq: &st.Seq}
	return ans, func() {
		if w.resume(last) {
			return
		}
		// The job has ended since, and the client asked for frames again.
		s.forget(w)
		if w, _, err = s.follow(req.JobID, whose, true); err == nil {
			w.resume(last)
		}
	}, nil
}

// leaveJob stops the frames of a job. That a job isn't watched is no error: the
// client has what it wants, and learns nothing about other people's jobs.
func (s *session) leaveJob(_ context.Context, req request) (answer, func(), error) {
	if req.JobID == "" {
		return answer{}, nil, refuse(codeInvalidJobID, "jobId is missing")
	}
	s.mu.Lock()
	w := s.watches[req.JobID]
	s.mu.Unlock()
	if w != nil {
		w.end()
		s.forget(w)
	}
	return answer{}, nil, nil
}

// persist repeats an operation on Redis while Redis is away, for a while.
func (c *core) persist(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := 20 * time.Millisecond
	for {
		err := do(ctx)
		if err == nil || !job.Retryable(err) || ctx.Err() != nil {
			return err
		}
		if !sleep(ctx, pause) {
			return err
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// jobError turns an error of the job package into an answer. What the client
// may not know goes to the log.
func (c *core) jobError(what, id string, err error) error {
	switch {
	case errors.Is(err, job.ErrNotFound):
		return refuse(codeNotFound, "there is no such job")
	case errors.Is(err, job.ErrExists):
		return refuse(codeInvalidJobID, "this job id can't be used: choose another")
	case errors.Is(err, job.ErrTooLarge):
		return refuse(codeTooLarge, "the request is too large")
	case job.Retryable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		c.log.Warn("event refused while Redis is away", "what", what, "job", id, "error", err)
		return refuse(codeUnavailable, "the job store can't be reached: try again").after(comeBack)
	}
	c.log.Error("event failed", "what", what, "job", id, "error", err)
	return err
}

// given reports whether a field is there and not null.
func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// optional reads a field that may be left out.
func optional[T any](raw json.RawMessage, into *T) bool {
	return !given(raw) || json.Unmarshal(raw, into) == nil
}

// object takes a field that, if it is there, must be an object.
func object(name string, raw json.RawMessage) (json.RawMessage, error) {
	if !given(raw) {
		return nil, nil
	}
	if raw[0] != '{' {
		return nil, refuse(codeInvalidPayload, "%s is not an object", name)
	}
	return raw, nil
}

func first(names []string) string { return names[0] }

func quoted(names []string) string { return string(encode(names)) }

// offered names the models to choose from, a few of them if there are many.
func offered(list []model) string {
	var names []string
	for _, m := range list {
		if !slices.Contains(names, m.Name) {
			names = append(names, m.Name)
		}
		if len(names) == 12 {
			return strings.Join(names, ", ") + ", …"
		}
	}
	return strings.Join(names, ", ")
}
