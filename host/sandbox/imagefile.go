package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// imageVersion is the version of the file format below.
const imageVersion = 1

const imageMagic = "sluice guest 1\n"

var errNoImage = errors.New("not installed")

// writePrepared stores a guest: the magic, the length of the code and the code,
// the size of the memory, the number of its pages that aren't zero and those,
// each after its number, and the SHA-256 of all that. Numbers are 32 bits,
// little-endian.
func writePrepared(path string, p *prepared) error {
	b := []byte(imageMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.code)))
	b = append(b, p.code...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.memory)/pageSize))
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, 0)
	pages := uint32(0)
	for i := 0; i < len(p.memory); i += pageSize {
		if page := p.memory[i : i+pageSize]; !bytes.Equal(page, zeroPage[:]) {
			b = append(binary.LittleEndian.AppendUint32(b, uint32(i/pageSize)), page...)
			pages++
		}
	}
	binary.LittleEndian.PutUint32(b[at:], pages)
	sum := sha256.Sum256(b)
	return writeFile(path, append(b, sum[:]...))
}

// writeFile writes a file that is there whole or not at all.
func writeFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	if err := private(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// readPrepared reads what writePrepared wrote. Anything else is an error:
// errNoImage if there is no file, or if the code has gone that belongs to it.
func readPrepared(path string) (*prepared, error) {
	release, err := holdInstalled(path)
	if err != nil {
		return nil, err
	}
	defer release()
	return readImage(path)
}

func readImage(path string) (*prepared, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoImage
	}
	if err != nil {
		return nil, err
	}
	p, err := decodePrepared(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return p, nil
}

var errImage = errors.New("is damaged")

func decodePrepared(b []byte) (*prepared, error) {
	if len(b) < len(imageMagic)+sha256.Size || !bytes.HasPrefix(b, []byte(imageMagic)) {
		return nil, errImage
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, errImage
	}
	body = body[len(imageMagic):]
	number := func() uint32 {
		if len(body) < 4 {
			return 0
		}
		v := binary.LittleEndian.Uint32(body)
		body = body[4:]
		return v
	}
	n := number()
	if uint64(n) > uint64(len(body)) {
		return nil, errImage
	}
	p := &prepared{code: body[:n:n]}
	body = body[n:]
	size, pages := number(), number()
	if size > 1<<20 || uint64(len(body)) != uint64(pages)*(4+pageSize) {
		return nil, errImage
	}
	if size > 0 {
		p.memory = make([]byte, int(size)*pageSize)
	}
	for range pages {
		i := number()
		if i >= size {
			return nil, errImage
		}
		copy(p.memory[int(i)*pageSize:], body[:pageSize])
		body = body[pageSize:]
	}
	return p, nil
}
