package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

// install writes a plugin whose artifact is a few bytes.
func install(t *testing.T, root, dir, name, extra string) {
	t.Helper()
	artifact := []byte("artifact of " + name)
	sum := sha256.Sum256(artifact)
	text := fmt.Sprintf("name: %s\nversion: 1.0.0\nprotocol: 1\nruntime: wasm\nartifact: a.wasm\nsha256: %s\nmodels:\n  - name: %s-model\n%s",
		name, hex.EncodeToString(sum[:]), name, extra)
	for file, b := range map[string][]byte{manifest.File: []byte(text), "a.wasm": artifact} {
		path := filepath.Join(root, dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCatalogueLeavesOutWhatIsBroken(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	install(t, one, "good", "good", "")
	install(t, one, "off", "off", "")
	install(t, one, "narrowed", "narrowed", "limits:\n  total: 10m\n  concurrency: 8\n")
	install(t, one, "widened", "widened", "limits:\n  total: 1m\n")
	install(t, one, "crashes", "crashes", "")
	install(t, two, "again", "good", "")
	install(t, two, "changed", "changed", "")
	if err := os.WriteFile(filepath.Join(two, "changed", "a.wasm"), []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(two, "garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(two, "garbage", manifest.File), []byte("]["), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := config.Plugins{
		Dirs: []string{one, two, filepath.Join(two, "nowhere")},
		Config: map[string]config.Plugin{
			"off":      {Disabled: true},
			"narrowed": {Limits: config.PluginLimits{Total: time.Minute, Concurrency: 2}},
			"widened":  {Limits: config.PluginLimits{Total: time.Hour}},
			"missing":  {},
			"inside":   {Settings: map[string]any{"a": 1}, Limits: config.PluginLimits{Idle: time.Second}},
		},
	}
	var mu sync.Mutex
	var stopped []string
	start := func(_ context.Context, m *manifest.Manifest, gate *egress.Gate) (instance, error) {
		if gate == nil {
			t.Errorf("plugin %s has no gate", m.Name)
		}
		if m.Name == "crashes" {
			return instance{}, errors.New("exit status 2")
		}
		return instance{provider: provider(m.Name, saying(), sdk.Model(m.Models[0])), stop: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			stopped = append(stopped, m.Name)
			return nil
		}}, nil
	}
	var log bytes.Buffer
	c := openCatalogue(t.Context(), cfg, []sdk.Provider{provider("inside", saying()), {Name: "empty"}},
		map[manifest.Runtime]starter{manifest.Wasm: start}, slog.New(slog.NewTextHandler(&log, nil)))

	var names []string
	for _, p := range c.inService() {
		names = append(names, p.name)
		switch p.name {
		case "narrowed":
			if p.limits.Total != time.Minute || p.limits.Concurrency != 2 {
				t.Errorf("limits of narrowed are %+v", p.limits)
			}
		case "inside":
			if p.limits.Idle != time.Second || p.settings.Int("a", 0) != 1 || p.runtime != "embedded" {
				t.Errorf("inside is %+v", p)
			}
		}
	}
	if want := []string{"inside", "good", "narrowed"}; !slices.Equal(names, want) {
		t.Errorf("started %v, want %v\n%s", names, want, log.String())
	}
	for phrase, times := range map[string]int{
		"plugin is left out":              6, // empty, widened, crashes, again, changed, garbage
		"exit status 2":                   1,
		"another plugin has this name":    1,
		"digest differs":                  1,
		"may only narrow":                 1,
		"plugin is disabled":              1,
		"configured plugin was not found": 1,
		"plugin folder can't be read":     1,
	} {
		if n := strings.Count(log.String(), phrase); n != times {
			t.Errorf("%q is logged %d times, want %d", phrase, n, times)
		}
	}
	if t.Failed() {
		t.Log(log.String())
	}
	if err := c.close(t.Context()); err != nil {
		t.Error(err)
	}
	slices.Sort(stopped)
	if want := []string{"good", "narrowed"}; !slices.Equal(stopped, want) {
		t.Errorf("stopped %v, want %v", stopped, want)
	}
}

func TestOperatorsSecretsReachTheGateOnly(t *testing.T) {
	root := t.TempDir()
	install(t, root, "p", "p", "egress: [\"https://api.example.com\"]\nsecrets:\n  - name: KEY\n    from: env:NOT_SET_ANYWHERE\n    origins: [\"https://api.example.com\"]\n    header: Authorization\n")
	m, err := manifest.Load(filepath.Join(root, "p"))
	if err != nil {
		t.Fatal(err)
	}
	narrowed, lookup, err := narrow(m, config.Plugin{Secrets: map[string]config.Secret{"KEY": config.NewSecret("hunter2")}})
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%+v", narrowed); strings.Contains(s, "hunter2") {
		t.Errorf("the manifest carries the secret: %s", s)
	}
	name, _ := strings.CutPrefix(narrowed.Secrets[0].From, "env:")
	if v, ok := lookup(name); !ok || v != "hunter2" {
		t.Errorf("lookup of %s found %q, %v", name, v, ok)
	}
	gate, err := egress.New(narrowed, egress.Options{Log: discard, LookupEnv: lookup})
	if err != nil {
		t.Fatal(err)
	}
	gate.Close()
}

// A folder's name is whoever packed the plugin's to choose, and a metric with a label that isn't UTF-8
// would leave the host without any.
func TestFolderNamesAreLabels(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"\xff", "\xfe"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Skip("the file system wants names that are UTF-8: ", err)
		}
		if err := os.WriteFile(filepath.Join(root, name, manifest.File), []byte("]["), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := openCatalogue(t.Context(), config.Plugins{Dirs: []string{root}}, nil, nil, discard)
	registry := prometheus.NewRegistry()
	registry.MustRegister(newPluginMetrics(c))
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, family := range all {
		told = told || family.GetName() == "sluice_host_plugin_folders_refused" && family.Metric[0].GetGauge().GetValue() == 2
	}
	if !told {
		t.Error("the two folders are not counted")
	}
}

// Plugins end beside each other: together they get as long as one of them may need.
func TestPluginsEndTogether(t *testing.T) {
	c := openCatalogue(t.Context(), config.Plugins{}, nil, nil, discard)
	var all sync.WaitGroup
	const n = 5
	all.Add(n)
	for i := range n {
		c.folders[fmt.Sprint(i)] = &folder{current: &candidate{plugin: served(fmt.Sprint(i)), stop: func(context.Context) error {
			all.Done()
			all.Wait()
			return errors.New("late")
		}}}
	}
	ended := make(chan error, 1)
	go func() { ended <- c.close(t.Context()) }()
	select {
	case err := <-ended:
		if got := strings.Count(fmt.Sprint(err), "late"); got != n {
			t.Errorf("error is %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("they wait for each other")
	}
}

// A manifest is written by whoever wrote the plugin: it can't ask for the host's own settings.
func TestOwnSettingsAreNoSecrets(t *testing.T) {
	t.Setenv("SLUICE_REDIS__PASSWORD", "hunter2")
	root := t.TempDir()
	install(t, root, "header", "header", `egress: [https://acme.test]
secrets: [{name: K, from: "env:SLUICE_REDIS__PASSWORD", origins: [https://acme.test], header: X-K}]
`)
	install(t, root, "given", "given", `egress: [https://acme.test]
secrets: [{name: K, from: "env:SLUICE_REDIS__PASSWORD", origins: [https://acme.test], header: X-K}]
`)
	cfg := config.Plugins{Dirs: []string{root}, Config: map[string]config.Plugin{"given": {Secrets: map[string]config.Secret{"K": config.NewSecret("another")}}}}
	var log bytes.Buffer
	c := openCatalogue(t.Context(), cfg, nil, map[manifest.Runtime]starter{
		manifest.Wasm: func(_ context.Context, m *manifest.Manifest, _ *egress.Gate) (instance, error) {
			return instance{provider: provider(m.Name, saying()), stop: func(context.Context) error { return nil }}, nil
		},
	}, slog.New(slog.NewTextHandler(&log, nil)))
	if now := c.inService(); len(now) != 1 || now[0].name != "given" {
		t.Errorf("in service are %v", now)
	}
	if !strings.Contains(log.String(), "SLUICE_REDIS__PASSWORD, which is a setting of Sluice's own") {
		t.Errorf("the log says %s", log.String())
	}
	if err := c.close(t.Context()); err != nil {
		t.Error(err)
	}
	m := &manifest.Manifest{Name: "native", Env: []string{"HOME", "sluice_gateway__auth__secret"}}
	if _, _, err := narrow(m, config.Plugin{}); err == nil || !strings.Contains(err.Error(), "sluice_gateway__auth__secret") {
		t.Errorf("error is %v", err)
	}
}
