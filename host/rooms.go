package host

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// sorters is how many tickets may be looked at beyond the generations that run: a
// host that is full still finds out whose they are, and puts them where they wait
// in a fair order.
const sorters = 8

// roomLook is the mean time between two looks at the rooms without a ring.
const roomLook = 20 * time.Second

// rooms let the tickets in that wait for a slot. A ticket whose provider, or
// whose host, has no slot free waits in Redis in a room named for the provider,
// from where the first host that has one takes it; so it holds nothing, is lost
// with nobody, and whoever serves another provider passes it by. Within a room
// tenants take turns; a user without a tenant is one.
//
// It implements queue.Rooms. Safe for concurrent use.
type rooms struct {
	seats *slots // of the host
	letIn func() // of the queue

	mu       sync.Mutex
	slots    map[string]*slots // by provider, of all its versions
	served   []string          // providers in service
	waiting  map[room]int      // rooms that may hold a ticket: times they were rung for
	reserved map[string]*spot  // by task
	offered  *spot             // by Next, until Took
	rung     int               // waiting, as it was then
	turn     int
}

// room is where the tickets of a queue wait for a provider.
type room struct{ queue, provider string }

// spot is what a generation takes up: a seat on the host and a slot of its
// provider.
type spot struct {
	seat     *slots
	provider *slots
}

func (p *spot) give() {
	p.provider.give()
	p.seat.give()
}

func newRooms(seats int) *rooms {
	r := &rooms{
		seats: newSlots(seats), letIn: func() {},
		slots: map[string]*slots{}, waiting: map[room]int{}, reserved: map[string]*spot{},
	}
	r.seats.freed = func() { r.freed("") }
	return r
}

// of returns the slots of a provider; a limit that differs from before holds for
// all its versions.
func (r *rooms) of(provider string, limit int) *slots {
	r.mu.Lock()
	s := r.slots[provider]
	if s == nil {
		s = newSlots(limit)
		s.freed = func() { r.freed(provider) }
		r.slots[provider] = s
	}
	r.mu.Unlock()
	s.set(limit)
	return s
}

// serve says which providers are in service.
func (r *rooms) serve(providers []string) {
	r.mu.Lock()
	r.served = slices.Clone(providers)
	for _, name := range providers {
		for queue := range job.Queues() {
			r.waiting[room{queue, name}]++ // perhaps
		}
	}
	maps.DeleteFunc(r.waiting, func(k room, _ int) bool { return !slices.Contains(providers, k.provider) })
	r.mu.Unlock()
	r.letIn()
}

// freed: a slot of a provider ("" is a seat of the host) may be free.
func (r *rooms) freed(provider string) {
	r.mu.Lock()
	wanted := false
	for k := range r.waiting {
		wanted = wanted || provider == "" || k.provider == provider
	}
	r.mu.Unlock()
	if wanted {
		r.letIn()
	}
}

// Next implements queue.Rooms.
func (r *rooms) Next(queue string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.served {
		name := r.served[(r.turn+i)%len(r.served)]
		rung := r.waiting[room{queue, name}]
		if rung == 0 || r.slots[name] == nil {
			continue
		}
		if !r.seats.try() {
			return "", false
		}
		if !r.slots[name].try() {
			r.seats.back()
			continue
		}
		r.turn = (r.turn + i + 1) % len(r.served)
		r.offered, r.rung = &spot{r.seats, r.slots[name]}, rung
		return name, true
	}
	return "", false
}

// Took implements queue.Rooms.
func (r *rooms) Took(queue, name, id string, err error) {
	r.mu.Lock()
	p := r.offered
	r.offered = nil
	if id != "" {
		r.reserved[id] = p
		r.mu.Unlock()
		return
	}
	if k := (room{queue, name}); err == nil && r.waiting[k] == r.rung {
		delete(r.waiting, k) // empty, and not rung for since
	}
	r.mu.Unlock()
	p.provider.back()
	p.seat.back()
}

// Rung implements queue.Rooms.
func (r *rooms) Rung(queue, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if queue == "" {
		for _, name := range r.served {
			for queue := range job.Queues() {
				r.waiting[room{queue, name}]++
			}
		}
		return
	}
	if slices.Contains(r.served, name) {
		r.waiting[room{queue, name}]++
	}
}

// claimed is the place that is set aside for a task, nil for none.
func (r *rooms) claimed(task string) *spot {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.reserved[task]
	delete(r.reserved, task)
	return p
}

// enter finds a place for a ticket of a queue that was not let in: nil when there
// is none, or others are before it.
func (r *rooms) enter(queue, name string, of *slots) *spot {
	r.mu.Lock()
	mine := job.Queues()[queue]
	for other, weight := range job.Queues() {
		if weight >= mine && r.waiting[room{other, name}] > 0 {
			r.mu.Unlock()
			return nil
		}
	}
	r.mu.Unlock()
	if !r.seats.try() {
		return nil
	}
	if !of.try() {
		r.seats.back()
		return nil
	}
	return &spot{r.seats, of}
}

// wait is enter for a ticket that can't wait in a room.
func (r *rooms) wait(ctx context.Context, of *slots) (*spot, error) {
	if err := of.take(ctx); err != nil {
		return nil, err
	}
	if err := r.seats.take(ctx); err != nil {
		of.give()
		return nil, err
	}
	return &spot{r.seats, of}, nil
}

// look has all rooms looked at now and then: a ring may have been lost.
func (r *rooms) look(ctx context.Context) {
	for sleep(ctx, roomLook) {
		r.Rung("", "")
		r.letIn()
	}
}

// errNoSlot ends an attempt that has not begun to ask its provider, for want of a
// slot: its ticket waits in the provider's room.
var errNoSlot = errors.New("no slot is free")
