package host

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/sluicehq/sluice/proto/job"
	"github.com/sluicehq/sluice/sdk"
)

// aside is for how long a host takes nothing from a queue into which it has put
// back a ticket that is another host's: about what that one needs to take it.
const aside = 15 * time.Millisecond

// others is what a host needs to know of hosts that serve other models than it
// does itself. All of them take from the same queues, so a ticket may come to
// one that can't use it; that one puts it back, and stands aside for a moment.
// Safe for concurrent use.
type others struct {
	id    string
	hosts *job.Hosts
	wake  func(queue string)

	mu    sync.Mutex
	until map[string]time.Time // by queue
}

func newOthers(id string, hosts *job.Hosts) *others {
	return &others{id: id, hosts: hosts, until: map[string]time.Time{}}
}

// serve reports whether another live host serves model.
func (o *others) serve(ctx context.Context, model string) (bool, error) {
	list, err := o.hosts.List(ctx)
	if err != nil {
		return false, err
	}
	for _, other := range list {
		if other.ID == o.id {
			continue
		}
		for _, m := range other.Models {
			if (sdk.Model{Name: m.Name}).Matches(model) {
				return true, nil
			}
		}
	}
	return false, nil
}

// giveWay lets the other hosts have the next go at a queue. A job that has been
// passed around for long finds its host busy: it is passed on more slowly.
func (o *others) giveWay(ctx context.Context, queue string, attempt int64) {
	if attempt > 8 {
		sleep(ctx, min(time.Duration(attempt-8)*20*time.Millisecond, time.Second))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.until[queue] = time.Now().Add(aside)
	time.AfterFunc(aside, func() { o.wake(queue) })
}

// admit is asked by the queue how many tickets may be taken.
func (o *others) admit(queue string, _ int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Now().Before(o.until[queue]) {
		return 0
	}
	return math.MaxInt32
}
