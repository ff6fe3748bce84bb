package egress

import (
	"bytes"
	"io"
)

// text redacts a whole string.
func (r *redactor) text(s string) string {
	if len(r.words) == 0 {
		return s
	}
	b := []byte(s)
	r.mask(b)
	return string(b)
}

// mask overwrites every word in b.
func (r *redactor) mask(b []byte) {
	for _, w := range r.words {
		for at := 0; ; {
			i := bytes.Index(b[at:], w)
			if i < 0 {
				break
			}
			for j := at + i; j < at+i+len(w); j++ {
				b[j] = '*'
			}
			at += i + len(w)
		}
	}
}

// held is how many bytes at the end of b may be the beginning of a word.
func (r *redactor) held(b []byte) int {
	for n := min(r.keep, len(b)); n > 0; n-- {
		tail := b[len(b)-n:]
		for _, w := range r.words {
			if len(w) > n && bytes.HasPrefix(w, tail) {
				return n
			}
		}
	}
	return 0
}

// reader redacts a stream. It passes on what it has as soon as it has it and
// holds back only bytes that could be the beginning of a secret.
func (r *redactor) reader(src io.Reader) io.Reader {
	if len(r.words) == 0 {
		return src
	}
	return &redactReader{r: r, src: src, in: make([]byte, 0, 16<<10)}
}

type redactReader struct {
	r    *redactor
	src  io.Reader
	in   []byte // read and not yet given out; in[:done] is masked
	done int
	err  error
}

func (rr *redactReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for rr.done == 0 {
		if rr.err != nil {
			return 0, rr.err
		}
		if cap(rr.in)-len(rr.in) < 4<<10 {
			rr.in = append(make([]byte, 0, max(16<<10, 2*len(rr.in)+4<<10)), rr.in...)
		}
		n, err := rr.src.Read(rr.in[len(rr.in):cap(rr.in)])
		rr.in = rr.in[:len(rr.in)+n]
		rr.err = err
		rr.r.mask(rr.in)
		rr.done = len(rr.in)
		if err == nil {
			rr.done -= rr.r.held(rr.in)
		}
	}
	n := copy(p, rr.in[:rr.done])
	rest := copy(rr.in, rr.in[n:])
	rr.in, rr.done = rr.in[:rest], rr.done-n
	return n, nil
}
