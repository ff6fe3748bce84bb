package sdk

import (
	"fmt"
	"strings"
	"testing"
)

func TestErrDoneEndsReading(t *testing.T) {
	for name, read := range map[string]func(f func() error) error{
		"ReadSSE": func(f func() error) error {
			return ReadSSE(strings.NewReader("data: 1\n\ndata: 2\n\ndata: 3\n\n"), func(Event) error { return f() })
		},
		"ReadLines": func(f func() error) error {
			return ReadLines(strings.NewReader("1\n2\n3\n"), func([]byte) error { return f() })
		},
	} {
		for _, done := range []error{ErrDone, fmt.Errorf("the end marker: %w", ErrDone)} {
			n := 0
			err := read(func() error {
				if n++; n == 2 {
					return done
				}
				return nil
			})
			if n != 2 || err != nil {
				t.Errorf("%s called %d times and returned %v", name, n, err)
			}
		}
	}
}

func TestUnfinished(t *testing.T) {
	wantError(t, "an unfinished stream", Unfinished(), Truncated, Upstream)
}

// One event that can't be read passes, in each stream; what isn't one always does.
func TestMalformedPassesOne(t *testing.T) {
	for range 2 {
		var m Malformed
		for _, stray := range []string{"", "OK", "[1", `{"a":`, "ping"} {
			if err := m.Pass([]byte(stray), "chunks"); err != nil {
				t.Errorf("%q: %v", stray, err)
			}
		}
		err := m.Pass([]byte("{"), "chunks")
		wantError(t, "the second", err, Truncated, Upstream)
		if err != nil && !strings.Contains(err.Error(), "2 chunks") {
			t.Errorf("it says %v", err)
		}
	}
}
