package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zishang520/engine.io/v2/events"
)

// The emitter behaves like the library's, call by call.
func TestEmitterIsTheLibrarys(t *testing.T) {
	script := func(e events.EventEmitter) string {
		var log []string
		say := func(s string) events.Listener {
			return func(args ...any) { log = append(log, fmt.Sprint(s, args)) }
		}
		stay, once, removed := say("stay"), func(args ...any) { log = append(log, fmt.Sprint("once", args)) }, func(...any) { log = append(log, "removed") }
		e.On("a", stay)
		e.Once("a", once)
		e.AddListener("b", removed)
		e.On("self", func(...any) { e.On("self", say("added while called")); e.RemoveAllListeners("self") })
		note := func(what string) {
			names := e.EventNames()
			slices.Sort(names)
			//lint:ignore SA1019 the interface still has it
			log = append(log, fmt.Sprint(what, e.ListenerCount("b"), names, e.GetMaxListeners()))
		}
		note("start")
		e.Emit("a", 1, "x")
		e.Emit("a")
		e.Emit("none", 1)
		log = append(log, fmt.Sprint(e.RemoveListener("b", removed), e.RemoveListener("b", removed), e.RemoveListener("b", nil), e.RemoveListener("none", removed)))
		e.Emit("b")
		e.Emit("self")
		e.Emit("self")
		e.On("c", stay, stay)
		e.RemoveListener("c", stay)
		e.Emit("c")
		log = append(log, fmt.Sprint(len(e.Listeners("c")), e.RemoveAllListeners("c"), e.RemoveAllListeners("c")))
		//lint:ignore SA1019 the interface still has it
		e.SetMaxListeners(3)
		e.Clear()
		e.Emit("a")
		log = append(log, fmt.Sprint(e.Len()))
		return strings.Join(log, "\n")
	}
	ours, theirs := script(&emitter{}), script(events.New())
	if ours != theirs {
		t.Errorf("ours:\n%s\n\nthe library's:\n%s", ours, theirs)
	}
}
