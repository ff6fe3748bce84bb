package egress

import (
	"bytes"
	"io"

	"github.com/sluicehq/sluice/host/manifest"
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
			i := bytes.Index(b[at:], w.text)
			if i < 0 {
				break
			}
			for j := at + i; j < at+i+len(w.text); j++ {
				b[j] = '*'
			}
			at += i + len(w.text)
		}
	}
}

// held is how many bytes at the end of b may be the beginning of a word, of
// words that are sorted, longest first.
func held(words [][]byte, b []byte) int {
	if len(words) == 0 {
		return 0
	}
	for n := min(len(words[0])-1, len(b)); n > 0; n-- {
		tail := b[len(b)-n:]
		for _, w := range words {
			if len(w) > n && bytes.HasPrefix(w, tail) {
				return n
			}
		}
	}
	return 0
}

// reader redacts a stream from an origin. It passes on what it has as soon as it
// has it and holds back only bytes that could be the beginning of a secret which
// that origin is sent. Of another secret they are not held back: whether they
// are tells whoever chose them how it begins, and an origin of the plugin's own
// would try it letter by letter.
func (r *redactor) reader(src io.Reader, from manifest.Origin) io.Reader {
	if len(r.words) == 0 {
		return src
	}
	rr := &redactReader{r: r, src: src, in: make([]byte, 0, 16<<10)}
	for _, w := range r.words {
		if covered(w.origins, from) {
			rr.known = append(rr.known, w.text)
		}
	}
	return rr
}

type redactReader struct {
	r     *redactor
	known [][]byte // words that may come in pieces
	src   io.Reader
	in    []byte // read and not yet given out; in[:done] is masked
	done  int
	err   error
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
			rr.done -= held(rr.known, rr.in)
		}
	}
	n := copy(p, rr.in[:rr.done])
	rest := copy(rr.in, rr.in[n:])
	rr.in, rr.done = rr.in[:rest], rr.done-n
	return n, nil
}
