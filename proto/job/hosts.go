package job

import (
	"context"
	"log/slog"
	"time"
)

// HostInfo is what a host announces.
type HostInfo struct {
	ID      string      `json:"id"`
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
	Calm time.Duration // after a failed or late heartbeat of its own a host judges nobody for so long; 0 = 3 s
}

// Hosts knows which hosts are alive and what they serve. Safe for concurrent use.
type Hosts struct{}

// NewHosts returns Hosts on a Store.
func NewHosts(s *Store, log *slog.Logger, o HostsOptions) *Hosts { return &Hosts{} }

// Announce keeps a host alive until ctx ends, then withdraws it: heartbeat by Redis time, presence by a held
// subscription. With each heartbeat it scans the others; one that two scans agree is dead is given to dead (nil:
// scan nobody), one at a time, from a goroutine of Announce. dead calls Reclaim. Blocks; returns ctx's error.
func (h *Hosts) Announce(ctx context.Context, info HostInfo, dead func(ctx context.Context, host string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Update replaces what the announced host serves.
func (h *Hosts) Update(models []ModelInfo) {}

// LastBeat is when the last heartbeat that Redis acknowledged was sent; zero before the first.
func (h *Hosts) LastBeat() time.Time { return time.Time{} }

// List returns the hosts alive, by id.
func (h *Hosts) List(ctx context.Context) ([]HostInfo, error) { return nil, nil }

// Models returns what the hosts alive serve, by name, one entry per name and provider.
func (h *Hosts) Models(ctx context.Context) ([]ModelInfo, error) { return nil, nil }

// Reclaim takes the jobs of a dead host from it and fences it. For each job that is to run again it calls
// enqueue with the next ticket and the job's priority; cancelled jobs get their receipt, jobs with PolicyFail or
// too many crashes their model:error (code host_lost), from what the log holds. Any number of hosts may reclaim
// the same one at once. It stops at the first error and may be called again.
func (h *Hosts) Reclaim(ctx context.Context, host string, enqueue func(ctx context.Context, t Ticket, priority string) error) error {
	return errProtocol
}
