package job

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// How a listener treats its connection.
const (
	pingEvery    = 3 * time.Second
	deadAfter    = 8 * time.Second // without a word from Redis, pongs included
	minReconnect = 10 * time.Millisecond
	maxReconnect = time.Second
	subscribeMax = 512 // channels in one SUBSCRIBE
)

// disconnected is told to a listener's receiver when its subscriptions have ended with their connection.
type disconnected struct{ err error }

// listener holds one pub/sub connection and its subscriptions through any absence of Redis. It doesn't hide a
// reconnection: each subscription is confirmed to the receiver each time, because what was published meanwhile
// is lost.
type listener struct {
	rdb    redis.UniversalClient
	silent bool          // it doesn't ask whether Redis is there: somebody else finds out, and calls renew
	again  chan struct{} // capacity 1: renew was called

	mu    sync.Mutex
	want  map[string]struct{}
	dirty map[string]struct{} // channels to look at again
	poke  chan struct{}
}

func newListener(rdb redis.UniversalClient, channels ...string) *listener {
	l := &listener{rdb: rdb, want: make(map[string]struct{}), dirty: make(map[string]struct{}), poke: make(chan struct{}, 1), again: make(chan struct{}, 1)}
	l.add(channels...)
	return l
}

func (l *listener) add(channels ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range channels {
		l.want[c] = struct{}{}
		l.dirty[c] = struct{}{}
	}
	l.nudge()
}

func (l *listener) remove(channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.want, channel)
	l.dirty[channel] = struct{}{}
	l.nudge()
}

// renew has it connect anew.
func (l *listener) renew() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

func (l *listener) nudge() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// run calls f, from one goroutine, with *redis.Message, *redis.Subscription and disconnected values until ctx ends.
func (l *listener) run(ctx context.Context, f func(any)) { l.listen(ctx, boxed(f)) }

// boxed is a receiver of values.
type boxed func(any)

func (f boxed) message(channel, payload []byte) {
	f(&redis.Message{Channel: string(channel), Payload: string(payload)})
}

func (f boxed) confirmed(channel string, on bool) {
	kind := "unsubscribe"
	if on {
		kind = "subscribe"
	}
	f(&redis.Subscription{Kind: kind, Channel: channel})
}

func (f boxed) disconnected(err error) { f(disconnected{err}) }

// listen tells to what comes until ctx ends.
func (l *listener) listen(ctx context.Context, to receiver) {
	delay := minReconnect
	for ctx.Err() == nil {
		heard, err := l.session(ctx, to)
		if ctx.Err() != nil {
			return
		}
		to.disconnected(err)
		if heard {
			delay = minReconnect
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, maxReconnect)
	}
}

// some is one of the wanted channels, "" if there is none.
func (l *listener) some() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.want {
		return c
	}
	return ""
}

// session is the life of one connection.
func (l *listener) session(ctx context.Context, to receiver) (heard bool, err error) {
	sub, err := subscribe(ctx, l.rdb, l.some())
	if err != nil {
		return false, err
	}
	var last atomic.Int64
	begun := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer sub.Close() // ends receive
		l.control(ctx, sub, func() time.Duration { return time.Since(begun) - time.Duration(last.Load()) })
	})
	defer func() { cancel(); wg.Wait() }()
	err = sub.receive(ctx, to, func() {
		heard = true
		last.Store(int64(time.Since(begun)))
	})
	return heard, err
}

// control subscribes to what is wanted and pings; it returns when ctx ends or the connection is no good.
func (l *listener) control(ctx context.Context, ps subscription, silence func() time.Duration) {
	have := make(map[string]struct{})
	l.mu.Lock()
	clear(l.dirty)
	for c := range l.want {
		l.dirty[c] = struct{}{}
	}
	l.mu.Unlock()
	select { // it was about another connection
	case <-l.again:
	default:
	}
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	if l.silent {
		tick.Stop()
	}
	for {
		if err := l.settle(ctx, ps, have); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-l.again:
			return
		case <-l.poke:
		case <-tick.C:
			if silence() > deadAfter {
				return
			}
			if err := ps.Ping(ctx); err != nil {
				return
			}
		}
	}
}

func (l *listener) settle(ctx context.Context, ps subscription, have map[string]struct{}) error {
	var on, off []string
	l.mu.Lock()
	for c := range l.dirty {
		_, want := l.want[c]
		_, has := have[c]
		switch {
		case want && !has:
			on = append(on, c)
			have[c] = struct{}{}
		case !want && has:
			off = append(off, c)
			delete(have, c)
		}
	}
	clear(l.dirty)
	l.mu.Unlock()
	for _, step := range []struct {
		channels []string
		call     func(context.Context, ...string) error
	}{{off, ps.Unsubscribe}, {on, ps.Subscribe}} {
		for rest := step.channels; len(rest) > 0; {
			n := min(len(rest), subscribeMax)
			if err := step.call(ctx, rest[:n]...); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}
