package job

import (
	"log/slog"
	"testing"
	"time"
)

// trial runs a judge over a made-up course of time. other tells, at a time after the start, when the other host sent
// its last heartbeat, by what clock error, and whether it is present; took is how long a look takes.
type trial struct {
	other   func(at time.Duration) (beat, skew time.Duration, present bool)
	took    func(at time.Duration) time.Duration
	unknown bool // presence can't be asked for
	disturb time.Duration
}

// run returns when the other host was found dead, zero if never, and how many looks there were at the table.
func (x trial) run(until time.Duration) (found time.Duration, tables int) {
	h := NewHosts(NewStore(nil, Options{}), slog.New(slog.DiscardHandler), HostsOptions{})
	j := newJudge(h, "me")
	begin := j.calm // the first calm is over
	shaken := x.disturb == 0
	for at := time.Duration(0); at < until; {
		q := j.ask(begin.Add(at))
		a := answer{at: begin.Add(at), now: begin.Add(at).UnixMilli()}
		if x.took != nil {
			a.took = x.took(at)
		}
		beat, skew, present := x.other(at)
		if q.table {
			tables++
			a.table = map[string]int64{"other": begin.Add(beat + skew).UnixMilli(), "me": a.now}
		}
		if len(q.channels) > 0 && !x.unknown {
			a.present = map[string]int64{aliveChannel("other"): 0}
			if present {
				a.present[aliveChannel("other")] = 1
			}
		}
		if !shaken && at >= x.disturb {
			shaken = true
			for _, p := range j.peers {
				p.suspect = time.Time{}
			}
			j.calm = begin.Add(at + h.o.Calm)
		} else {
			j.weigh(a)
		}
		select {
		case <-j.found:
			return at, tables
		default:
		}
		at += max(time.Millisecond, min(h.o.Beat, j.pause(begin.Add(at))))
	}
	return 0, tables
}

// every is a host that beats with a period until it ends.
func every(period, end time.Duration) func(at time.Duration) time.Duration {
	return func(at time.Duration) time.Duration { return min(at, end).Truncate(period) }
}

func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	const life = 20 * time.Second
	const forever = time.Hour
	beats := every(600*ms, forever)
	dies := every(600*ms, 5*time.Second)
	for name, c := range map[string]struct {
		trial
		after, before time.Duration // found; zero: never
	}{
		"lives": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) { return beats(at), 0, true }}},
		"is killed": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return dies(at), 0, at < 5*time.Second
		}}, after: 5350 * ms, before: 6000 * ms},
		"is killed, and Redis is slow": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return dies(at), 0, at < 5*time.Second
		}, took: func(time.Duration) time.Duration { return 300 * ms }}, after: 5950 * ms, before: 6600 * ms},
		"is killed as Redis comes back": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return dies(at), 0, at < 5*time.Second
		}, disturb: 5 * time.Second}, after: 8000 * ms, before: 8600 * ms},
		"hangs": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return dies(at), 0, true
		}}, after: 7400 * ms, before: 7700 * ms},
		"hangs, presence is not known": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return dies(at), 0, true
		}, unknown: true}, after: 7400 * ms, before: 7700 * ms},
		"pauses for 2 s": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			if at > 5*time.Second && at < 7*time.Second {
				return 5 * time.Second, 0, true
			}
			return beats(at), 0, true
		}}},
		"absent, and beats": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return at.Truncate(120 * ms), 0, false
		}}},
		"absent for a moment": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return beats(at), 0, at < 5*time.Second || at > 5200*ms
		}}},
		"clock is a minute behind": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return beats(at), -time.Minute, true
		}}},
		"clock jumps ahead": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			if at < 5*time.Second {
				return beats(at), 0, true
			}
			return beats(at), time.Minute, true
		}}},
		"clock is a minute ahead, is killed": {trial: trial{other: func(at time.Duration) (time.Duration, time.Duration, bool) {
			return dies(at), time.Minute, at < 5*time.Second
		}}, after: 5350 * ms, before: 6000 * ms},
	} {
		found, tables := c.run(life)
		t.Logf("%s: found after %v, %d looks at the table", name, found, tables)
		if found < c.after || found > c.before {
			t.Errorf("%s: found after %v, not between %v and %v", name, found, c.after, c.before)
		}
		if name == "lives" && tables > int(life/time.Second) {
			t.Errorf("%d looks at the heartbeats of a host that lives", tables)
		}
	}
}

// A Redis that refuses at once is not asked a thousand times a second, however
// urgently the judge wants to look.
func TestHeartbeatsWaitForRedis(t *testing.T) {
	h := NewHosts(NewStore(nil, Options{}), slog.New(slog.DiscardHandler), HostsOptions{})
	b := &heart{h: h, self: "me", judge: newJudge(h, "me")}
	b.judge.table = time.Now().Add(-time.Second) // a look is due
	if got := b.pause(); got != time.Millisecond {
		t.Errorf("a look that is due waits for %v", got)
	}
	b.failing = true
	if got := b.pause(); got < h.o.Beat/5 {
		t.Errorf("with Redis away the next try is after %v", got)
	}
}
