package main

import (
	"strings"

	"github.com/sluicehq/sluice/proto/guest"
)

// giants are modules whose one loop has a body of hundreds of kilobytes, in a
// straight line and in blocks.
func giants() map[string][]byte {
	straight := "\x20\x00\x41\x01\x6a\x21\x00"                   // local 0 += 1
	blocks := "\x02\x40\x20\x00\x41\x01\x6a\x22\x00\x0d\x00\x0b" // block; br_if out; end
	loop := func(part string, n int) []byte {
		return module("\x01\x01\x7f" + "\x03\x40" + strings.Repeat(part, n) + "\x0c\x00\x0b\x41\x00\x0b")
	}
	return map[string][]byte{"giant-line": loop(straight, 30_000), "giant-blocks": loop(blocks, 4000)}
}

// module is a guest whose function generate has the body.
func module(body string) []byte {
	section := func(id byte, b string) string { return string(id) + leb(len(b)) + b }
	exports, count := "", 0
	add := func(name string, kind, index byte) {
		exports += leb(len(name)) + name + string([]byte{kind, index})
		count++
	}
	add(guest.ExportMemory, 2, 0)
	add(guest.ExportABI, 0, 0)
	add(guest.ExportDescribe, 0, 1)
	add(guest.ExportConfigure, 0, 1)
	add(guest.ExportGenerate, 0, 2)
	code := leb(3)
	for _, f := range []string{"\x00\x41\x80\x80\x04\x0b", "\x00\x41\x00\x0b", body} {
		code += leb(len(f)) + f
	}
	return []byte("\x00asm\x01\x00\x00\x00" + section(1, "\x01\x60\x00\x01\x7f") + section(3, "\x03\x00\x00\x00") +
		section(5, "\x01\x00\x01") + section(7, leb(count)+exports) + section(10, code))
}

// leb is a number as a module has it.
func leb(n int) string {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return string(append(b, byte(n)))
}
