package sandbox

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"github.com/sluicehq/sluice/host/manifest"
)

// residentKB is the process's proportional set size: mapped copy-on-write
// pages that nobody wrote to count once.
func residentKB(tb testing.TB) int {
	tb.Helper()
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/smaps_rollup")
	if err != nil {
		tb.Skip(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			var kb int
			if _, err := fmt.Sscan(rest, &kb); err == nil {
				return kb
			}
		}
	}
	tb.Skip("no Pss in smaps_rollup")
	return 0
}

// ownPages counts the pages of an instance that it doesn't share with others.
func (m *mappedMemory) ownPages(tb testing.TB) (n int) {
	tb.Helper()
	f, err := os.Open("/proc/self/pagemap") // 64 bits a page: https://docs.kernel.org/admin-guide/mm/pagemap.html
	if err != nil {
		tb.Skip(err)
	}
	defer f.Close()
	size := uintptr(os.Getpagesize())
	first := uintptr(unsafe.Pointer(unsafe.SliceData(m.all))) / size
	entries := make([]byte, 8*uintptr(m.size)/size)
	if _, err := f.ReadAt(entries, int64(8*first)); err != nil {
		tb.Skip(err)
	}
	const present, file = 1 << 63, 1 << 61
	for ; len(entries) > 0; entries = entries[8:] {
		if e := binary.NativeEndian.Uint64(entries); e&present != 0 && e&file == 0 {
			n++
		}
	}
	return n
}

// What a guest's runtime needs for a first job has been done when it was
// frozen: a small job writes to few pages, which are what an instance costs.
func TestSmallJobCostsFewPages(t *testing.T) {
	p, _ := load(t, guestManifest(t, manifest.Operator{}))
	input, err := p.request(ask("echo", "a few words"))
	if err != nil {
		t.Fatal(err)
	}
	c, release := p.newCall(t.Context(), input, discard)
	defer release()
	in, err := p.instantiate(c)
	if err != nil {
		t.Fatal(err)
	}
	defer in.mod.Close(context.Background())
	mem, ok := in.memory.(*mappedMemory)
	if !ok {
		t.Skip("images are copied here")
	}
	if _, err := in.mod.ExportedFunction("sluice_generate").Call(c); err != nil {
		t.Fatal(err)
	}
	n := mem.ownPages(t)
	t.Logf("%d pages", n)
	if n == 0 || n > 30 {
		t.Errorf("%d pages of its own, want 1 to 30", n)
	}
}
