package host

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

func served(name string, models ...string) *plugin {
	p := sdk.Provider{Name: name, Generate: saying()}
	for _, m := range models {
		p.Models = append(p.Models, sdk.Model{Name: m})
	}
	return newPlugin("embedded", p, nil, manifest.Defaults())
}

func TestRoutes(t *testing.T) {
	var log bytes.Buffer
	r := newRoutes([]*plugin{
		served("zeta", "gpt-4o", "gpt-*", "both"),
		served("beta", "*", "llama-*", "both"),
		served("alpha", "gpt-4*", "*-mini", "meta/*"),
	}, slog.New(slog.NewTextHandler(&log, nil)))
	for model, want := range map[string]string{
		"gpt-4o":        "zeta",  // exact before any glob
		"gpt-4o-mini":   "alpha", // gpt-4* and *-mini have as many literals, and both are alpha's
		"gpt-3":         "zeta",
		"both":          "beta", // claimed twice: the name that sorts first
		"meta/llama/3":  "alpha",
		"anything else": "beta",
	} {
		got, ok := r.find(model)
		if !ok || got.plugin.name != want {
			t.Errorf("%s goes to %+v, want %s", model, got, want)
		}
	}
	if n := strings.Count(log.String(), "model is claimed twice"); n != 1 {
		t.Errorf("%d warnings of a model claimed twice, want 1: %s", n, log.String())
	}
	if n := strings.Count(log.String(), "model is taken out of a wider claim"); n != 1 || !strings.Contains(log.String(), "model=gpt-4o provider=zeta claim=gpt-4* of=alpha") {
		t.Errorf("%d words of a model taken from another plugin, want 1: %s", n, log.String())
	}
	if models := r.models(); len(models) != 8 || models[0].model.Name != "*" {
		t.Errorf("served: %v", models)
	}
	if _, ok := newRoutes(nil, discard).find("x"); ok {
		t.Error("nobody serves, but a model was found")
	}
}
