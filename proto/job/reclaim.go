package job

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// judge decides who is dead, from one host's heartbeats. Used by one goroutine.
type judge struct {
	h        *Hosts
	self     string
	calm     time.Time            // before it nobody is judged
	suspects map[string]time.Time // host -> when a scan first found it dead
	found    chan string
}

// disturb: Redis, or the way to it, or this process was away or slow. Others may have been as well: their
// heartbeats prove nothing until they had time to send new ones.
func (j *judge) disturb() {
	j.calm = time.Now().Add(j.h.o.Calm)
	clear(j.suspects)
}

func (j *judge) scan(ctx context.Context, ages map[string]time.Duration) {
	if time.Now().Before(j.calm) {
		return
	}
	o := j.h.o
	var quiet []string
	for host, age := range ages {
		if host != j.self && age > o.Gone {
			quiet = append(quiet, host)
		} else {
			delete(j.suspects, host)
		}
	}
	for host := range j.suspects {
		if _, there := ages[host]; !there {
			delete(j.suspects, host)
		}
	}
	if len(quiet) == 0 {
		return
	}
	at := time.Now()
	present, err := presence(ctx, j.h.s.rdb, quiet)
	if err != nil || time.Since(at) > o.Slow {
		j.disturb()
		return
	}
	for _, host := range quiet {
		if ages[host] <= o.Hung && present[host] {
			delete(j.suspects, host)
			continue
		}
		first, suspected := j.suspects[host]
		switch {
		case !suspected:
			j.suspects[host] = at
		case at.Sub(first) >= o.Beat*3/4:
			select {
			case j.found <- host:
				j.h.log.Warn("host found dead", "host", host, "age", ages[host], "present", present[host])
				delete(j.suspects, host) // reclaimed, or found again by two more scans
			default: // busy with others; found again by the next scan
			}
		}
	}
}

// presence tells which hosts hold their subscription. NUMSUB is local to a node: on Cluster all are asked.
func presence(ctx context.Context, rdb redis.UniversalClient, hosts []string) (map[string]bool, error) {
	channels := make([]string, len(hosts))
	for i, host := range hosts {
		channels[i] = aliveChannel(host)
	}
	var counts []map[string]int64
	if c, ok := rdb.(*redis.ClusterClient); ok {
		answers := make(chan map[string]int64, 256)
		err := c.ForEachShard(ctx, func(ctx context.Context, node *redis.Client) error {
			n, err := node.PubSubNumSub(ctx, channels...).Result()
			if err == nil {
				answers <- n
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("count subscriptions: %w", err)
		}
		close(answers)
		for n := range answers {
			counts = append(counts, n)
		}
	} else {
		n, err := rdb.PubSubNumSub(ctx, channels...).Result()
		if err != nil {
			return nil, fmt.Errorf("count subscriptions: %w", err)
		}
		counts = append(counts, n)
	}
	out := make(map[string]bool, len(hosts))
	for i, host := range hosts {
		for _, n := range counts {
			if n[channels[i]] > 0 {
				out[host] = true
			}
		}
	}
	return out, nil
}

// Reclaim takes the jobs of a dead host from it and fences it. For each job that is to run again it calls
// enqueue with the next ticket and the job's priority; cancelled jobs get their receipt, jobs with PolicyFail or
// too many crashes their model:error (code host_lost), from what the log holds. Attempts that this Store holds
// are left alone, so a host may reclaim what it doesn't hold any more, or an earlier incarnation left. Any number of hosts may
// reclaim the same one at once. It stops at the first error and may be called again.
func (h *Hosts) Reclaim(ctx context.Context, host string, enqueue func(ctx context.Context, t Ticket, priority string) error) error {
	s := h.s
	ids, err := s.rdb.SMembers(ctx, hostJobsKey(host)).Result()
	if err != nil {
		return fmt.Errorf("reclaim host %s: %w", host, err)
	}
	kept := 0
	for _, id := range ids {
		own, err := h.reclaim(ctx, host, id, enqueue)
		if err != nil {
			return fmt.Errorf("reclaim %s from host %s: %w", id, host, err)
		}
		if own {
			kept++
			continue
		}
		if err := s.rdb.SRem(ctx, hostJobsKey(host), id).Err(); err != nil {
			return fmt.Errorf("reclaim %s from host %s: %w", id, host, err)
		}
	}
	if kept > 0 {
		return nil
	}
	err = withdrawScript.Run(ctx, s.rdb, []string{hostsBeatKey, hostsInfoKey}, host, h.o.Gone.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("forget host %s: %w", host, err)
	}
	return nil
}

func (h *Hosts) reclaim(ctx context.Context, host, id string, enqueue func(ctx context.Context, t Ticket, priority string) error) (own bool, err error) {
	s := h.s
	t, err := ParseTicket(id)
	if err != nil {
		h.log.Error("odd entry in a host's index dropped", "host", host, "error", err)
		return false, nil
	}
	if s.holds(t) {
		return true, nil
	}
	r, err := reclaimScript.Run(ctx, s.rdb, []string{metaKey(t.Job)}, host, t.Attempt, s.o.TTL.Milliseconds()).StringSlice()
	if err != nil {
		return false, err
	}
	if len(r) == 1 {
		return false, nil // stale or gone
	}
	if len(r) != 6 || r[0] != "ok" {
		return false, fmt.Errorf("%w: %v", errProtocol, r)
	}
	policy, priority, crashes, lost, cancelled := r[1], r[2], integer(r[3]), r[4] != "", r[5] != ""
	switch {
	case cancelled:
		err = s.endCancelled(ctx, t.Job)
	case lost && policy == PolicyFail:
		err = s.endLost(ctx, t.Job, "the host that ran the job was lost")
	case lost && crashes >= s.o.MaxCrashes:
		err = s.endLost(ctx, t.Job, fmt.Sprintf("%d hosts were lost while they ran the job", crashes))
	default:
		err = enqueue(ctx, Ticket{Job: t.Job, Attempt: t.Attempt + 1}, priority)
	}
	return false, err
}

// CodeHostLost is the code of the model:error of a job whose host was lost and that isn't run again.
const CodeHostLost = "host_lost"

func (s *Store) endLost(ctx context.Context, id, why string) error {
	return s.endIdle(ctx, id, StateFailed, func(string) Event {
		return &Error{Code: CodeHostLost, Message: why, Retryable: true, Fault: "host"}
	})
}
