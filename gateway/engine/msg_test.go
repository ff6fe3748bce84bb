package engine

import (
	"encoding/json"
	"testing"
)

func TestRecentEvent(t *testing.T) {
	var r recent
	first, second := json.RawMessage(`{"a":1}`), json.RawMessage(`{"a":1}`)
	m := r.event("/", "e", first)
	if got := string(m.frame[m.head:]); got != `42["e",{"a":1}]` {
		t.Error(got)
	}
	if r.event("/", "e", first) != m {
		t.Error("the same event is encoded again")
	}
	for name, other := range map[string]*Msg{
		"other memory":    r.event("/", "e", second),
		"other name":      r.event("/", "f", second),
		"other namespace": r.event("/n", "f", second),
		"a part":          r.event("/n", "f", second[:1]),
	} {
		if other == m {
			t.Error(name, "taken for the same event")
		}
	}
}
