package sandbox

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/sdk"
)

// Texts that share memory are like any others, whatever comes after them and
// whoever has gone.
func TestTextsShareMemory(t *testing.T) {
	var all texts
	var got []sdk.Text
	var want []string
	buf := make([]byte, 0, 200)
	for i := range 3000 {
		s := fmt.Sprint(i, strings.Repeat("x", i%(shortText+20)))
		buf = append(buf[:0], s...)
		got, want = append(got, all.text(buf)), append(want, s)
		clear(buf[:cap(buf)]) // a guest uses its memory again
		if i%500 == 0 {
			runtime.GC()
		}
	}
	all = nil
	runtime.GC()
	for i, c := range got {
		if string(c) != want[i] {
			t.Fatalf("%d: %q, want %q", i, c, want[i])
		}
	}
}

// The text of a token has no memory of its own, and one that is alone little.
func TestTextsCostLittle(t *testing.T) {
	token := []byte("token")
	var all texts
	if n := testing.AllocsPerRun(1000, func() { all.text(token) }); n > 0 {
		t.Errorf("%v allocations a token", n)
	}
	var one texts
	one.text(token)
	if n := cap(one); n > 128 {
		t.Errorf("%d bytes for a token", n)
	}
}
