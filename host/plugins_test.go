package host

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/job"
)

// The same plugin in both runtimes, found in a folder, behind a running host.
func TestInstalledPluginsAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for out, src := range map[string]string{"echo": "native.yaml", "echo-sandbox": "sandbox.yaml"} {
		if _, err := manifest.Build(t.Context(), filepath.Join("..", "plugins", "echo", src), filepath.Join(dir, out)); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, startServer(t).addr)
	h := w.host(tuned(func(c *config.Config) {
		c.Plugins.Dirs = []string{dir}
		c.Host.MaxAttempts = 2
	}))
	models, err := job.NewHosts(w.store, discard, job.HostsOptions{}).Models(t.Context())
	if err != nil || len(models) != 2 || models[0].Runtime != "native" || models[1].Runtime != "wasm" {
		t.Errorf("announced are %+v, error %v", models, err)
	}
	for _, model := range []string{"echo", "echo-sandbox"} {
		t.Run(model, func(t *testing.T) {
			w := *w
			w.t = t
			ask := func(options string) string {
				return w.create(job.Job{Query: "one two three", Models: []string{model}, Params: json.RawMessage(`{"options":` + options + `}`)})
			}
			c := w.follow(ask(`{"delay_ms":0,"reasoning":true}`), 0).complete()
			if c.Text != "one two three" || c.Provider != model || c.Usage == nil || c.Usage.Output == 0 {
				t.Errorf("complete is %+v", c)
			}
			l := w.follow(ask(`{"delay_ms":0,"error":{"kind":"limited","after":1,"wait_ms":30,"message":"slow down"}}`), 0)
			if e := decode[job.Error](t, l.last()); e.Code != "limited" || e.Fault != "upstream" || e.Attempt != 2 {
				t.Errorf("error is %+v", e)
			}
			l = w.follow(ask(`{"delay_ms":0,"error":{"kind":"invalid","message":"no such voice"}}`), 0)
			if e := decode[job.Error](t, l.last()); e.Code != "invalid" || e.Fault != "caller" || e.Message != "no such voice" || e.Attempt != 1 {
				t.Errorf("error is %+v", e)
			}
			id := ask(`{"delay_ms":0,"stall":{"after":2}}`)
			w.waitFor(id, "a chunk", isEvent(job.EventChunk))
			w.cancel(id)
			w.follow(id, 0).receipt()
		})
	}
	if err := h.end(); err != nil {
		t.Errorf("host ended with %v", err)
	}
	if n := h.logged("did not stop in order"); n > 0 {
		t.Error("plugins did not stop in order")
	}
}
