package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

const (
	// startTimeout bounds the start of one plugin, compiling it included.
	startTimeout = 2 * time.Minute
	// checkTimeout bounds its word about its settings.
	checkTimeout = 30 * time.Second
	// closeTimeout is what all plugins together get to end.
	closeTimeout = 5 * time.Second
	// drainTimeout is what the generations of a plugin that was replaced get to end.
	drainTimeout = 10 * time.Minute
	// lookEvery is between two looks for plugins that are new, changed or gone.
	lookEvery = time.Second
)

// catalogue is every plugin that could be started, and the folders they come
// from. What changes there while the host runs is taken over by follow: a plugin
// that is new is started, one whose folder has changed is replaced once the new
// version has shown that it can be used, and one whose folder is gone is retired.
// Whatever has begun in a version ends in it.
type catalogue struct {
	config   config.Plugins
	starters map[manifest.Runtime]starter
	log      *slog.Logger
	routes   *routes
	rooms    *rooms
	drain    time.Duration
	embedded []*plugin

	folders map[string]*folder       // by path; of whoever looks: open, then follow
	stands  atomic.Pointer[[]folder] // folders, as the last look left them
	closing chan struct{}
	drains  sync.WaitGroup
}

// folder is where a plugin lies.
type folder struct {
	path  string
	print string // of its files when they were taken over, or refused
	seen  string // of its files at the last look
	found bool   // at this look

	name    string
	current *candidate // in service; nil while there is none
	err     error      // why what lies there now is not in service
}

// title names the plugin, or the folder of one whose manifest can't be read.
func (f *folder) title() string {
	if f.name == "" {
		return strings.ToValidUTF8(filepath.Base(f.path), "\uFFFD")
	}
	return f.name
}

// openCatalogue starts the plugins found in the configured directories, several
// at a time, and adds the embedded ones. A plugin that can't be started is
// logged once and left out; the rest start. Close it, on every path.
func openCatalogue(ctx context.Context, cfg config.Plugins, embedded []sdk.Provider, starters map[manifest.Runtime]starter, log *slog.Logger) *catalogue {
	c := &catalogue{
		config: cfg, starters: starters, log: log, routes: newRoutes(nil, log), rooms: newRooms(1), drain: drainTimeout,
		folders: map[string]*folder{}, closing: make(chan struct{}),
	}
	for _, p := range embedded {
		if err := c.embed(p, cfg.Config[p.Name]); err != nil {
			log.Error("plugin is left out", "provider", p.Name, "error", err)
		}
	}
	for _, root := range cfg.Dirs {
		if _, err := os.ReadDir(root); err != nil {
			log.Error("plugin folder can't be read", "dir", root, "error", err)
		}
	}
	if !c.look(ctx, true) {
		c.publish()
	}
	known := map[string]bool{}
	for _, p := range embedded {
		known[p.Name] = true
	}
	for _, f := range c.folders {
		known[f.name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Config)) {
		if !known[name] {
			log.Warn("configured plugin was not found", "provider", name, "key", "plugins.config."+name)
		}
	}
	return c
}

// publish lets the plugins in service take jobs. The slots of a provider are those
// of the version before, which may still be draining.
func (c *catalogue) publish() {
	now := c.inService()
	names := make([]string, len(now))
	for i, p := range now {
		names[i] = p.name
	}
	c.routes.set(now)
	c.rooms.serve(names)
}

// inService lists the plugins that take jobs.
func (c *catalogue) inService() []*plugin {
	list := slices.Clone(c.embedded)
	for _, path := range slices.SortedFunc(maps.Keys(c.folders), byBase) {
		if now := c.folders[path].current; now != nil {
			list = append(list, now.plugin)
		}
	}
	return list
}

func byBase(a, b string) int {
	if n := strings.Compare(filepath.Base(a), filepath.Base(b)); n != 0 {
		return n
	}
	return strings.Compare(a, b)
}

// follow looks for changes until ctx ends: now and then, and whenever reload
// says so. changed is called when what is served has changed.
func (c *catalogue) follow(ctx context.Context, reload <-chan struct{}, changed func()) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		now := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case _, ok := <-reload:
			if !ok {
				reload = nil
				continue
			}
			c.log.Info("looking for plugins again")
			now = true
		}
		if c.look(ctx, now) {
			changed()
		}
	}
}

// look takes over what has changed in the folders, and reports whether that
// changed what is served. Unless it has to be now, a folder is left alone until
// two looks have found the same in it: it may just be being written to.
func (c *catalogue) look(ctx context.Context, now bool) bool {
	for _, f := range c.folders {
		f.found = false
	}
	var fresh []*folder
	for _, path := range pluginDirs(c.config.Dirs) {
		print, err := fingerprint(path)
		if err != nil {
			continue // it is just going
		}
		f := c.folders[path]
		if f == nil {
			f = &folder{path: path}
			c.folders[path] = f
		}
		f.found = true
		stable := now || f.seen == print
		f.seen = print
		if stable && (f.print != print || now && f.err != nil) {
			fresh = append(fresh, f)
		}
	}
	var retired []*candidate
	free := false // a name
	for path, f := range c.folders {
		switch {
		case f.found:
		case f.seen != "" && !now:
			f.seen = "" // gone, if it still is at the next look
		default:
			delete(c.folders, path)
			free = true
			if f.current != nil {
				c.log.Info("plugin was removed", "provider", f.name, "dir", path)
				retired = append(retired, f.current)
			}
		}
	}
	retired = append(retired, c.start(ctx, fresh)...)
	changed := len(retired) > 0
	for _, f := range fresh {
		changed = changed || f.err == nil && f.current != nil
	}
	for _, f := range c.folders {
		if free && f.err != nil {
			f.print = "" // perhaps its name was taken
		}
	}
	if changed {
		c.publish()
	}
	stands := make([]folder, 0, len(c.folders))
	for _, path := range slices.SortedFunc(maps.Keys(c.folders), byBase) {
		stands = append(stands, *c.folders[path])
	}
	c.stands.Store(&stands)
	for _, r := range retired { // after the routes: whoever finds it retired looks again
		c.retire(r)
	}
	return changed
}

// standing tells how the last look left the folders. Anybody may call it.
func (c *catalogue) standing() []folder {
	if stands := c.stands.Load(); stands != nil {
		return slices.Clone(*stands)
	}
	return nil
}

// start starts what lies in folders and puts it in service. It returns what was
// in service there before.
func (c *catalogue) start(ctx context.Context, folders []*folder) (replaced []*candidate) {
	candidates := make([]*candidate, len(folders))
	for i, f := range folders {
		f.print = f.seen
		candidates[i], f.err = c.candidate(f)
	}
	var starting errgroup.Group
	starting.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range folders {
		if cand := candidates[i]; cand != nil && f.err == nil {
			starting.Go(func() error {
				f.err = cand.start(ctx, c.starters, c.log)
				return nil // the others go on
			})
		}
	}
	_ = starting.Wait()
	for i, f := range folders {
		cand := candidates[i]
		switch {
		case f.err != nil && ctx.Err() != nil:
			f.print = "" // it was not to blame
		case f.err != nil && f.current != nil:
			c.log.Error("new version of a plugin is not taken, the one before stays", "provider", f.name, "dir", f.path, "error", f.err)
		case f.err != nil:
			c.log.Error("plugin is left out", "provider", f.title(), "dir", f.path, "error", f.err)
		case cand == nil: // disabled
		default:
			if f.current != nil {
				c.log.Info("plugin was replaced", "provider", f.name, "version", cand.m.Version, "digest", cand.plugin.digest, "before", f.current.plugin.digest)
				replaced = append(replaced, f.current)
			}
			cand.plugin.slots = c.rooms.of(cand.plugin.name, cand.plugin.limits.Concurrency)
			f.current = cand
		}
	}
	return replaced
}

// candidate reads what lies in a folder. It is nil for a plugin that is disabled.
func (c *catalogue) candidate(f *folder) (*candidate, error) {
	m, err := manifest.Load(f.path)
	if err != nil {
		return nil, err
	}
	for _, p := range c.embedded {
		if p.name == m.Name {
			return nil, fmt.Errorf("plugin %s: another plugin has this name: embedded", m.Name)
		}
	}
	for _, other := range c.folders {
		if other != f && other.name == m.Name {
			return nil, fmt.Errorf("plugin %s: another plugin has this name: %s", m.Name, other.path)
		}
	}
	f.name = m.Name
	op := c.config.Config[m.Name]
	if op.Disabled {
		c.log.Info("plugin is disabled", "provider", m.Name)
		return nil, nil
	}
	return &candidate{m: m, op: op}, nil
}

// retire ends a plugin that is not served any more, once what has begun in it
// has ended or had its time.
func (c *catalogue) retire(r *candidate) {
	r.plugin.retire()
	c.drains.Go(func() {
		t := time.NewTimer(c.drain)
		defer t.Stop()
		select {
		case <-r.plugin.unused:
		case <-t.C:
			c.log.Warn("plugin that was replaced is ended with work under way", "provider", r.plugin.name, "waited", c.drain)
		case <-c.closing:
		}
		r.plugin.cut()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := r.stop(ctx); err != nil {
			c.log.Warn("plugin did not stop in order", "provider", r.plugin.name, "error", err)
		}
		c.log.Info("plugin is drained", "provider", r.plugin.name, "digest", r.plugin.digest)
	})
}

// fingerprint changes with the files in a plugin's folder. It doesn't read them.
func fingerprint(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		fmt.Fprintf(&b, "%q %d %d %d\n", e.Name(), info.Size(), info.ModTime().UnixNano(), inode(info))
	}
	return b.String(), nil
}

// pluginDirs lists the folders that hold a manifest, sorted by their name. A root
// that can't be read has none.
func pluginDirs(roots []string) []string {
	var dirs []string
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil {
			continue
		}
		for _, e := range entries {
			dir := filepath.Join(root, e.Name())
			if _, err := os.Stat(filepath.Join(dir, manifest.File)); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return dirs
}

// embed adds a provider that lives in this process.
func (c *catalogue) embed(p sdk.Provider, op config.Plugin) error {
	if op.Disabled {
		c.log.Info("plugin is disabled", "provider", p.Name)
		return nil
	}
	if p.Generate == nil {
		return errors.New("it has no Generate")
	}
	limits := manifest.Defaults()
	tighten(&limits, op.Limits)
	settings, err := settingsOf(op.Settings)
	if err != nil {
		return err
	}
	made := newPlugin("embedded", p, settings, limits)
	made.slots = c.rooms.of(made.name, limits.Concurrency)
	c.embedded = append(c.embedded, made)
	return nil
}

// close stops all plugins, within ctx. Nothing may run or look any more.
func (c *catalogue) close(ctx context.Context) error {
	close(c.closing)
	c.routes.set(nil)
	paths := slices.SortedFunc(maps.Keys(c.folders), byBase)
	errs := make([]error, len(paths))
	var stopping sync.WaitGroup
	for i, path := range paths {
		now := c.folders[path].current
		if now == nil {
			continue
		}
		now.plugin.retire()
		now.plugin.cut()
		stopping.Go(func() {
			if err := now.stop(ctx); err != nil {
				errs[i] = fmt.Errorf("stop plugin: %w", err)
			}
		})
	}
	stopping.Wait()
	for _, p := range c.embedded {
		p.cut()
	}
	c.drains.Wait()
	return errors.Join(errs...)
}
