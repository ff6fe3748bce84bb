package gateway

// maxTrail is how many jobs that it no longer watches a socket remembers.
const maxTrail = 256

// trail is where a socket stood in the jobs that it no longer watches, the last
// maxTrail of them: none of their frames is sent to it twice unless it asks for
// them by their number. Whoever makes a job known late finds it here, too. A job
// that has fallen out is as one that the socket has never seen. Its session
// guards it.
type trail struct {
	seqs map[string]int64
	ring []string
	next int // where the ring is written
}

// note enters where the socket stands in a job.
func (t *trail) note(id string, seq int64) {
	if t.seqs == nil {
		t.seqs = map[string]int64{}
	}
	_, known := t.seqs[id]
	t.seqs[id] = seq
	switch {
	case known:
	case len(t.ring) < maxTrail:
		t.ring = append(t.ring, id)
	default:
		delete(t.seqs, t.ring[t.next])
		t.ring[t.next] = id
		t.next = (t.next + 1) % maxTrail
	}
}

// at is where the socket stood in a job, if it is remembered.
func (t *trail) at(id string) (seq int64, known bool) {
	seq, known = t.seqs[id]
	return seq, known
}
