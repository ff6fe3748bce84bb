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
	var got []sdk.Chunk
	var want []string
	buf := make([]byte, 0, 200)
	for i := range 3000 {
		s := fmt.Sprint(i, strings.Repeat("x", i%(shortText+20)))
		buf = append(buf[:0], s...)
		got, want = append(got, all.chunk(buf)), append(want, s)
		clear(buf[:cap(buf)]) // a guest uses its memory again
		if i%500 == 0 {
			runtime.GC()
		}
	}
	all = texts{}
	runtime.GC()
	for i, c := range got {
		switch text := c.(type) {
		case sdk.Text:
			if string(text) != want[i] || c != sdk.Chunk(sdk.Text(want[i])) {
				t.Fatalf("%d: %q, want %q", i, text, want[i])
			}
		default:
			t.Fatalf("%d is a %T", i, c)
		}
	}
}

// A token costs no memory of its own, and one that is alone little.
func TestTextsCostLittle(t *testing.T) {
	token := []byte("token")
	var all texts
	if n := testing.AllocsPerRun(1000, func() { all.chunk(token) }); n > 0 {
		t.Errorf("%v allocations a token", n)
	}
	var one texts
	one.chunk(token)
	if n := cap(one.bytes) + 16*cap(one.chunks); n > 128 {
		t.Errorf("%d bytes for a token", n)
	}
}
