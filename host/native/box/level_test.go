package box

import (
	"slices"
	"strings"
	"testing"
)

func TestGuarantees(t *testing.T) {
	for _, test := range []struct {
		level Level
		held  []string
		text  string
	}{
		{Level{}, []string{}, "nothing"},
		{Level{Limits: true}, []string{}, "limits"},
		{Level{Seccomp: true}, []string{Network}, "seccomp"},
		{Level{Landlock: 3}, []string{Files}, "landlock 3"},
		{Level{Namespaces: true}, []string{Network, Processes}, "namespaces"},
		{Level{Landlock: 6, Seccomp: true, Limits: true, Tasks: true}, []string{Network, Files}, "landlock 6, seccomp, limits"},
		{Level{Cgroup: true}, []string{Memory, Tasks}, "control group"},
		{Level{Namespaces: true, Root: true, Landlock: 6, Seccomp: true, Limits: true}, []string{Network, Files, Processes, Sockets}, "namespaces, own root, landlock 6, seccomp, limits"},
		{Level{Namespaces: true, Root: true, Limits: true, Tasks: true}, []string{Network, Files, Processes, Sockets, Tasks}, "namespaces, own root, limits"},
		{Level{Namespaces: true, Root: true, Limits: true, Cgroup: true}, Guarantees(), "namespaces, own root, limits, control group"},
	} {
		if held := test.level.Held(); !slices.Equal(held, test.held) {
			t.Errorf("%+v holds %v, want %v", test.level, held, test.held)
		}
		if text := test.level.String(); text != test.text {
			t.Errorf("%+v is called %q, want %q", test.level, text, test.text)
		}
		if err := test.level.Check(test.held); err != nil {
			t.Errorf("%+v: %v", test.level, err)
		}
		for _, g := range Guarantees() {
			if err := test.level.Check([]string{g}); (err == nil) != slices.Contains(test.held, g) {
				t.Errorf("%+v, %s required: %v", test.level, g, err)
			}
		}
	}
	if err := (Level{}).Check([]string{"cooling"}); err == nil || !strings.Contains(err.Error(), `"cooling"`) {
		t.Errorf("error is %v, want one about a guarantee nobody knows", err)
	}
}
