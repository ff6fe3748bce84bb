package job

import (
	"bytes"
	"strconv"
)

// Merge joins consecutive model:chunk frames of one attempt, up to a size of text in bytes: chunk is their text,
// index that of the first, seq that of the last, and fromSeq is added with that of the first. Other frames stay
// as they are, and so do chunks that this package didn't encode. The state a client ends in is the same.
func Merge(frames []Frame, size int) []Frame {
	out := make([]Frame, 0, 8)
	for i := 0; i < len(frames); {
		n := mergeable(frames[i:], size)
		if n < 2 {
			out = append(out, frames[i])
			i++
			continue
		}
		out = append(out, mergeRun(frames[i:i+n]))
		i += n
	}
	return out
}

var (
	preChunk = []byte(`,"chunk":"`)
	preIndex = []byte(`","index":`)
	preTotal = []byte(`,"total":null`)
	preFrom  = []byte(`,"fromSeq":`)
)

// chunkParts splits a chunk's data as encodeFrame wrote it: text still escaped, what stands before and after it.
func chunkParts(f Frame) (text, tail []byte, ok bool) {
	if f.Event != EventChunk {
		return nil, nil, false
	}
	seq := append(strconv.AppendInt([]byte(`,"seq":`), f.Seq, 10), preChunk...)
	i := bytes.Index(f.Data, seq)
	j := bytes.LastIndex(f.Data, preIndex)
	if i < 0 || j < i+len(seq) || !bytes.Contains(f.Data[j:], preTotal) {
		return nil, nil, false
	}
	return f.Data[i+len(seq) : j], f.Data[j:], true
}

// mergeable is the length of the run of chunks at the head of frames.
func mergeable(frames []Frame, size int) int {
	n, sum := 0, 0
	for _, f := range frames {
		text, _, ok := chunkParts(f)
		if !ok || n > 0 && (f.Attempt != frames[0].Attempt || f.From != frames[n-1].Seq+1 || sum+len(text) > size) {
			break
		}
		sum += len(text)
		n++
	}
	return n
}

// mergeRun joins escaped texts as they are: the encoder never splits an escape between two frames.
func mergeRun(run []Frame) Frame {
	first, last := run[0], run[len(run)-1]
	_, tail, _ := chunkParts(first)
	headEnd := bytes.Index(first.Data, strconv.AppendInt([]byte(`,"seq":`), first.Seq, 10))
	size := 96 + headEnd
	for _, f := range run {
		size += len(f.Data)
	}
	raw := make([]byte, 0, size)
	raw = append(raw, `{"event":"`+EventChunk+`","data":`...)
	at := len(raw)
	raw = append(raw, first.Data[:headEnd]...)
	raw = append(raw, `,"seq":`...)
	raw = strconv.AppendInt(raw, last.Seq, 10)
	raw = append(raw, preChunk...)
	for _, f := range run {
		text, _, _ := chunkParts(f)
		raw = append(raw, text...)
	}
	index := (&scanner{b: tail[len(preIndex):]}).number()
	raw = append(raw, preIndex...)
	raw = strconv.AppendInt(raw, index, 10)
	raw = append(raw, preTotal...)
	raw = append(raw, preFrom...)
	raw = strconv.AppendInt(raw, first.From, 10)
	raw = append(raw, '}')
	end := len(raw)
	raw = append(raw, last.Raw[bytes.LastIndex(last.Raw, preTime):]...)
	return Frame{
		Seq: last.Seq, From: first.From, Attempt: first.Attempt, Job: first.Job, Event: EventChunk, Time: last.Time,
		Data: raw[at:end:end], Raw: raw,
	}
}
