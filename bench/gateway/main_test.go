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

// The bench runs through, small, and nothing is lost.
func TestBench(t *testing.T) {
	s := settings{conns: 20, rates: []int{500}, seconds: 0.2, broadcast: 10, idle: []int{20}, only: "transports"}
	if _, err := exec.LookPath("redis-server"); err == nil {
		s.only, s.sluice = "", filepath.Join(t.TempDir(), "sluice")
		if said, err := exec.Command("go", "build", "-o", s.sluice, "../..").CombinedOutput(); err != nil {
			t.Fatalf("build sluice: %v\n%s", err, said)
		}
	}
	var out strings.Builder
	if err := bench(s, &out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	losses, digests := 0, 0
	for line := range strings.Lines(out.String()) {
		switch {
		case strings.Contains(line, "lost, reordered"):
			losses++
			if !strings.Contains(line, "  0, 0") {
				t.Error(line)
			}
		case strings.Contains(line, "digests equal"):
			digests++
			if !strings.Contains(line, "  20  ") {
				t.Error(line)
			}
		}
	}
	if s.only == "" && (losses != 5 || digests != 1) || losses < 2 {
		t.Errorf("%d rows of losses, %d of digests", losses, digests)
	}
}
