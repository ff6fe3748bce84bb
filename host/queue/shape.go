package queue

import "strings"

// A step is what one of asynq's scripts does, as told by its KEYS.
type step int

const (
	stepOther    step = iota
	stepTake          // pending, paused, active, lease
	stepEnd           // active, lease, …: Done, MarkAsComplete, Requeue; or task, active, lease, …: Archive
	stepRetry         // task, active, lease, retry, …
	stepForward       // scheduled or retry, pending
	stepEnqueue       // task, pending; or unique, task, pending
	stepSchedule      // task, scheduled; or unique, task, scheduled
)

func (s step) String() string {
	return [...]string{"other", "take", "end", "retry", "forward", "enqueue", "schedule"}[s]
}

// shape recognises a script of asynq and the queue it works on.
func shape(keys []string) (s step, queue string) {
	if len(keys) < 2 || len(keys) > 9 {
		return stepOther, ""
	}
	var buf [9]string
	k := buf[:0]
	for _, key := range keys {
		q, name := cut(key)
		if q == "" || queue != "" && q != queue {
			return stepOther, ""
		}
		queue, k = q, append(k, name)
	}
	switch {
	case len(k) == 4 && k[0] == "pending" && k[1] == "paused" && k[2] == "active" && k[3] == "lease":
		return stepTake, queue
	case len(k) >= 4 && k[0] == "active" && k[1] == "lease":
		return stepEnd, queue
	case len(k) >= 8 && isTask(k[0]) && k[1] == "active" && k[2] == "lease" && k[3] == "retry":
		return stepRetry, queue
	case len(k) >= 8 && isTask(k[0]) && k[1] == "active" && k[2] == "lease" && k[3] == "archived":
		return stepEnd, queue
	case len(k) == 2 && (k[0] == "scheduled" || k[0] == "retry") && k[1] == "pending":
		return stepForward, queue
	case len(k) <= 3 && isTask(k[len(k)-2]) && k[len(k)-1] == "pending":
		return stepEnqueue, queue
	case len(k) <= 3 && isTask(k[len(k)-2]) && k[len(k)-1] == "scheduled":
		return stepSchedule, queue
	}
	return stepOther, ""
}

func isTask(name string) bool { return strings.HasPrefix(name, "t:") }

// cut splits a key of asynq, "asynq:{queue}:name", into its queue and the rest;
// the queue is empty when it isn't one.
func cut(key string) (queue, name string) {
	rest, ok := strings.CutPrefix(key, "asynq:{")
	if !ok {
		return "", ""
	}
	queue, name, ok = strings.Cut(rest, "}:")
	if !ok {
		return "", ""
	}
	return queue, name
}

// keyOf is the inverse of cut.
func keyOf(queue, name string) string { return "asynq:{" + queue + "}:" + name }

// takeKeys are the keys of asynq's script for taking a task.
func takeKeys(queue string) []string {
	return []string{keyOf(queue, "pending"), keyOf(queue, "paused"), keyOf(queue, "active"), keyOf(queue, "lease")}
}
