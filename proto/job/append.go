package job

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Answers of append.lua and release.lua.
const (
	codeOK        = 1
	codeFenced    = -1
	codeCancelled = -2
	codeGone      = -3
	codeGap       = -4
	codeBehind    = -5
)

// maxTries bounds how often one call mends a record that keeps vanishing.
const maxTries = 8

// flush writes what pends; the last frame ends the job if a.final is set.
func (a *Attempt) flush(ctx context.Context) error {
	mended := 0
	for a.Pending() > 0 {
		code, n, err := a.write(ctx)
		if err != nil {
			return fmt.Errorf("append to job %s: %w", a.Job.ID, err)
		}
		switch code {
		case codeOK:
			a.acknowledge(n)
			continue
		case codeFenced:
			return a.refuse(ErrFenced)
		case codeCancelled:
			if a.acknowledge(n); n >= a.base && n < a.Seq {
				a.seek(n) // the receipt says what the log holds
			}
			return a.refuse(ErrCancelled)
		case codeGap:
			if n < a.base || n >= a.Seq {
				return fmt.Errorf("append to job %s: %w: at %d, have %d to %d", a.Job.ID, errProtocol, n, a.base, a.Seq)
			}
			a.seek(n) // Redis lost the tail: write it again
		case codeGone, codeBehind:
			if err := a.seed(ctx); err != nil {
				return err
			}
		default:
			return fmt.Errorf("append to job %s: %w: code %d", a.Job.ID, errProtocol, code)
		}
		if mended++; mended > maxTries {
			return fmt.Errorf("append to job %s: %w", a.Job.ID, ErrGone)
		}
	}
	return nil
}

// write sends the next frames in one script call.
func (a *Attempt) write(ctx context.Context) (code, n int64, err error) {
	i := int(a.Seq - a.base)
	args := make([]any, 7, 7+2*min(len(a.frames)-i, maxBatch))
	model, size := "", 0
	for ; i < len(a.frames) && len(args) < 7+2*maxBatch; i++ {
		raw := a.raw(i)
		if size += len(raw); size > maxBatchBytes && len(args) > 7 {
			break
		}
		general := ""
		if a.s.o.General {
			general = generalChannel(a.frames[i].event)
		}
		if a.frames[i].event == EventStart {
			model = a.model
		}
		args = append(args, general, raw)
	}
	ending := ""
	if i == len(a.frames) {
		ending = string(a.final)
	}
	args[0], args[1], args[2], args[3] = a.Number, a.s.holder, a.Seq+1, a.s.o.TTL.Milliseconds()
	args[4], args[5], args[6] = ending, model, Channel(a.Job.ID)
	return pair(appendScript.Run(ctx, a.s.rdb, []string{metaKey(a.Job.ID), logKey(a.Job.ID)}, args...))
}

// seed writes the record again that Redis has lost.
func (a *Attempt) seed(ctx context.Context) error {
	j := a.Job
	req, err := appendJSON(nil, j)
	if err != nil {
		return fmt.Errorf("seed job %s: %w: %w", j.ID, errEncode, err)
	}
	code, n, err := pair(seedScript.Run(ctx, a.s.rdb, []string{metaKey(j.ID), logKey(j.ID)},
		a.Number, a.s.holder, a.host, a.base, a.s.o.TTL.Milliseconds(), j.User, j.Tenant, req, j.Policy, j.Priority,
		a.Created.UnixMilli(), a.Started.UnixMilli(), a.Crashes, a.model))
	if err != nil {
		return fmt.Errorf("seed job %s: %w", j.ID, err)
	}
	if code == codeFenced {
		return a.refuse(ErrFenced)
	}
	if n < a.base || n > a.base+int64(len(a.frames)) {
		return fmt.Errorf("seed job %s: %w: at %d, have %d to %d", j.ID, errProtocol, n, a.base, a.Seq)
	}
	a.seek(n)
	_, err = a.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		a.s.index(ctx, p, a.ticket(), a.host)
		a.s.open(ctx, p, j.ID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("index job %s again: %w", j.ID, err)
	}
	return nil
}

// seek sets what is acknowledged: Redis may have gone back.
func (a *Attempt) seek(seq int64) {
	a.Seq, a.backlog = seq, 0
	for i := int(seq - a.base); i < len(a.frames); i++ {
		a.backlog += a.frames[i].size()
	}
}

// acknowledge notes that Redis has the frames up to seq and keeps of chunks no more than their place.
func (a *Attempt) acknowledge(seq int64) {
	seq = min(seq, a.base+int64(len(a.frames)))
	for ; a.Seq < seq; a.Seq++ {
		k := &a.frames[a.Seq-a.base]
		a.backlog -= k.size()
		if k.event == EventChunk && !k.earlier {
			k.raw = nil
		}
	}
}

// refuse drops what pends: it was not applied and never will be.
func (a *Attempt) refuse(why error) error {
	n := int(a.Seq - a.base)
	end, index := 0, int64(0)
	a.textFrom = 0
	for _, k := range a.frames[:n] {
		if k.reset {
			a.textFrom = k.to
		}
		if k.event == EventChunk && !k.earlier {
			index = k.index + 1
		}
		end = max(end, k.to)
	}
	a.rewind(mark{frames: n, buf: end, textFrom: min(a.textFrom, end), index: index})
	a.final = ""
	a.ending = why
	if why == ErrFenced {
		a.s.letGo(a.ticket())
	}
	return why
}

// load reads the frames of earlier attempts, which an attempt that continues may have to write again.
func (a *Attempt) load(ctx context.Context) error {
	var frames []Frame
	for after := int64(0); after < a.Seq; {
		page, _, err := a.s.Read(ctx, a.Job.ID, after, 0)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		frames = append(frames, page...)
		after = page[len(page)-1].Seq
	}
	// Without a hole: what Redis lost earlier can't be written again.
	start := len(frames)
	for start > 0 && frames[start-1].Seq == a.Seq-int64(len(frames)-start) {
		start--
	}
	a.base = a.Seq - int64(len(frames)-start)
	for _, f := range frames[start:] {
		k := kept{raw: f.Raw, event: f.Event, from: len(a.buf), to: len(a.buf), earlier: true}
		t, err := parseText(f)
		if err != nil {
			return err
		}
		if k.reset = t.reset; t.reset {
			a.textFrom = len(a.buf)
		}
		a.buf = append(a.buf, t.text...)
		k.to = len(a.buf)
		a.frames = append(a.frames, k)
	}
	return nil
}

// frameText is what a frame does to the answer's text.
type frameText struct {
	reset bool
	text  string
}

func parseText(f Frame) (t frameText, err error) {
	var d struct {
		Chunk string `json:"chunk"`
		Reset bool   `json:"reset"`
	}
	switch f.Event {
	case EventStart, EventChunk:
		if err := json.Unmarshal(f.Data, &d); err != nil {
			return t, fmt.Errorf("read frame %d of job %s: %w", f.Seq, f.Job, err)
		}
	}
	return frameText{reset: f.Event == EventStart && d.Reset, text: d.Chunk}, nil
}

// Text is the answer that frames of a log add up to.
func Text(frames []Frame) (string, error) {
	var b []byte
	for _, f := range frames {
		t, err := parseText(f)
		if err != nil {
			return "", err
		}
		if t.reset {
			b = b[:0]
		}
		b = append(b, t.text...)
	}
	return string(b), nil
}

// pair reads a reply of two integers.
func pair(cmd *redis.Cmd) (a, b int64, err error) {
	r, err := cmd.Int64Slice()
	if err != nil {
		return 0, 0, err
	}
	if len(r) != 2 {
		return 0, 0, fmt.Errorf("%w: %v", errProtocol, r)
	}
	return r[0], r[1], nil
}
