package gateway

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/proto/job"
)

// modelsAge is how old the list of models may be. It decides how soon a new
// host's models can be asked for by name.
const modelsAge = time.Second

// modelsPush is how often a change of the list is looked for.
const modelsPush = 2 * time.Second

// model is what a client is told about a model it may ask for.
type model struct {
	Name      string `json:"name"` // a * in it stands for any characters
	Provider  string `json:"provider"`
	Runtime   string `json:"runtime,omitempty"`
	Reasoning bool   `json:"reasoning,omitempty"`
	Tools     bool   `json:"tools,omitempty"`
	Vision    bool   `json:"vision,omitempty"`
}

// census tells which models the living hosts serve.
type census interface {
	Models(ctx context.Context) ([]job.ModelInfo, error)
}

// models remembers the last census, so that neither a start nor a connection
// costs a look into Redis. Safe for concurrent use.
type models struct {
	census census
	log    *slog.Logger

	last  atomic.Pointer[count]
	first atomic.Pointer[count] // what the first sockets were greeted with
	mu    sync.Mutex            // one census at a time
}

// count is one census. One that failed repeats the list before it.
type count struct {
	list []model
	sure bool
	at   time.Time
}

// list returns the models served now. With Redis away it is the list known
// last, and the second value is false: nothing should be refused on its word.
func (m *models) list(ctx context.Context) ([]model, bool) {
	if c := m.last.Load(); c != nil && time.Since(c.at) < modelsAge {
		return c.list, c.sure
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.last.Load()
	if before != nil && time.Since(before.at) < modelsAge {
		return before.list, before.sure
	}
	ctx, cancel := context.WithTimeout(ctx, modelsAge)
	defer cancel()
	infos, err := m.census.Models(ctx)
	now := &count{list: []model{}, sure: err == nil, at: time.Now()}
	if err == nil {
		for _, i := range infos {
			now.list = append(now.list, model{Name: i.Name, Provider: i.Provider, Runtime: i.Runtime, Reasoning: i.Reasoning, Tools: i.Tools, Vision: i.Vision})
		}
	} else {
		if before != nil {
			now.list = before.list
		}
		if before == nil || before.sure {
			m.log.Warn("models of the living hosts are unknown", "error", err)
		}
	}
	m.first.CompareAndSwap(nil, now)
	m.last.Store(now)
	return now.list, now.sure
}

// recent returns the list known last, without a look into Redis.
func (m *models) recent() ([]model, bool) {
	if c := m.last.Load(); c != nil {
		return c.list, c.sure
	}
	return nil, false
}

// catalogue is the data of the models event.
type catalogue struct {
	Models       []model `json:"models"`
	DefaultModel string  `json:"defaultModel"`
}

// pushModels tells every socket when the list of models has changed, until ctx
// ends.
func (c *core) pushModels(ctx context.Context) {
	told, _ := c.models.recent()
	for sleep(ctx, modelsPush) {
		if n, _, _ := c.hub.counts(); n == 0 {
			told, _ = c.models.recent() // whoever comes is greeted with the list
			continue
		}
		if first := c.models.first.Load(); told == nil && first != nil {
			told = first.list
		}
		list, sure := c.models.list(ctx)
		if !sure || slices.Equal(list, told) {
			continue
		}
		told = list
		for _, s := range c.hub.everybody() {
			s.emit(eventModels, catalogue{Models: list, DefaultModel: c.conf.DefaultModel})
		}
	}
}

// serves reports whether one of the names is on the list.
func serves(list []model, names []string) bool {
	for _, name := range names {
		for _, m := range list {
			if matches(m.Name, name) {
				return true
			}
		}
	}
	return false
}

// matches fits a name to a glob in which * stands for any characters.
func matches(glob, name string) bool {
	head, rest, wild := strings.Cut(glob, "*")
	if !wild {
		return glob == name
	}
	name, ok := strings.CutPrefix(name, head)
	if !ok {
		return false
	}
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, rest)
		}
		_, tail, found := strings.Cut(name, part)
		if !found {
			return false
		}
		name, rest = tail, after
	}
}
