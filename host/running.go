package host

import (
	"context"
	"slices"
	"sync"

	"github.com/sluicehq/sluice/proto/job"
)

// running is what the host is running: a way to stop each attempt, by job.
// Safe for concurrent use.
type running struct {
	mu   sync.Mutex
	jobs map[string][]*execution
}

// execution is one ticket being worked on.
type execution struct{ stop context.CancelCauseFunc }

// add registers an execution of a job before anything of it is begun, so that
// no cancel can fall between. It returns how to take it out again.
func (r *running) add(id string, stop context.CancelCauseFunc) (remove func()) {
	x := &execution{stop}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs == nil {
		r.jobs = map[string][]*execution{}
	}
	r.jobs[id] = append(r.jobs[id], x)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		rest := slices.DeleteFunc(r.jobs[id], func(y *execution) bool { return x == y })
		if len(rest) == 0 {
			delete(r.jobs, id)
			return
		}
		r.jobs[id] = rest
	}
}

// cancel stops what runs of a job.
func (r *running) cancel(id string) { r.stop(job.ErrCancelled, id) }

// stop stops what runs of the given jobs, of all without any, with a cause.
func (r *running) stop(cause error, ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(ids) == 0 {
		for _, list := range r.jobs {
			for _, x := range list {
				x.stop(cause)
			}
		}
		return
	}
	for _, id := range ids {
		for _, x := range r.jobs[id] {
			x.stop(cause)
		}
	}
}

// ids lists the jobs that run.
func (r *running) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make([]string, 0, len(r.jobs))
	for id := range r.jobs {
		ids = append(ids, id)
	}
	return ids
}
