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
	s := settings{conns: 20, rates: []int{500}, rounds: 2, seconds: 0.12, broadcast: 20, idle: []int{20}, hasty: true, only: "transports"}
	want := map[string]int{"lost, reordered": 2, "digests equal": 0, "told too_slow": 0, "closed, and back": 0, "  met ": 2}
	if _, err := exec.LookPath("redis-server"); err == nil {
		s.only, s.sluice = "", filepath.Join(t.TempDir(), "sluice")
		if said, err := exec.Command("go", "build", "-o", s.sluice, "../..").CombinedOutput(); err != nil {
			t.Fatalf("build sluice: %v\n%s", err, said)
		}
		want = map[string]int{"lost, reordered": 5, "digests equal": 4, "told too_slow": 1, "closed, and back": 1, "  met ": 6}
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

// What ours loses fails the run; what Node's loses and what takes too long don't.
func TestJudge(t *testing.T) {
	run := func(nodeLost, lost, same int) (string, error) {
		node, ours := &column{name: "node", node: true}, &column{name: "ours"}
		for _, perSecond := range []float64{100, 110, 300} {
			node.add(perCore("1/s"), "%.0f", perSecond, more)
			ours.add(perCore("1/s"), "%.0f", perSecond+150, more).aim = 2
		}
		node.lose("1/s", load{sent: 10, received: 10 - nodeLost})
		ours.lose("1/s", load{sent: 10, received: 10 - lost})
		ours.equal("digests", same, 2)
		var out strings.Builder
		err := judge(&out, [][]*column{{node, ours}})
		return out.String(), err
	}
	text, err := run(1, 0, 2)
	if err != nil || strings.Contains(text, "MISSED") || !strings.Contains(text, "met     1/s: events per core-second: 2.36 × (1.50 ×–2.50 ×) better") {
		t.Errorf("%v\n%s", err, text)
	}
	if text, err := run(0, 1, 2); err == nil || !strings.Contains(text, "MISSED  ours: 1 lost") {
		t.Errorf("lost: %v\n%s", err, text)
	}
	if text, err := run(0, 0, 1); err == nil || !strings.Contains(text, "MISSED  ours: digests: 1 of 2") {
		t.Errorf("digests: %v\n%s", err, text)
	}
	slow := &column{name: "slow"}
	slow.add("time", "%.0f", 2, less).aim = 1
	slow.add("size", "%.0f", 2, neither).limit = 1
	fast := &column{name: "fast", node: true}
	fast.add("time", "%.0f", 1, less)
	var out strings.Builder
	if err := judge(&out, [][]*column{{fast, slow}}); err != nil || strings.Count(out.String(), "MISSED") != 2 {
		t.Errorf("%v\n%s", err, out.String())
	}
}
