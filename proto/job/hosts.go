package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// HostInfo is what a host announces.
type HostInfo struct {
	ID      string      `json:"id"` // may not be empty
	Version string      `json:"version,omitempty"`
	Started time.Time   `json:"started"`
	Models  []ModelInfo `json:"models"`
}

// ModelInfo is a model that some host serves.
type ModelInfo struct {
	Name          string `json:"name"` // or a glob
	Provider      string `json:"provider"`
	Runtime       string `json:"runtime,omitempty"` // native, wasm, embedded
	Tools         bool   `json:"tools,omitempty"`
	Vision        bool   `json:"vision,omitempty"`
	JSON          bool   `json:"json,omitempty"`
	Reasoning     bool   `json:"reasoning,omitempty"`
	Continue      bool   `json:"continue,omitempty"`
	ContextTokens int    `json:"contextTokens,omitempty"`
	OutputTokens  int    `json:"outputTokens,omitempty"`
}

// HostsOptions of Hosts; the zero value is usable.
type HostsOptions struct {
	Beat time.Duration // heartbeat, and look at the others' presence, this often; 0 = 600 ms
	Gone time.Duration // dead: seen without presence, and without a heartbeat for so long from then on; 0 = 350 ms
	Hung time.Duration // dead: without a heartbeat for so long, and for more than a Beat from when that was seen; 0 = 2 s
	Slow time.Duration // a heartbeat that takes longer has no look at the others; 0 = 500 ms
	Calm time.Duration // after a heartbeat of its own has failed a host judges nobody for so long; 0 = 3 s
}

// listedFor is how old a heartbeat may be for a host to be listed: longer than an outage of Redis that hosts
// outlive, so that models don't vanish from the picker when it is over.
const listedFor = 10 * time.Second

// Hosts knows which hosts are alive and what they serve. Safe for concurrent use; one Announce at a time.
type Hosts struct {
	s   *Store
	log *slog.Logger
	o   HostsOptions

	mu      sync.Mutex
	info    HostInfo
	changed bool
	last    time.Time
	poke    chan struct{}
}

// NewHosts returns Hosts on a Store: the one that begins this host's attempts.
func NewHosts(s *Store, log *slog.Logger, o HostsOptions) *Hosts {
	for _, d := range []struct {
		p   *time.Duration
		def time.Duration
	}{
		{&o.Beat, 600 * time.Millisecond}, {&o.Gone, 350 * time.Millisecond}, {&o.Hung, 2 * time.Second},
		{&o.Slow, 500 * time.Millisecond}, {&o.Calm, 3 * time.Second},
	} {
		if *d.p <= 0 {
			*d.p = d.def
		}
	}
	return &Hosts{s: s, log: log, o: o, poke: make(chan struct{}, 1)}
}

// Announce keeps a host alive until ctx ends, then withdraws it: heartbeat by Redis time, presence by a held
// subscription. Between heartbeats it looks at the others; one that two looks agree is dead is given to dead (nil:
// look at nobody), one at a time, from a goroutine of Announce. dead calls Reclaim. It is also called with the
// host's own id: at the start, for what an earlier incarnation left, and whenever the host's index names attempts
// that the Store doesn't hold (a Begin whose outcome was never learnt). A host that withdraws while it still runs
// jobs is left to be found dead. Blocks; returns ctx's error.
func (h *Hosts) Announce(ctx context.Context, info HostInfo, dead func(ctx context.Context, host string)) error {
	if info.ID == "" {
		return errors.New("announce host: no id")
	}
	h.mu.Lock()
	if len(h.info.Models) > 0 { // Update came first
		info.Models = h.info.Models
	}
	h.info, h.changed = info, true
	h.mu.Unlock()

	var wg sync.WaitGroup
	b := &heart{h: h, self: info.ID, held: newListener(h.s.rdb, aliveChannel(info.ID))}
	b.held.silent = true
	wg.Go(func() { b.held.run(ctx, b.presence) })
	if dead != nil {
		b.judge = newJudge(h, info.ID)
		b.judge.found <- info.ID
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case host := <-b.judge.found:
					dead(ctx, host)
				}
			}
		})
	}
	b.run(ctx)
	wg.Wait()
	h.withdraw(context.WithoutCancel(ctx), info.ID)
	return ctx.Err()
}

func (h *Hosts) withdraw(ctx context.Context, host string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n, err := h.s.rdb.SCard(ctx, hostJobsKey(host)).Result()
	if err == nil && n == 0 {
		err = withdrawScript.Run(ctx, h.s.rdb, []string{hostsBeatKey, hostsInfoKey}, host, -1).Err()
	}
	if err != nil {
		h.log.Warn("host could not be withdrawn; others will find it dead", "error", err)
	} else if n > 0 {
		h.log.Warn("host ends with jobs it has not given back; others will find it dead", "jobs", n)
	}
}

// Update replaces what the announced host serves; before Announce it takes precedence over its argument.
func (h *Hosts) Update(models []ModelInfo) {
	h.mu.Lock()
	h.info.Models, h.changed = slices.Clone(models), true
	h.mu.Unlock()
	h.nudge()
}

// nudge has the next heartbeat sent at once.
func (h *Hosts) nudge() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// LastBeat is when the last heartbeat that Redis acknowledged was sent; zero before the first.
func (h *Hosts) LastBeat() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// List returns the hosts alive, by id.
func (h *Hosts) List(ctx context.Context) ([]HostInfo, error) {
	var now *redis.TimeCmd
	var beats *redis.ZSliceCmd
	var infos *redis.MapStringStringCmd
	_, err := h.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		now = p.Time(ctx)
		beats = p.ZRangeWithScores(ctx, hostsBeatKey, 0, -1)
		infos = p.HGetAll(ctx, hostsInfoKey)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", err)
	}
	var out []HostInfo
	for _, z := range beats.Val() {
		id := text(z.Member)
		if now.Val().Sub(time.UnixMilli(int64(z.Score))) > listedFor {
			continue
		}
		info := HostInfo{}
		if err := json.Unmarshal([]byte(infos.Val()[id]), &info); err != nil {
			continue // announced, but its info is not there yet
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b HostInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Models returns what the hosts alive serve, by name, one entry per name and provider.
func (h *Hosts) Models(ctx context.Context) ([]ModelInfo, error) {
	hosts, err := h.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []ModelInfo
	for _, info := range hosts {
		out = append(out, info.Models...)
	}
	key := func(a, b ModelInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Provider, b.Provider))
	}
	slices.SortStableFunc(out, key)
	return slices.CompactFunc(out, func(a, b ModelInfo) bool { return key(a, b) == 0 }), nil
}
