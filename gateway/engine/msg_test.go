package engine

import (
	"encoding/json"
	"testing"
)

func TestEvents(t *testing.T) {
	var events Events
	first, second := json.RawMessage(`{"a":1}`), json.RawMessage(`{"a":1}`)
	m := events.New("/", "e", first)
	if got := string(m.frame[m.head:]); got != `42["e",{"a":1}]` {
		t.Error(got)
	}
	if events.New("/", "e", first) != m {
		t.Error("the same event is encoded again")
	}
	for name, other := range map[string]*Msg{
		"other memory":    events.New("/", "e", second),
		"other name":      events.New("/", "f", second),
		"other namespace": events.New("/n", "f", second),
		"a part":          events.New("/n", "f", second[:1]),
	} {
		if other == m {
			t.Error(name, "taken for the same event")
		}
	}
}
