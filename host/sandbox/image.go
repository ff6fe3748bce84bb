package sandbox

import "github.com/tetratelabs/wazero/experimental"

// image is the memory that instances of a guest start with. It is safe for
// concurrent use.
type image interface {
	// take makes a memory that holds the image and can grow to max bytes.
	take(max uint64) (linearMemory, error)
	// close frees the image. Memories taken from it stay valid.
	close() error
}

// linearMemory is the memory of one instance.
type linearMemory interface {
	experimental.LinearMemory
	// wipe makes a memory that didn't grow hold the image again, and says
	// whether it does.
	wipe() bool
}

// pageSize is the granularity in which images are stored; the system's pages
// may be larger.
const pageSize = 4096

var zeroPage [pageSize]byte

// heapImage copies. It is what works everywhere: an instance costs the size of
// the image.
type heapImage struct{ data []byte }

func (h heapImage) take(max uint64) (linearMemory, error) {
	m := &heapMemory{image: h.data, data: make([]byte, len(h.data)), max: max}
	copy(m.data, h.data)
	return m, nil
}

func (heapImage) close() error { return nil }

type heapMemory struct {
	image []byte
	data  []byte
	max   uint64
}

func (m *heapMemory) Reallocate(size uint64) []byte {
	if size > m.max {
		return nil
	}
	if size > uint64(cap(m.data)) {
		grown := make([]byte, size, min(m.max, size+size/4))
		copy(grown, m.data)
		m.data = grown
	}
	m.data = m.data[:size]
	return m.data
}

func (m *heapMemory) Free() { m.data = nil }

func (m *heapMemory) wipe() bool {
	if len(m.data) != len(m.image) {
		return false
	}
	copy(m.data, m.image)
	return true
}
