package job

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// An idle host should cost Redis little, so a heartbeat is one command, ZADD, and what else goes with it goes only
// when there is a reason: the expiry is renewed, and the clock read, now and then.
const (
	clockEvery  = 10 * time.Second // clocks drift by less than a millisecond in it
	expiryEvery = time.Minute
	hostsExpire = time.Hour
	auditEvery  = 10 // heartbeats from one look at the host's own index to the next
)

// heart is one Announce: it beats, and has its judge look at the others. Used by one goroutine, but for presence.
type heart struct {
	h     *Hosts
	self  string
	judge *judge // nil: it looks at nobody

	held    *listener   // its subscription
	present atomic.Bool // that is confirmed

	clock  clock
	renew  time.Time // when to renew the expiry
	score  int64     // of the last heartbeat
	audit  time.Time // when to look at its own index
	astray int       // audits in a row that found attempts in the index which nobody holds

	failing bool // the last heartbeat did not reach Redis
}

// presence follows the host's subscription. Without it a host beats at once, and faster: who misses the subscription
// takes it for dead unless it hears a heartbeat very soon. Whether Redis still has it comes with the looks at others;
// who has no others needs none.
func (b *heart) presence(v any) {
	switch v.(type) {
	case *redis.Subscription:
		b.present.Store(true)
	case disconnected:
		b.present.Store(false)
		b.h.nudge()
	}
}

func (b *heart) run(ctx context.Context) {
	b.audit = time.Now().Add(auditEvery * b.h.o.Beat)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.h.poke:
		}
		at := time.Now()
		if b.judge != nil && !at.Before(b.audit) {
			b.lookAtIndex(ctx)
			b.audit = at.Add(auditEvery * b.h.o.Beat)
		}
		err := b.beat(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !b.failing {
				b.h.log.Warn("heartbeat did not reach Redis, trying again until one does", "error", err)
			}
			b.failing = true
			b.clock = clock{} // it may be another Redis that comes back
			if b.judge != nil {
				b.judge.disturb(b.h.o.Calm)
			}
		case b.failing:
			b.h.log.Info("heartbeats reach Redis again")
			b.failing = false
		}
		timer.Reset(b.pause())
	}
}

// pause is how long to wait for the next heartbeat.
func (b *heart) pause() time.Duration {
	d := b.h.o.Beat
	if !b.present.Load() {
		d /= 5
	}
	if b.failing {
		return d // the judge is in a hurry, but a Redis that is away refuses at once
	}
	if b.judge != nil {
		d = min(d, b.judge.pause(time.Now()))
	}
	return max(d, time.Millisecond)
}

// beat sends one heartbeat, and with it what the judge wants to know.
func (b *heart) beat(ctx context.Context) error {
	h := b.h
	at := time.Now()
	if err := b.clock.read(ctx, h.s.rdb, h.o.Slow); err != nil {
		return err
	}
	h.mu.Lock()
	info, changed, last := h.info, h.changed, h.last
	h.mu.Unlock()
	body, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode host info: %w", err)
	}
	var ask question
	if b.judge != nil {
		ask = b.judge.ask(at)
	}
	score := b.clock.now()
	if score == b.score {
		score++ // each heartbeat is to be told from the one before
	}
	renew := changed || !at.Before(b.renew)
	var added *redis.IntCmd
	var table *redis.ZSliceCmd
	var present *redis.MapStringIntCmd
	_, err = h.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		added = p.ZAdd(ctx, hostsBeatKey, redis.Z{Score: float64(score), Member: b.self})
		if renew {
			p.HSet(ctx, hostsInfoKey, b.self, body)
			p.PExpire(ctx, hostsBeatKey, hostsExpire)
			p.PExpire(ctx, hostsInfoKey, hostsExpire)
		}
		if ask.table {
			table = p.ZRangeWithScores(ctx, hostsBeatKey, 0, -1)
		}
		if _, cluster := h.s.rdb.(*redis.ClusterClient); !cluster && len(ask.channels) > 0 {
			present = p.PubSubNumSub(ctx, ask.channels...)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("send heartbeat: %w", err)
	}
	took := time.Since(at)
	b.score = score
	if renew {
		b.renew = at.Add(expiryEvery)
	}
	h.mu.Lock()
	h.last = at
	switch {
	case !renew && added.Val() == 1: // Redis had lost us, and our info too
		h.changed = true
		defer h.nudge()
	case changed && slices.Equal(h.info.Models, info.Models):
		h.changed = false
	}
	h.mu.Unlock()
	if b.judge == nil {
		return nil
	}
	late := at.Sub(last)
	if last.IsZero() || late < 3*h.o.Beat {
		late = 0
	}
	if d := max(took, late); took > h.o.Slow || late > 0 {
		// Others were slow then, too, or this process was. Whatever waited has gone through by now.
		b.judge.disturb(min(h.o.Calm, 2*h.o.Beat+d))
		return nil
	}
	seen := answer{at: at, took: took, now: score}
	if table != nil {
		seen.table = make(map[string]int64, len(table.Val()))
		for _, z := range table.Val() {
			seen.table[text(z.Member)] = int64(z.Score)
		}
	}
	if present != nil {
		seen.present = present.Val()
	} else if len(ask.channels) > 0 {
		seen.present = b.judge.askCluster(ctx, ask.channels)
	}
	if n, asked := seen.present[aliveChannel(b.self)]; asked && n == 0 && b.present.Load() {
		b.held.renew() // it broke, and we were not told
		b.presence(disconnected{})
	}
	b.judge.weigh(seen)
	return nil
}

// lookAtIndex reports the host to itself when its index names attempts, twice in a row, that it doesn't hold.
func (b *heart) lookAtIndex(ctx context.Context) {
	n, err := b.h.s.unheld(ctx, b.self)
	if err != nil || n == 0 {
		b.astray = 0
		return
	}
	if b.astray++; b.astray < 2 {
		return
	}
	b.astray = 0
	select {
	case b.judge.found <- b.self:
	default:
	}
}

// clock is Redis's, by our own from when we read it last.
type clock struct {
	base  time.Time // zero: it wasn't read
	redis int64     // ms, at base
	again time.Time
}

func (c *clock) now() int64 { return c.redis + time.Since(c.base).Milliseconds() }

// read reads Redis's clock if it is time to. A slow reply says little about it: the reading before that stands.
func (c *clock) read(ctx context.Context, rdb redis.UniversalClient, slow time.Duration) error {
	at := time.Now()
	if at.Before(c.again) {
		return nil
	}
	ms, err := clockScript.Run(ctx, rdb, []string{hostsBeatKey}).Int64()
	if err != nil {
		return fmt.Errorf("read Redis's clock: %w", err)
	}
	took := time.Since(at)
	if c.base.IsZero() || took < slow {
		c.base, c.redis = at.Add(took/2), ms
	}
	c.again = at.Add(clockEvery)
	return nil
}
