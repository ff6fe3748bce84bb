package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Both kinds of images give every instance the same bytes, whatever the others
// write, and wipe what was written.
func TestImages(t *testing.T) {
	data := make([]byte, 3<<16)
	for i := range data {
		if i/pageSize%3 != 0 { // some pages stay zero
			data[i] = byte(i * 7)
		}
	}
	mapped, err := newImage(data)
	if err != nil {
		t.Fatal(err)
	}
	for name, im := range map[string]image{"mapped": mapped, "heap": heapImage{data}} {
		t.Run(name, func(t *testing.T) {
			a, err := im.take(8 << 16)
			if err != nil {
				t.Fatal(err)
			}
			b, err := im.take(8 << 16)
			if err != nil {
				t.Fatal(err)
			}
			ma, mb := a.Reallocate(3<<16), b.Reallocate(3<<16)
			if !bytes.Equal(ma, data) || !bytes.Equal(mb, data) {
				t.Fatal("a new memory isn't the image")
			}
			for i := range ma {
				ma[i] = 0xee
			}
			if !bytes.Equal(mb, data) {
				t.Error("one memory sees what another wrote")
			}
			if !a.wipe() || !bytes.Equal(a.Reallocate(3<<16), data) {
				t.Error("a wiped memory isn't the image")
			}
			if m := a.Reallocate(5 << 16); len(m) != 5<<16 || !bytes.Equal(m[:3<<16], data) || bytes.IndexFunc(m[3<<16:], func(r rune) bool { return r != 0 }) >= 0 {
				t.Error("a grown memory isn't the image and zeros")
			}
			if a.wipe() {
				t.Error("a memory that grew was wiped")
			}
			if a.Reallocate(9<<16) != nil {
				t.Error("a memory grew past its maximum")
			}
			if err := im.close(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(mb, data) {
				t.Error("closing the image changed a memory")
			}
			a.Free()
			b.Free()
			b.Free()
		})
	}
}

func FuzzImageFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "images", "x")
	memory := make([]byte, 2<<16)
	memory[5000] = 1
	if err := writePrepared(path, &prepared{code: []byte("code"), memory: memory}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	p, err := readImage(path)
	if err != nil || string(p.code) != "code" || !bytes.Equal(p.memory, memory) {
		f.Fatalf("read back %v", err)
	}
	f.Add(b)
	f.Add(b[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePrepared(b); err == nil && len(p.memory)%pageSize != 0 {
			t.Error("part of a page")
		}
	})
}
