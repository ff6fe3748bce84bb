package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// howToMakeEngine says where the engine for scripts comes from.
const howToMakeEngine = "make it once, in a clone of Sluice, with Node and npm: make -C examples/guests javascript; sluice finds it in the build folder of its clone, and anywhere else by --engine FILE"

// Of an engine, see examples/guests/javascript/engine: the place for a script is the last
// segment of its data. See https://webassembly.github.io/spec/core/binary/modules.html
const (
	wasmMagic   = "\x00asm\x01\x00\x00\x00"
	dataSection = 11
	scriptPlace = "here goes the script of a plugin"
)

var errNoEngine = errors.New("this is no engine for scripts")

// guestOfScript puts a script into a copy of the engine.
func guestOfScript(engine, script, out string) error {
	source, err := readBounded(script, maxArtifact)
	if err != nil {
		return err
	}
	guest, err := readBounded(engine, maxArtifact)
	if engine == "" || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the engine that %s runs on is missing (looked for %q); %s", filepath.Base(script), engine, howToMakeEngine)
	}
	if err != nil {
		return fmt.Errorf("read the engine for scripts: %w", err)
	}
	if guest, err = withScript(guest, filepath.Base(script), source); err != nil {
		return fmt.Errorf("%s: %w; %s", engine, err, howToMakeEngine)
	}
	return os.WriteFile(out, guest, 0o644)
}

func withScript(engine []byte, name string, source []byte) ([]byte, error) {
	if !bytes.HasPrefix(engine, []byte(wasmMagic)) {
		return nil, errNoEngine
	}
	for at := len(wasmMagic); at < len(engine); {
		size, n := binary.Uvarint(engine[at+1:])
		start := at + 1 + n
		if n <= 0 || size > uint64(len(engine)-start) {
			return nil, errNoEngine
		}
		end := start + int(size)
		if head, ok := bytes.CutSuffix(engine[start:end], sized([]byte(scriptPlace))); ok && engine[at] == dataSection {
			// Two sizes, then the texts with a zero each: what the engine's glue reads.
			texts := binary.LittleEndian.AppendUint32(nil, uint32(len(name))+1)
			texts = binary.LittleEndian.AppendUint32(texts, uint32(len(source))+1)
			texts = slices.Concat(texts, []byte(name), []byte{0}, source, []byte{0})
			return slices.Concat(engine[:at+1], sized(slices.Concat(head, sized(texts))), engine[end:]), nil
		}
		at = end
	}
	return nil, errNoEngine
}

// sized puts its length in front of b.
func sized(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }
