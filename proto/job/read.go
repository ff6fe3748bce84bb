package job

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const pageSize = 1000

// Read returns up to max frames after a seq, and the record; ErrNotFound if there is none. The status is read
// first: if it is terminal and the frames reach its Seq, that was all. max <= 0 means 1000.
func (s *Store) Read(ctx context.Context, id string, after int64, max int) ([]Frame, Status, error) {
	if err := CheckID(id); err != nil {
		return nil, Status{}, err
	}
	if max <= 0 {
		max = pageSize
	}
	if after < 0 {
		after = 0
	}
	var meta *redis.SliceCmd
	var log *redis.XMessageSliceCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		meta = p.HMGet(ctx, metaKey(id), statusFields...)
		log = p.XRangeN(ctx, logKey(id), strconv.FormatInt(after+1, 10), "+", int64(max))
		return nil
	})
	if err != nil {
		return nil, Status{}, fmt.Errorf("read log of job %s: %w", id, err)
	}
	st, err := parseStatus(id, meta.Val())
	if err != nil {
		return nil, Status{}, err
	}
	frames := make([]Frame, 0, len(log.Val()))
	for _, m := range log.Val() {
		f, err := ParseFrame([]byte(text(m.Values["f"])))
		if err != nil {
			return nil, Status{}, fmt.Errorf("read log of job %s at %s: %w: %w", id, m.ID, errProtocol, err)
		}
		frames = append(frames, f)
	}
	return frames, st, nil
}

// Follow yields the frames of a job after a seq, first from the log, then as they are appended, without gap or
// repetition, and ends after the terminal frame. It waits out an absence of Redis; it ends with an error when
// ctx does, with ErrNotFound if there is no such job and with ErrGone if Redis has lost it.
// It holds one pub/sub connection; a gateway uses a Tail.
func (s *Store) Follow(ctx context.Context, id string, after int64) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		if err := CheckID(id); err != nil {
			yield(Frame{}, err)
			return
		}
		ctx, stop := context.WithCancel(ctx)
		wake := make(chan struct{}, 1)
		listening := make(chan struct{})
		go func() {
			defer close(listening)
			l := newListener(s.rdb, Channel(id))
			l.run(ctx, func(any) { // a message, or a (re)subscription: look at the log
				select {
				case wake <- struct{}{}:
				default:
				}
			})
		}()
		defer func() { stop(); <-listening }()

		known := false
		for {
			frames, st, err := s.Read(ctx, id, after, 0)
			switch {
			case err == nil:
				known = true
			case ctx.Err() != nil:
				yield(Frame{}, context.Cause(ctx))
				return
			case errors.Is(err, ErrNotFound) && known:
				yield(Frame{}, ErrGone)
				return
			case !Retryable(err):
				yield(Frame{}, err)
				return
			}
			for _, f := range frames {
				if !yield(f, nil) {
					return
				}
				after = f.Seq
			}
			if err == nil && st.State.Terminal() && after >= st.Seq {
				return
			}
			if len(frames) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				yield(Frame{}, context.Cause(ctx))
				return
			case <-wake:
			case <-time.After(defaultQuiet): // the publication may have been lost
			}
		}
	}
}
