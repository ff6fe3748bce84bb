package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mappedImage is a sealed file in memory that every instance maps
// copy-on-write: an instance costs the pages it writes to.
type mappedImage struct {
	fd   int // -1 for an empty image
	size uint64
}

// newImage freezes memory, whose length is a multiple of 64 KiB. Where the
// kernel refuses a file in memory, the image is copied instead.
func newImage(memory []byte) (image, error) {
	if len(memory) == 0 {
		return &mappedImage{fd: -1}, nil
	}
	fd, err := unix.MemfdCreate("sluice-image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return heapImage{memory}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("create image: %w", err)
	}
	im := &mappedImage{fd: fd, size: uint64(len(memory))}
	if err := im.fill(memory); err != nil {
		return nil, errors.Join(fmt.Errorf("write image: %w", err), unix.Close(fd))
	}
	return im, nil
}

func (im *mappedImage) fill(memory []byte) error {
	if err := unix.Ftruncate(im.fd, int64(len(memory))); err != nil {
		return err
	}
	for off := 0; off < len(memory); off += pageSize {
		page := memory[off : off+pageSize]
		if bytes.Equal(page, zeroPage[:]) {
			continue // holes read as zeros and take no memory
		}
		for len(page) > 0 {
			n, err := unix.Pwrite(im.fd, page, int64(off+pageSize-len(page)))
			if err != nil {
				return err
			}
			page = page[n:]
		}
	}
	_, err := unix.FcntlInt(uintptr(im.fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return err
}

func (im *mappedImage) take(max uint64) (linearMemory, error) {
	if max < im.size || max == 0 {
		return nil, fmt.Errorf("map image: %d bytes don't hold %d", max, im.size)
	}
	// The whole range is reserved, so that the memory never moves when it grows.
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(max), unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve memory: %w", err)
	}
	m := &mappedMemory{im: im, all: unsafe.Slice((*byte)(base), max)}
	if im.size > 0 {
		_, err := unix.MmapPtr(im.fd, 0, base, uintptr(im.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map image: %w", err), m.unmap())
		}
	}
	m.size = im.size
	return m, nil
}

func (im *mappedImage) close() error {
	if im.fd < 0 {
		return nil
	}
	return unix.Close(im.fd)
}

type mappedMemory struct {
	im   *mappedImage
	all  []byte // the reserved range
	size uint64 // of it, accessible
}

func (m *mappedMemory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.all)) {
		return nil
	}
	if size > m.size {
		if err := unix.Mprotect(m.all[m.size:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil // memory.grow fails in the guest
		}
		m.size = size
	}
	return m.all[:size:size]
}

func (m *mappedMemory) Free() {
	if m.all != nil {
		m.unmap()
		m.all = nil
	}
}

// wipe drops the private pages: the next access reads the image again.
func (m *mappedMemory) wipe() bool {
	return m.size == m.im.size && m.size > 0 && unix.Madvise(m.all[:m.size], unix.MADV_DONTNEED) == nil
}

func (m *mappedMemory) unmap() error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(m.all)), uintptr(len(m.all)))
}
