package gateway

import (
	"slices"
	"sync"

	"github.com/sluicehq/sluice/proto/job"
)

// feed makes an owner's new jobs known, whichever gateway accepted them.
type feed interface {
	WatchUser(owner string, deliver func(job.Frame)) (stop func())
}

// hub knows who is connected and who watches what. It is the gateway's own
// index: frames reach sockets through it and never through rooms of the
// Socket.IO library. Safe for concurrent use.
type hub struct {
	feed feed

	mu     sync.Mutex
	closed bool
	all    map[*session]int // with its place in its user's room
	moves  int              // sessions that have come or gone so far
	users  map[string]*room // by owner, see job.Owner
	jobs   map[string]map[*session]bool
}

// room holds the sockets of one user.
type room struct {
	sessions []*session // a list, since most have one
	stop     func()     // ends the user's feed, nil while it begins
	empty    bool
}

func newHub(f feed) *hub {
	return &hub{feed: f, all: map[*session]int{}, users: map[string]*room{}, jobs: map[string]map[*session]bool{}}
}

// join adds a session, unless the hub is closed. The first of a user begins the
// user's feed.
func (h *hub) join(s *session) error {
	user := s.owner
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return refuse(codeUnavailable, "this gateway is stopping: connect again").after(comeBack)
	}
	r := h.users[user]
	first := r == nil
	if first {
		r = &room{}
		h.users[user] = r
	}
	h.all[s] = len(r.sessions)
	h.moves++
	r.sessions = append(r.sessions, s)
	h.mu.Unlock()
	if !first {
		return nil
	}

	stop := h.feed.WatchUser(user, func(f job.Frame) { h.started(user, f) })
	h.mu.Lock()
	gone := r.empty
	r.stop = stop
	h.mu.Unlock()
	if gone {
		stop()
	}
	return nil
}

func (h *hub) leave(s *session) {
	var stop func()
	h.mu.Lock()
	if place, in := h.all[s]; in {
		delete(h.all, s)
		h.moves++
		r := h.users[s.owner]
		rest := len(r.sessions) - 1
		if last := r.sessions[rest]; last != s {
			r.sessions[place], h.all[last] = last, place
		}
		r.sessions[rest] = nil
		r.sessions = r.sessions[:rest]
		if rest == 0 {
			delete(h.users, s.owner)
			r.empty = true
			stop = r.stop
		}
	}
	h.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// started shows a new job to all tabs of its owner.
func (h *hub) started(user string, f job.Frame) {
	for _, s := range h.of(user) {
		s.jobStarted(f.Data)
	}
}

// of lists the sessions of an owner.
func (h *hub) of(user string) []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.users[user]
	if r == nil {
		return nil
	}
	return slices.Clone(r.sessions)
}

// watchersOf lists the sessions that watch a job.
func (h *hub) watchersOf(id string) []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return list(h.jobs[id])
}

func (h *hub) watching(s *session, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jobs[id] == nil {
		h.jobs[id] = map[*session]bool{}
	}
	h.jobs[id][s] = true
}

func (h *hub) unwatching(s *session, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs[id], s)
	if len(h.jobs[id]) == 0 {
		delete(h.jobs, id)
	}
}

// close lets nobody in any more and returns who is inside.
func (h *hub) close() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return list(h.all)
}

// everybody lists all sessions.
func (h *hub) everybody() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return list(h.all)
}

// counts says how many sockets, users and watches of jobs there are.
func (h *hub) counts() (sockets, users, watches int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range h.jobs {
		watches += len(set)
	}
	return len(h.all), len(h.users), watches
}

// pending is how many bytes wait for all clients together.
func (h *hub) pending() int {
	sum := 0
	for _, s := range h.everybody() {
		sum += s.box.line.Buffered()
	}
	return sum
}

// moved counts the sessions that have come or gone since the beginning.
func (h *hub) moved() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.moves
}

func list[V any](set map[*session]V) []*session {
	all := make([]*session, 0, len(set))
	for s := range set {
		all = append(all, s)
	}
	return all
}
