package job

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// judge decides who is dead, by two signs.
//
// Presence: the kernel closes a host's subscription when its process dies. That is looked at with every heartbeat, and
// is one command for all hosts. It isn't proof: connections break, and a host that has lost its subscription beats at
// once and goes on faster. Who is absent and doesn't beat any more is dead.
//
// Heartbeat: a host that hangs keeps its subscription. The table of heartbeats is looked at when the oldest of them
// could be too old, or somebody is absent. What a heartbeat says of the time it was sent at only raises the suspicion: it needs
// a second look at which the host's heartbeat is still the same, so that no clock decides.
//
// Used by one goroutine.
type judge struct {
	h     *Hosts
	self  string
	found chan string // bounded: who doesn't fit is found again

	calm  time.Time // before it nobody is judged
	table time.Time // when to look at the table of heartbeats
	blind time.Time // before it presence isn't asked for: a node of the Cluster doesn't answer
	peers map[string]*peer
}

// peer is another host, as the last looks saw it.
type peer struct {
	beat    int64         // its last heartbeat
	suspect time.Time     // since when it looks dead; zero: it doesn't
	took    time.Duration // how long that look took
	due     time.Time     // when to look whether it still does
}

func newJudge(h *Hosts, self string) *judge {
	return &judge{
		h: h, self: self, found: make(chan string, 16), calm: time.Now().Add(h.o.Calm), peers: map[string]*peer{},
	}
}

// disturb: Redis, or the way to it, or this process was away or slow. Others may have been as well: what was seen until
// now proves nothing, and they have so long to be heard of again.
func (j *judge) disturb(calm time.Duration) {
	if at := time.Now().Add(calm); at.After(j.calm) {
		j.calm = at
	}
	for _, p := range j.peers {
		p.suspect = time.Time{}
	}
}

// question is what a look asks for.
type question struct {
	table    bool
	channels []string // whose subscribers to count
}

// answer is what a look saw.
type answer struct {
	at      time.Time
	took    time.Duration
	now     int64            // Redis's clock, ms
	table   map[string]int64 // nil: it wasn't asked for
	present map[string]int64 // subscribers by channel; nil: that isn't known
}

// ask is what the look at this moment should ask for.
func (j *judge) ask(at time.Time) question {
	q := question{table: at.Add(j.h.o.Beat).After(j.table)} // the next heartbeat would be too late
	for host, p := range j.peers {
		q.table = q.table || !p.suspect.IsZero() && !at.Before(p.due)
		if !at.Before(j.blind) {
			q.channels = append(q.channels, aliveChannel(host))
		}
	}
	if len(q.channels) > 0 {
		q.channels = append(q.channels, aliveChannel(j.self))
	}
	return q
}

// pause is how long nothing needs to be looked at.
func (j *judge) pause(now time.Time) time.Duration {
	next := j.table
	for _, p := range j.peers {
		if !p.suspect.IsZero() && p.due.Before(next) {
			next = p.due
		}
	}
	return next.Sub(now)
}

// weigh draws the conclusions of a look.
func (j *judge) weigh(a answer) {
	absent := func(host string) bool {
		n, asked := a.present[aliveChannel(host)]
		return asked && n == 0
	}
	if a.table == nil {
		for host, p := range j.peers {
			if p.suspect.IsZero() && absent(host) {
				j.table = a.at // see at once when it was heard last
			}
		}
		return
	}
	o := j.h.o
	for host := range j.peers {
		if _, there := a.table[host]; !there {
			delete(j.peers, host)
		}
	}
	oldest := time.Duration(0)
	for host, beat := range a.table {
		if host == j.self {
			continue
		}
		p := j.peers[host]
		if p == nil {
			p = &peer{}
			j.peers[host] = p
		}
		if p.beat != beat {
			p.beat, p.suspect = beat, time.Time{}
		}
		age := time.Duration(a.now-beat) * time.Millisecond
		var silence time.Duration // to be seen
		switch {
		case absent(host):
			silence = o.Gone
		case age >= o.Hung:
			silence = o.Beat * 11 / 10
		default:
			p.suspect = time.Time{}
			oldest = max(oldest, age)
			continue
		}
		if p.suspect.IsZero() {
			p.suspect, p.took = a.at, a.took
		}
		// A slow Redis delays the heartbeats of others as well.
		p.due = p.suspect.Add(silence + 2*max(a.took, p.took))
		if p.due.Before(j.calm) {
			p.due = j.calm
		}
		if a.at.Before(p.due) {
			continue
		}
		seen := a.at.Sub(p.suspect)
		p.suspect = time.Time{} // reclaimed, or to be found again
		select {
		case j.found <- host:
			j.h.log.Warn("host found dead", "dead", host, "age", age, "seen", seen, "present", !absent(host))
		default:
		}
	}
	j.table = a.at.Add(min(max(o.Hung-oldest, o.Beat/5), 3*o.Beat))
}

// askCluster counts the subscribers on all nodes of a Cluster: each knows its own. nil if a node doesn't answer; a host
// whose subscription may be there isn't absent.
func (j *judge) askCluster(ctx context.Context, channels []string) map[string]int64 {
	ctx, cancel := context.WithTimeout(ctx, j.h.o.Slow)
	defer cancel()
	sum, err := presence(ctx, j.h.s.rdb.(*redis.ClusterClient), channels)
	if err != nil {
		j.blind = time.Now().Add(10 * j.h.o.Beat)
		return nil
	}
	return sum
}

func presence(ctx context.Context, c *redis.ClusterClient, channels []string) (map[string]int64, error) {
	var mu sync.Mutex
	sum := make(map[string]int64, len(channels))
	err := c.ForEachShard(ctx, func(ctx context.Context, node *redis.Client) error {
		n, err := node.PubSubNumSub(ctx, channels...).Result()
		mu.Lock()
		defer mu.Unlock()
		for channel, count := range n {
			sum[channel] += count
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count subscriptions: %w", err)
	}
	return sum, nil
}
