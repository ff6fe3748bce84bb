package host

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// routes finds who serves a model. Safe for concurrent use.
type routes struct {
	log   *slog.Logger
	table atomic.Pointer[table]
}

// table is the routes at one time.
type table struct {
	exact map[string]route
	globs []route
}

// route is one model of one plugin.
type route struct {
	plugin *plugin
	model  sdk.Model
}

func newRoutes(plugins []*plugin, log *slog.Logger) *routes {
	r := &routes{log: log}
	r.set(plugins)
	return r
}

// set replaces all routes at once.
func (r *routes) set(plugins []*plugin) { r.table.Store(newTable(plugins, r.log)) }

// newTable lays out the models of all plugins. A name that two plugins claim
// goes to the one whose own name sorts first; the log says so, as it does of a
// name that one plugin takes out of what another serves.
func newTable(plugins []*plugin, log *slog.Logger) *table {
	sorted := slices.SortedFunc(slices.Values(plugins), func(a, b *plugin) int { return cmp.Compare(a.name, b.name) })
	r := &table{exact: map[string]route{}}
	globs := map[string]string{}
	for _, p := range sorted {
		for _, m := range p.provider.Models {
			first := ""
			if strings.Contains(m.Name, "*") {
				first = globs[m.Name]
				if first == "" {
					globs[m.Name] = p.name
					r.globs = append(r.globs, route{p, m})
				}
			} else {
				if have, ok := r.exact[m.Name]; ok {
					first = have.plugin.name
				} else {
					r.exact[m.Name] = route{p, m}
				}
			}
			if first != "" && first != p.name {
				log.Warn("model is claimed twice", "model", m.Name, "provider", first, "ignored", p.name)
			}
		}
	}
	for name, t := range r.exact {
		for _, wide := range r.globs {
			if wide.plugin != t.plugin && literal(wide.model.Name) > 0 && wide.model.Matches(name) {
				log.Info("model is taken out of a wider claim", "model", name, "provider", t.plugin.name, "claim", wide.model.Name, "of", wide.plugin.name)
			}
		}
	}
	slices.SortStableFunc(r.globs, func(a, b route) int {
		return cmp.Compare(literal(b.model.Name), literal(a.model.Name))
	})
	return r
}

// literal counts the characters of a glob that aren't wild: the more, the
// closer it fits.
func literal(glob string) int { return len(glob) - strings.Count(glob, "*") }

// take is find, with the plugin in use until its done is called.
func (r *routes) take(model string) (route, bool) {
	for {
		t, ok := r.find(model)
		if !ok || t.plugin.use() {
			return t, ok
		}
		// It was retired since: the table has been replaced before it was.
	}
}

// find returns who serves model: the one that names it exactly, else the glob
// with the most literal characters, else, among equals, the plugin whose name
// sorts first.
func (r *routes) find(model string) (route, bool) {
	now := r.table.Load()
	if t, ok := now.exact[model]; ok {
		return t, true
	}
	for _, t := range now.globs {
		if t.model.Matches(model) {
			return t, true
		}
	}
	return route{}, false
}

// models lists what is served, sorted by name, each name once.
func (r *routes) models() []route {
	now := r.table.Load()
	all := make([]route, 0, len(now.exact)+len(now.globs))
	for _, t := range now.exact {
		all = append(all, t)
	}
	all = append(all, now.globs...)
	slices.SortFunc(all, func(a, b route) int { return cmp.Compare(a.model.Name, b.model.Name) })
	return all
}

// announced is models as other hosts and gateways are told of them.
func (r *routes) announced() []job.ModelInfo {
	all := r.models()
	infos := make([]job.ModelInfo, len(all))
	for i, t := range all {
		infos[i] = t.info()
	}
	return infos
}
