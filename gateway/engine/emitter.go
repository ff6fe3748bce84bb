package engine

import (
	"reflect"
	"slices"
	"sync"

	"github.com/zishang520/engine.io/v2/events"
)

// emitter is an events.EventEmitter for few listeners: a slice instead of the
// library's maps, which take more than a kilobyte per connection. Listeners are
// called in the order they were added, without a lock held.
type emitter struct {
	mu  sync.Mutex
	all []listener // replaced, never changed in place
}

type listener struct {
	event events.EventName
	call  events.Listener
	once  *sync.Once // nil if it stays
}

var _ events.EventEmitter = (*emitter)(nil)

func (e *emitter) add(event events.EventName, once bool, calls []events.Listener) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := slices.Clone(e.all)
	for _, call := range calls {
		if call == nil {
			continue
		}
		l := listener{event: event, call: call}
		if once {
			l.once = new(sync.Once)
		}
		all = append(all, l)
	}
	e.all = slices.Clip(all)
	return nil
}

func (e *emitter) AddListener(event events.EventName, calls ...events.Listener) error {
	return e.add(event, false, calls)
}

func (e *emitter) On(event events.EventName, calls ...events.Listener) error {
	return e.add(event, false, calls)
}

func (e *emitter) Once(event events.EventName, calls ...events.Listener) error {
	return e.add(event, true, calls)
}

func (e *emitter) snapshot() []listener {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all
}

func (e *emitter) Emit(event events.EventName, args ...any) {
	for _, l := range e.snapshot() {
		switch {
		case l.event != event:
		case l.once == nil:
			l.call(args...)
		default:
			l.once.Do(func() {
				e.remove(func(x listener) bool { return x.once == l.once })
				l.call(args...)
			})
		}
	}
}

// remove drops the listeners that match and says whether there were any.
func (e *emitter) remove(match func(listener) bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(e.all), match)
	found := len(kept) < len(e.all)
	e.all = kept
	return found
}

// RemoveListener drops the first such listener of the event. Like the library it
// tells functions apart by their code: two method values of one type are equal.
func (e *emitter) RemoveListener(event events.EventName, call events.Listener) bool {
	first := true
	return e.remove(func(l listener) bool {
		if !first || l.event != event || !same(l.call, call) {
			return false
		}
		first = false
		return true
	})
}

func (e *emitter) RemoveAllListeners(event events.EventName) bool {
	return e.remove(func(l listener) bool { return l.event == event })
}

func (e *emitter) Clear() {
	e.remove(func(listener) bool { return true })
}

func (e *emitter) Listeners(event events.EventName) []events.Listener {
	var calls []events.Listener
	for _, l := range e.snapshot() {
		if l.event == event {
			calls = append(calls, l.call)
		}
	}
	return calls
}

func (e *emitter) ListenerCount(event events.EventName) int { return len(e.Listeners(event)) }

func (e *emitter) EventNames() []events.EventName {
	var names []events.EventName
	for _, l := range e.snapshot() {
		if !slices.Contains(names, l.event) {
			names = append(names, l.event)
		}
	}
	return names
}

func (e *emitter) Len() int { return len(e.EventNames()) }

func (e *emitter) SetMaxListeners(uint)  {}
func (e *emitter) GetMaxListeners() uint { return 0 }

func same(a, b events.Listener) bool {
	return a != nil && b != nil && reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}
