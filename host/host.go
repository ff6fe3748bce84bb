// Package host takes jobs from Redis and has plugins answer them.
//
// [Run] is the whole of it: it starts the plugins, announces what they serve,
// takes tickets from the queue, runs each as an attempt of its job (attempt.go),
// writes what the plugin says to the job's log behind the plugin's back
// (stream.go), and ends every attempt with a terminal frame, the ticket of
// another attempt, or the discovery that somebody else owns the job. It also
// watches the other hosts and takes over the jobs of a dead one.
package host

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host/queue"
	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// Options say what a host needs.
type Options struct {
	Config config.Config
	Redis  redis.UniversalClient // shared, and not closed; with host.addr set it gets a hook that counts errors
	Log    *slog.Logger
	// Version is announced with the host.
	Version string
	// Providers are served beside the plugins that are found: providers that
	// live in this process. plugins.config.<name> applies to them too.
	Providers []sdk.Provider
	// Report, when not nil, is told of every attempt that has ended. It must
	// not block.
	Report func(Report)
	// Reload, when not nil, has the plugins' folders looked at now; they are
	// looked at every second otherwise.
	Reload <-chan struct{}
	// Ready, when not nil, is called when the host is announced and begins to
	// take tickets.
	Ready func()
}

// The times of a host. They are no settings: correctness doesn't hang on them.
const (
	selfFence = 15 * time.Second      // without Redis, before what runs here is stopped
	recheck   = 5 * time.Second       // between two looks for cancels that were missed
	firstBeat = 10 * time.Millisecond // between two looks for the first heartbeat
	// between two looks at a quarter of the open jobs
	orphanLook = time.Second
)

// Run runs a host until ctx ends, and then stops in order: no further ticket is
// taken, what runs may end within host.grace, and the rest is handed over
// without counting as a failure. It returns once everything it started has
// ended, with nil unless it could not begin or something had to be left behind.
func Run(ctx context.Context, o Options) error {
	cfg := o.Config.Host
	id := cfg.ID
	if id == "" {
		id = makeID()
	}
	log := o.Log.With("host", id)

	s := &status{metrics: newMetrics(), stop: ctx}
	if cfg.Addr != "" {
		l, err := listen(cfg.Addr)
		if err != nil {
			return err
		}
		o.Redis.AddHook(redisHook{s.metrics.failed})
		defer s.serve(l, log)()
	}
	starters, closeRuntimes, err := runtimes(ctx, o.Config.Plugins, log)
	if err != nil {
		return err
	}
	plugins := openCatalogue(ctx, o.Config.Plugins, o.Providers, starters, log)
	defer func() {
		// Nothing runs any more; what is still alive is beyond an orderly end.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := errors.Join(plugins.close(last), closeRuntimes(last)); err != nil {
			log.Warn("plugins did not stop in order", "error", err)
		}
	}()
	if ctx.Err() != nil {
		return nil
	}
	if len(plugins.inService()) == 0 {
		log.Warn("no plugin could be started: this host serves nothing")
	}

	store := job.NewStore(o.Redis, job.Options{TTL: cfg.TTL, General: cfg.GeneralChannels})
	h := &host{
		id: id, log: log, store: store, redis: o.Redis, metrics: s.metrics,
		hosts: job.NewHosts(store, log, job.HostsOptions{}), plugins: plugins,
	}
	h.others = newOthers(id, h.hosts)
	h.queue = queue.New(queue.Options{
		Redis: o.Redis, Owner: id, Queues: job.Queues(), Concurrency: cfg.Concurrency + sorters, Grace: graceOf(cfg.Grace),
		Abandon: lingerFor + abandon + 2*time.Second, Admit: h.others.admit, Rooms: plugins.rooms, Log: log,
	})
	h.others.wake = h.queue.Wake
	plugins.rooms.seats.set(cfg.Concurrency)
	plugins.rooms.letIn = h.queue.LetIn
	h.tickets = newTickets(h.queue)
	inspector := asynq.NewInspectorFromRedisClient(o.Redis)
	h.worker = &worker{
		id: id, config: cfg, store: store, routes: plugins.routes, running: &running{},
		rooms: plugins.rooms, canWait: h.queue.CanWait,
		budget: semaphore.NewWeighted(int64(cfg.Buffer.Total)), metrics: s.metrics, log: log,
		enqueue: h.tickets.enqueue, others: h.others,
		failedBefore: func(queue, task string) (bool, error) { return failedBefore(inspector, queue, task) },
	}
	h.worker.report = func(r Report) {
		s.metrics.ended(r)
		if o.Report != nil {
			o.Report(r)
		}
	}
	s.metrics.watch(h)
	s.host.Store(h)
	return h.run(ctx, o)
}

// host is a running host.
type host struct {
	id      string
	log     *slog.Logger
	redis   redis.UniversalClient
	store   *job.Store
	hosts   *job.Hosts
	queue   *queue.Queue
	tickets *tickets
	others  *others
	worker  *worker
	plugins *catalogue
	metrics *metrics
}

// run serves until ctx ends. Being alive, hearing of cancels and watching over
// the others outlast the serving: what is still being worked on needs them.
func (h *host) run(ctx context.Context, o Options) error {
	life, die := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer die()
	info := job.HostInfo{ID: h.id, Version: o.Version, Started: time.Now(), Models: h.worker.routes.announced()}
	wg.Go(func() {
		if err := h.hosts.Announce(life, info, h.takeOver); err != nil && life.Err() == nil {
			h.log.Error("host is not announced any more", "error", err)
		}
	})
	wg.Go(func() {
		if err := h.store.Cancels(life, h.cancelled); err != nil && life.Err() == nil {
			h.log.Error("cancels are not followed any more", "error", err)
		}
	})
	wg.Go(func() { h.watch(life, h.hosts.LastBeat, h.recheck) })
	wg.Go(func() { h.findOrphans(life) })

	// A job that began before the first heartbeat would be nobody's to take over.
	for h.hosts.LastBeat().IsZero() {
		if !sleep(ctx, firstBeat) {
			return nil
		}
	}
	h.log.Info("host is taking jobs", "models", len(info.Models), "concurrency", h.worker.config.Concurrency)
	if o.Ready != nil {
		o.Ready()
	}
	looking, stopLooking := context.WithCancel(ctx)
	defer stopLooking()
	wg.Go(func() {
		h.plugins.follow(looking, o.Reload, func() { h.hosts.Update(h.worker.routes.announced()) })
	})
	wg.Go(func() { h.plugins.rooms.look(looking) })
	err := h.queue.Serve(ctx, h.worker)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the queue: %w", err)
	}
	h.log.Info("host has stopped")
	return err
}

// cancelled stops the job that was cancelled; "" means that cancels may have
// been missed.
func (h *host) cancelled(id string) {
	if id != "" {
		h.worker.running.cancel(id)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), recheck)
	defer cancel()
	h.recheck(ctx)
}

// recheck asks Redis which of the jobs that run here have been cancelled.
func (h *host) recheck(ctx context.Context) {
	ids := h.worker.running.ids()
	if len(ids) == 0 {
		return
	}
	cancelled, err := h.store.CancelledOf(ctx, ids...)
	if err != nil {
		return // it is asked again soon, and every append asks too
	}
	for _, id := range cancelled {
		h.worker.running.cancel(id)
	}
}

// watch looks for cancels that were missed, and stops everything when Redis has
// been away for so long that others must have taken over. lastBeat is when Redis
// was last heard of.
func (h *host) watch(ctx context.Context, lastBeat func() time.Time, look func(context.Context)) {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		last := lastBeat()
		if last.Before(began) {
			last = began
		}
		if silence := time.Since(last); silence >= selfFence {
			h.log.Warn("Redis has been away for too long: stopping what runs here", "silence", silence.Round(time.Second))
			h.worker.running.stop(errSelfFence)
			continue
		}
		look(ctx)
	}
}

// findOrphans gives jobs that wait and have lost their ticket another one.
func (h *host) findOrphans(ctx context.Context) {
	tick := time.NewTicker(orphanLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, err := h.store.Orphans(ctx, func(ctx context.Context, t job.Ticket, priority string, due time.Time) error {
			h.log.Warn("job had lost its ticket", "job", t.Job, "attempt", t.Attempt)
			h.metrics.reissued.Inc()
			return h.tickets.enqueue(ctx, t, priority, max(0, time.Until(due)))
		})
		if err != nil {
			h.log.Debug("open jobs could not be looked at", "found", n, "error", err) // they are looked at again
		}
	}
}

// takeOver gives the jobs of a dead host back to the queue. It is called with
// this host's own id too, for the jobs of an earlier life under the same name;
// the queue itself looks for the tickets of that one.
func (h *host) takeOver(ctx context.Context, dead string) {
	// The tickets first: once its jobs are taken over, a dead host is forgotten
	// and won't be found again.
	tickets := 0
	if dead != h.id {
		var err error
		if tickets, err = queue.Reclaim(ctx, h.redis, dead, queueNames()...); err != nil {
			h.log.Warn("tickets of a dead host are not given back yet", "dead", dead, "error", err)
			return
		}
	}
	jobs := 0
	err := h.hosts.Reclaim(ctx, dead, func(ctx context.Context, t job.Ticket, priority string, due time.Time) error {
		jobs++
		return h.tickets.enqueue(ctx, t, priority, max(0, time.Until(due)))
	})
	if dead != h.id {
		h.metrics.takenOver.Add(float64(jobs))
	}
	switch {
	case err != nil:
		h.log.Warn("jobs of a dead host are not all taken over yet", "dead", dead, "error", err)
	case dead != h.id:
		h.log.Info("took over from a dead host", "dead", dead, "jobs", jobs, "tickets", tickets)
	case jobs > 0:
		h.log.Info("took over from an earlier life of this host", "jobs", jobs)
	}
}

// failedBefore reports whether a task has been in the archive for a job that
// failed: somebody has it run again.
func failedBefore(i *asynq.Inspector, queue, task string) (bool, error) {
	info, err := i.GetTaskInfo(queue, task)
	switch {
	case errors.Is(err, asynq.ErrTaskNotFound), errors.Is(err, asynq.ErrQueueNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look up task %s: %w", task, err)
	}
	return strings.HasPrefix(info.LastErr, failedPrefix), nil
}

func queueNames() []string {
	names := make([]string, 0, 3)
	for name := range job.Queues() {
		names = append(names, name)
	}
	return names
}

// graceOf is the queue's word for host.grace, of which zero means at once.
func graceOf(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}

// makeID names a host that was given no name: by its machine, so that a log can
// be read, and by chance, so that no two incarnations share one.
func makeID() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "host"
	}
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, name)
	return clean[:min(len(clean), 48)] + "-" + strings.ToLower(rand.Text()[:8])
}

func settingsOf(m map[string]any) (sdk.Settings, error) {
	if len(m) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode settings: %w", err)
	}
	return sdk.Settings(b), nil
}
