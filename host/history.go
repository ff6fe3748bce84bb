package host

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sluicehq/sluice/proto/job"
)

// history reads from a job's log how often the job has failed since it was last
// started afresh, and how many of those failures were to move it on to its next
// model. The log is the only place that every host can see and that can't
// disagree with what the client was told.
func (w *worker) history(ctx context.Context, id string) (failures, turn int, err error) {
	const page = 512
	for after := int64(0); ; {
		frames, _, err := w.store.Read(ctx, id, after, page)
		if err != nil {
			return 0, 0, fmt.Errorf("read the log: %w", err)
		}
		for _, f := range frames {
			after = f.Seq
			switch f.Event {
			case job.EventError: // it is being run again
				failures, turn = 0, 0
			case job.EventProgress:
				var p job.Progress
				if err := json.Unmarshal(f.Data, &p); err != nil {
					continue
				}
				if p.Status == statusRetrying {
					turn++
				}
				if !p.Spared && (p.Status == statusRetrying || p.Status == statusLimited) {
					failures++
				}
			}
		}
		if len(frames) < page {
			return failures, turn, nil
		}
	}
}
