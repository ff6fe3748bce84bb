package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" { // started by the bench itself
		main()
		return
	}
	os.Exit(m.Run())
}

// The bench runs through, small, and nothing is lost. Who can't take what has no
// log is cut off, told why, comes back and has everything.
func TestBench(t *testing.T) {
	s := settings{conns: 20, rates: []int{500}, rounds: 2, seconds: 0.2, broadcast: 20, idle: []int{20}, hasty: true, only: "transports"}
	want := map[string]int{"lost, reordered": 2, "digests equal": 0, "told too_slow": 0, "closed, and back": 0, "  met ": 2}
	if _, err := exec.LookPath("redis-server"); err == nil {
		s.only, s.sluice = "", filepath.Join(t.TempDir(), "sluice")
		if said, err := exec.Command("go", "build", "-o", s.sluice, "../..").CombinedOutput(); err != nil {
			t.Fatalf("build sluice: %v\n%s", err, said)
		}
		want = map[string]int{"lost, reordered": 5, "digests equal": 4, "told too_slow": 1, "closed, and back": 1, "  met ": 5}
	}
	var out strings.Builder
	err := bench(s, &out)
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "told too_slow") || strings.Contains(line, "closed, and back") {
			if !strings.HasSuffix(strings.TrimRight(line, " \n"), "  2") {
				t.Error(line)
			}
		}
	}
	for what, n := range want {
		if got := strings.Count(out.String(), what); got != n {
			t.Errorf("%q is there %d times, not %d", what, got, n)
		}
	}
}
