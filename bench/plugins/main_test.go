package main

import (
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" { // started by the bench itself
		main()
		return
	}
	os.Exit(m.Run())
}

// The bench runs through, small, and prints every row.
func TestBench(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), options{chunks: 1000, rounds: 1, events: 20, streams: 20, starts: 1, out: &out})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"openai-sandbox ", "bare call", "sandbox, a Go guest", "bare gRPC", "native, plugin openai", "steady-sandbox", "steady-native"} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("no row %q", row)
		}
	}
}
