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
	Beat time.Duration // heartbeat and scan period; 0 = 250 ms
	Gone time.Duration // dead without presence and without a heartbeat for so long; 0 = 400 ms
	Hung time.Duration // dead without a heartbeat for so long, whatever its presence; 0 = 2 s
	Slow time.Duration // a scan that takes longer judges nobody; 0 = 200 ms
	Calm time.Duration // after a failed, slow or late heartbeat of its own a host judges nobody for so long; 0 = 3 s
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
		{&o.Beat, 250 * time.Millisecond}, {&o.Gone, 400 * time.Millisecond}, {&o.Hung, 2 * time.Second},
		{&o.Slow, 200 * time.Millisecond}, {&o.Calm, 3 * time.Second},
	} {
		if *d.p <= 0 {
			*d.p = d.def
		}
	}
	return &Hosts{s: s, log: log, o: o, poke: make(chan struct{}, 1)}
}

// Announce keeps a host alive until ctx ends, then withdraws it: heartbeat by Redis time, presence by a held
// subscription. With each heartbeat it scans the others; one that two scans agree is dead is given to dead (nil:
// scan nobody), one at a time, from a goroutine of Announce. dead calls Reclaim. It is also called with the
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
	wg.Go(func() { newListener(h.s.rdb, aliveChannel(info.ID)).run(ctx, func(any) {}) })
	j := &judge{h: h, self: info.ID, calm: time.Now().Add(h.o.Calm), suspects: make(map[string]time.Time), found: make(chan string, 16)}
	if dead != nil {
		j.found <- info.ID
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case host := <-j.found:
					dead(ctx, host)
				}
			}
		})
	}
	h.beats(ctx, j, dead != nil)
	wg.Wait()
	h.withdraw(context.WithoutCancel(ctx), info.ID)
	return ctx.Err()
}

func (h *Hosts) beats(ctx context.Context, j *judge, scan bool) {
	tick := time.NewTicker(h.o.Beat)
	defer tick.Stop()
	astray := 0 // audits in a row that found attempts in the index which nobody holds
	for n := 1; ctx.Err() == nil; n++ {
		if scan && n%auditEvery == 0 {
			astray = h.audit(ctx, j, astray)
		}
		at := time.Now()
		table, err := h.beat(ctx, j.self)
		switch took := time.Since(at); {
		case ctx.Err() != nil:
			return
		case err != nil:
			h.log.Warn("heartbeat did not reach Redis", "host", j.self, "error", err)
			j.disturb()
		default:
			late := !h.LastBeat().IsZero() && at.Sub(h.LastBeat()) > 3*h.o.Beat
			h.mu.Lock()
			h.last = at
			h.mu.Unlock()
			if took > h.o.Slow || late {
				j.disturb()
			} else if scan {
				j.scan(ctx, table)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-h.poke:
		}
	}
}

// auditEvery is the number of heartbeats from one look at the host's own index to the next.
const auditEvery = 20

// audit reports the host to itself when its index names attempts, twice in a row, that it doesn't hold.
func (h *Hosts) audit(ctx context.Context, j *judge, before int) (astray int) {
	n, err := h.s.unheld(ctx, j.self)
	if err != nil || n == 0 {
		return 0
	}
	if before == 0 {
		return 1
	}
	select {
	case j.found <- j.self:
	default:
	}
	return 0
}

// beat sends one heartbeat and returns all hosts' with the age of each.
func (h *Hosts) beat(ctx context.Context, self string) (map[string]time.Duration, error) {
	h.mu.Lock()
	info, changed := h.info, h.changed
	h.mu.Unlock()
	body, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encode host info: %w", err)
	}
	flag := ""
	if changed {
		flag = "1"
	}
	r, err := beatScript.Run(ctx, h.s.rdb, []string{hostsBeatKey, hostsInfoKey}, self, body, flag).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("send heartbeat: %w", err)
	}
	if len(r)%2 != 1 {
		return nil, fmt.Errorf("send heartbeat: %w: %d values", errProtocol, len(r))
	}
	h.mu.Lock()
	if changed && slices.Equal(h.info.Models, info.Models) {
		h.changed = false
	}
	h.mu.Unlock()
	table := make(map[string]time.Duration, len(r)/2)
	now := integer(r[0])
	for i := 1; i < len(r); i += 2 {
		table[r[i]] = time.Duration(now-integer(r[i+1])) * time.Millisecond
	}
	return table, nil
}

func (h *Hosts) withdraw(ctx context.Context, host string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n, err := h.s.rdb.SCard(ctx, hostJobsKey(host)).Result()
	if err == nil && n == 0 {
		err = withdrawScript.Run(ctx, h.s.rdb, []string{hostsBeatKey, hostsInfoKey}, host, -1).Err()
	}
	if err != nil {
		h.log.Warn("host could not be withdrawn; others will find it dead", "host", host, "error", err)
	} else if n > 0 {
		h.log.Warn("host ends with jobs it has not given back; others will find it dead", "host", host, "jobs", n)
	}
}

// Update replaces what the announced host serves; before Announce it takes precedence over its argument.
func (h *Hosts) Update(models []ModelInfo) {
	h.mu.Lock()
	h.info.Models, h.changed = slices.Clone(models), true
	h.mu.Unlock()
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
