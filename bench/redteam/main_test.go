package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/host/native/box"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" { // started by the bench itself
		main()
		return
	}
	os.Exit(m.Run())
}

// Every attack is contained, whatever the machine has to do beside.
func TestEveryAttackIsContained(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), options{neighbours: 4, period: 10 * time.Millisecond, deadline: 50 * time.Millisecond, out: &out})
	t.Log(out.String())
	if err != nil {
		t.Error(err)
	}
}

// A guest that gets out is noticed.
func TestEscapesAreNoticed(t *testing.T) {
	f, err := newField(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	o := options{neighbours: 1, period: 10 * time.Millisecond, deadline: 50 * time.Millisecond}
	goGuest := attacks()[len(attacks())-1].plugin
	for name, a := range map[string]attack{
		"answered": {model: "neighbour", prompt: "0 0 0"},
		"key":      {model: "steal", prepare: func(f *field) string { return f.upstream.URL + "/echo" }, contained: denied},
	} {
		a.plugin = goGuest
		if out, err := f.try(t.Context(), o, &a); err != nil || out.escape == nil {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
}

// Without a box the native attacks succeed, up to their bounds, and that is
// told.
func TestNativeAttacksAreReal(t *testing.T) {
	f, err := newField(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	f.box = &box.Level{}
	o := options{neighbours: 1, period: 10 * time.Millisecond, deadline: 50 * time.Millisecond}
	for _, a := range f.natives() {
		if a.native.model != "read" && !strings.HasPrefix(a.native.prompt, "unix") {
			continue // those are for machines that are nobody else's
		}
		if out, err := f.try(t.Context(), o, &a); err != nil || !out.unable {
			t.Errorf("%s: %+v, %v", a.name, out, err)
		}
	}
}

// What stops a fork bomb is the limit of tasks, as it takes little memory.
func TestForkBombMeetsItsOwnLimit(t *testing.T) {
	if level := box.Find(); !level.Gives(box.Processes) {
		t.Skip("boxes here would leave its children behind")
	}
	f, err := newField(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	a := f.natives()[len(f.natives())-1]
	out := f.nativeAttacker(t.Context(), options{deadline: time.Second}, a.native)
	if out.escape != nil || strings.Contains(out.ended, "memory") {
		t.Errorf("%s: %+v", a.name, out)
	}
}
