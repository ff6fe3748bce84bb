package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestShape(t *testing.T) {
	for keys, want := range map[string]step{
		"pending paused active lease":                      stepTake,
		"active lease t:a processed:2026-01-01 processed":  stepEnd,
		"active lease completed t:a processed:d processed": stepEnd,
		"active lease pending t:a":                         stepEnd,
		"t:a active lease archived p:d f:d p f t:":         stepEnd,
		"t:a active lease retry p:d f:d p f":               stepRetry,
		"scheduled pending":                                stepForward,
		"retry pending":                                    stepForward,
		"t:a pending":                                      stepEnqueue,
		"unique:t:x t:a pending":                           stepEnqueue,
		"t:a scheduled":                                    stepSchedule,
		"unique:t:x t:a scheduled":                         stepSchedule,
		"t:job:pending#1 t:pending":                        stepOther, // a task may be called that
		"lease":                                            stepOther,
		"pending active lease":                             stepOther, // giveback.lua
		"aggregation_sets":                                 stepOther,
		"t:a g:x groups":                                   stepOther,
		"pending paused active lease more":                 stepOther,
		"a b c d e f g h i j":                              stepOther,
	} {
		var full []string
		for _, k := range strings.Fields(keys) {
			full = append(full, keyOf("q:1", k))
		}
		got, queue := shape(full)
		if got != want {
			t.Errorf("%s is %v, want %v", keys, got, want)
		}
		if want != stepOther && queue != "q:1" {
			t.Errorf("%s is of %q", keys, queue)
		}
	}
	for _, keys := range [][]string{
		nil, {"a", "b"}, {"asynq:{q}", "asynq:{q}:pending"}, {"asynq:{q}:retry", "asynq:{other}:pending"},
	} {
		if got, _ := shape(keys); got != stepOther {
			t.Errorf("%q is %v", keys, got)
		}
	}
}

func TestScoresAreNeverEarly(t *testing.T) {
	for _, ns := range []int64{0, 1, 999_999, 1_000_000, 1_500_000_001, 999_999_999} {
		at := time.Unix(1_900_000_000, ns)
		args, got := exact([]any{"id", int64(1_900_000_000)}, 1, at)
		if got != at || args[1] != score(at) {
			t.Errorf("exact: %v, %v", args, got)
		}
		var sec, ms int64
		if _, err := fmt.Sscanf(score(at), "%d.%d", &sec, &ms); err != nil {
			t.Fatal(err)
		}
		if kept := time.Unix(sec, ms*1e6); kept.Before(at) || kept.Sub(at) >= time.Millisecond {
			t.Errorf("%v is kept as %v", at, kept)
		}
	}
	args, at := exact([]any{"id", int64(5)}, 1, time.Time{})
	if args[1] != "6.000" || at.Unix() != 6 {
		t.Errorf("a whole second: %v, %v", args, at)
	}
	if args, _ := exact([]any{"id"}, 1, time.Time{}); len(args) != 1 {
		t.Errorf("too short: %v", args)
	}
}
