package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

const maxAckID = 256 // bytes of an ackId that is echoed

// slowWait is when a client that was too slow should come back.
const slowWait = 5 * time.Second

// mergeSize is how much text one merged chunk may hold for this socket.
func (s *session) mergeSize() int { return max(16<<10, min(mergeSize, s.box.limit/4)) }

// event is one event of a client.
type event struct {
	Name string
	Args []json.RawMessage
	// Ack answers the event; nil when the client wants no answer.
	Ack func(data []byte)
}

// session is one connected socket: who it is, what it watches, and what it asks
// for. Its events come one after the other, in the order in which the client
// sent them; everything else is safe for concurrent use.
type session struct {
	c    *core
	wire wire
	box  *outbox
	log  *slog.Logger

	opened   int64  // Unix ms
	owner    string // job.Owner, fixed
	identity atomic.Pointer[identity]

	ctx    context.Context
	cancel context.CancelFunc

	pages chan struct{} // taken while a page of a log is read and sent

	mu      sync.Mutex
	closed  bool
	watches map[string]*watch
	trail   trail
	expiry  *time.Timer
}

// who is the socket's user and what that user may do now.
func (s *session) who() identity { return *s.identity.Load() }

// open begins the session of an admitted socket and greets it. It returns nil
// when that can't be; then the socket has been told why.
func (c *core) open(who identity, w wire) *session {
	s := &session{c: c, opened: time.Now().UnixMilli(), owner: who.owner(), wire: w, watches: map[string]*watch{}, pages: make(chan struct{}, maxHeld)}
	s.identity.Store(&who)
	s.log = slog.New(sessionLog{s})
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	s.box = &outbox{line: w.Line(), limit: int(c.conf.Limits.Pending), overflow: s.tooSlow, metrics: c.metrics}
	s.greet()
	if err := c.hub.join(s); err != nil {
		c.metrics.refused(asRefused(err).Code)
		s.part(asRefused(err))
		return nil
	}
	s.renewed(who)
	s.checkKey()
	s.log.Debug("socket connected")
	return s
}

// socketsOf is how many sockets a user may have. Where nobody signs in,
// everybody is the same user, and only addresses are counted.
func (c *core) socketsOf(who identity) int {
	if c.conf.Auth.Mode == "" || c.conf.Auth.Mode == "none" {
		return 0
	}
	return who.Limits.or(c.conf.Limits).Connections
}

// greeting is the data of the connected event.
type greeting struct {
	SessionID    string  `json:"sessionId"`
	UserID       string  `json:"userId"`
	Timestamp    int64   `json:"timestamp"` // ms
	Models       []model `json:"models"`
	DefaultModel string  `json:"defaultModel"`
}

func (s *session) greet() {
	models, _ := s.c.models.list(s.ctx)
	s.emit(eventConnected, greeting{
		SessionID:    s.wire.ID(),
		UserID:       s.who().User,
		Timestamp:    time.Now().UnixMilli(),
		Models:       models,
		DefaultModel: s.c.conf.DefaultModel,
	})
}

// spawn runs f beside the session until it returns; f ends with its context.
func (s *session) spawn(f func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.c.work.Go(func() { f(s.ctx) })
}

// receive handles one event of the client and answers it. It may take as long as
// patience. A panic costs the event, not the process.
func (s *session) receive(e event) {
	req := request{Payload: []byte("null")}
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic in an event handler", "event", e.Name, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			s.reply(e, req, answer{}, refuse(codeInternal, "something went wrong on the server"))
		}
	}()
	s.c.metrics.in.of(e.Name).Inc()
	handler := handlers[e.Name]
	if handler == nil {
		s.reply(e, req, answer{}, refuse(codeInvalidPayload, "there is no event of that name: %.64q", e.Name))
		return
	}
	if err := req.read(e); err != nil {
		s.reply(e, req, answer{}, err)
		return
	}
	ans, after, err := handler(s, s.ctx, req)
	s.reply(e, req, ans, err)
	if err == nil && after != nil {
		after()
	}
}

// handlers holds what a client may ask for. A handler returns the ack's fields
// and what is to be done once the ack is on its way.
var handlers map[string]func(*session, context.Context, request) (answer, func(), error)

func init() { // the handlers reach back here
	handlers = map[string]func(*session, context.Context, request) (answer, func(), error){
		"search:start:v1": (*session).startJob,
		"START_SEARCH":    (*session).startJob,
		"task:cancel:v1":  (*session).cancelJob,
		"CANCEL_TASK":     (*session).cancelJob,
		"job:resume:v1":   (*session).resumeJob,
		"job:leave:v1":    (*session).leaveJob,
		"auth:renew:v1":   (*session).renewAuth,
	}
}

// request is the one argument that every event takes.
type request struct {
	Payload json.RawMessage
	JobID   string
	AckID   json.RawMessage
}

func (r *request) read(e event) error {
	var fields map[string]json.RawMessage
	if len(e.Args) == 0 || json.Unmarshal(e.Args[0], &fields) != nil || fields == nil {
		return refuse(codeInvalidPayload, "%.64s takes one object", e.Name)
	}
	if id := fields["ackId"]; len(id) <= maxAckID {
		r.AckID = id
	}
	r.Payload = e.Args[0]
	raw, given := fields["jobId"]
	if !given || string(raw) == "null" {
		return nil
	}
	if json.Unmarshal(raw, &r.JobID) != nil {
		return refuse(codeInvalidJobID, "jobId is not a text")
	}
	if err := checkJobID(r.JobID); err != nil {
		r.JobID = "" // not repeated in answers
		return err
	}
	return nil
}

// checkJobID refuses ids that could not be stored, and the one whose channel
// would be the general channel job:progress.
func checkJobID(id string) error {
	if err := job.CheckID(id); err != nil {
		return refuse(codeInvalidJobID, "%v", err)
	}
	if job.Channel(id) == job.ProgressChannel {
		return refuse(codeInvalidJobID, "invalid job id: %q is reserved", id)
	}
	return nil
}

// reply sends the ack, or without one an error event if there is bad news.
func (s *session) reply(e event, req request, ans answer, err error) {
	ans.OK, ans.AckID = err == nil, req.AckID
	if err != nil {
		ans.Error = asRefused(err)
		if ans.JobID == "" {
			ans.JobID = req.JobID
		}
	}
	switch {
	case e.Ack != nil:
		if ans.Error != nil {
			s.c.metrics.refused(ans.Error.Code)
		}
		data := encode(ans)
		if !s.box.queue(len(data), func() bool { e.Ack(data); return true }) {
			e.Ack(data) // the last words before the end
		}
	case ans.Error != nil:
		s.complain(complaint{refused: *ans.Error, Event: e.Name, JobID: ans.JobID, AckID: req.AckID})
	}
}

// complain tells the client of trouble that is no answer to one of its acks.
func (s *session) complain(c complaint) {
	s.c.metrics.refused(c.Code)
	s.emit(eventComplaint, c)
}

func (s *session) emit(event string, data any) { s.box.send(event, encode(data)) }

// follow is the one way to a watch. A new one begins where this socket stands in
// the job: at its beginning, or, if it has seen some of it and left it or seen
// its end, behind that; then only if again says so. It returns false without a
// watch, and for one that is there already.
func (s *session) follow(id string, whose identity, again bool) (w *watch, begun bool, err error) {
	foreign := whose.owner() != s.owner
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, refuse(codeUnavailable, "the connection is closing")
	}
	if foreign && !s.who().Admin { // any more
		return nil, false, refuse(codeNotFound, "there is no such job")
	}
	if w := s.watches[id]; w != nil {
		return w, false, nil
	}
	seq, known := s.trail.at(id)
	if known && !again {
		return nil, false, nil
	}
	if len(s.watches) >= s.c.conf.Limits.Watched {
		return nil, false, refuse(codeLimit, "this socket watches %d jobs already: leave some first (job:leave:v1)", len(s.watches))
	}
	w = &watch{s: s, box: s.box, job: id, user: whose.User, foreign: foreign, seq: seq, from: seq}
	s.watches[id] = w
	s.c.hub.watching(s, id)
	return w, true, nil
}

// forget drops a watch that is over, and remembers where it ended.
func (s *session) forget(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[w.job] != w {
		return
	}
	delete(s.watches, w.job)
	s.c.hub.unwatching(s, w.job)
	s.trail.note(w.job, w.seq)
}

// knows reports whether the socket has watched a job, and doesn't any more.
func (s *session) knows(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.trail.at(id)
	return known
}

// renew puts the socket at the beginning of a job: the one that it knows by this
// id is another.
func (s *session) renew(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trail.note(id, 0)
}

// tooSlow cuts off a client that doesn't take what it watches. It is called
// under the locks of whoever sent, so the closing is done beside it.
func (s *session) tooSlow() {
	s.log.Warn("socket cut off: too slow", "pending", s.box.line.Buffered())
	s.c.metrics.cutOff.Inc()
	s.spawn(func(context.Context) {
		s.part(refuse(codeSlow, "the connection was too slow for what it watches: reconnect and resume").after(slowWait))
	})
}

// part tells the client why, and hangs up.
func (s *session) part(why *refused) {
	s.box.close()
	s.box.emit(eventComplaint, encode(complaint{refused: *why}))
	s.wire.Hangup(why.Code)
	s.end(why.Code)
}

// end is called when the socket is gone, for whatever reason, once or more.
func (s *session) end(reason string) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	watches := s.watches
	s.watches = map[string]*watch{}
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.mu.Unlock()

	s.cancel()
	s.box.close()
	for id, w := range watches {
		w.end()
		s.c.hub.unwatching(s, id)
	}
	s.c.hub.leave(s)
	s.log.Debug("socket disconnected", "reason", reason)
}
