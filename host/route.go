package host

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

// routes finds who serves a model. It is built once and only read afterwards.
type routes struct {
	exact map[string]route
	globs []route
}

// route is one model of one plugin.
type route struct {
	plugin *plugin
	model  sdk.Model
}

// newRoutes lays out the models of all plugins. A name that two plugins claim
// goes to the one whose own name sorts first; the log says so.
func newRoutes(plugins []*plugin, log *slog.Logger) *routes {
	sorted := slices.SortedFunc(slices.Values(plugins), func(a, b *plugin) int { return cmp.Compare(a.name, b.name) })
	r := &routes{exact: map[string]route{}}
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
	slices.SortStableFunc(r.globs, func(a, b route) int {
		return cmp.Compare(literal(b.model.Name), literal(a.model.Name))
	})
	return r
}

// literal counts the characters of a glob that aren't wild: the more, the
// closer it fits.
func literal(glob string) int { return len(glob) - strings.Count(glob, "*") }

// find returns who serves model: the one that names it exactly, else the glob
// with the most literal characters, else, among equals, the plugin whose name
// sorts first.
func (r *routes) find(model string) (route, bool) {
	if t, ok := r.exact[model]; ok {
		return t, true
	}
	for _, t := range r.globs {
		if t.model.Matches(model) {
			return t, true
		}
	}
	return route{}, false
}

// models lists what is served, sorted by name, each name once.
func (r *routes) models() []route {
	all := make([]route, 0, len(r.exact)+len(r.globs))
	for _, t := range r.exact {
		all = append(all, t)
	}
	all = append(all, r.globs...)
	slices.SortFunc(all, func(a, b route) int { return cmp.Compare(a.model.Name, b.model.Name) })
	return all
}
