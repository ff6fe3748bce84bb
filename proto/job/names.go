package job

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"strconv"
)

// All Redis keys and channels of this package. The keys of one job carry the hash tag {job:<id>}, so that they
// share a slot with each other and, hashed as a name, with the channel job:<id>.

// Keys.
const (
	// hash: host id -> HostInfo as JSON. Entries are deleted when their host withdraws or is reclaimed;
	// the key expires an hour after the last heartbeat.
	hostsInfoKey = "{sluice:hosts}:info"
	// zset: host id -> time of its last heartbeat in ms, by Redis's clock as the host knows it. Same owner and expiry as
	// hostsInfoKey.
	hostsBeatKey = "{sluice:hosts}:beat"
	// zset: gateway -> Redis time of its last heartbeat in ms. Entries are deleted when their gateway stops, or has been
	// silent for seatsGone; the key expires an hour after the last heartbeat.
	gatewaysKey = "{sluice:gateways}:beat"
	// string that never exists, for Writable.
	probeKey = "sluice:probe"
)

// metaKey: hash. State, fence, position, owner, times and request of a job.
// Expires Options.TTL after the last frame.
func metaKey(id string) string { return "sluice:{job:" + id + "}:meta" }

// logKey: stream. One entry per frame, entry id <seq>-0, field f = the frame. Expires with metaKey.
func logKey(id string) string { return "sluice:{job:" + id + "}:log" }

// startsKey: zset, job id -> Redis time of its start in ms. The starts of one user in the last minute, for Admit.
// Expires a minute after the last one.
func startsKey(owner string) string { return "sluice:user:{" + ownerTag(owner) + "}:starts" }

// openJobsKey: zset, job id -> Redis time of its start in ms. The jobs of one user that had not ended when somebody
// looked last, for Admit. Expires Options.TTL after the last start.
func openJobsKey(owner string) string { return "sluice:user:{" + ownerTag(owner) + "}:jobs" }

// seatsKey: hash, gateway -> sockets that one user has there. Entries are deleted when there is none left, and those of
// gateways that are gone by whoever looks; the key expires seatsTTL after the last word of a gateway.
func seatsKey(owner string) string { return "sluice:user:{" + ownerTag(owner) + "}:seats" }

// ownerTag stands for an owner in keys: users have names of any characters.
func ownerTag(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return hex.EncodeToString(sum[:12])
}

// openKey: zset, job id -> Unix time in ms at which to look whether the job still has a ticket. One of openShards, by
// the id. Entries are deleted by whoever looks and finds that the job has ended; the key expires Options.TTL after the
// last entry.
func openKey(id string) string { return openShardKey(int(crc32.ChecksumIEEE([]byte(id)) % openShards)) }

func openShardKey(shard int) string { return "{sluice:open:" + strconv.Itoa(shard) + "}" }

func openShardKeys() []string {
	keys := make([]string, openShards)
	for i := range keys {
		keys[i] = openShardKey(i)
	}
	return keys
}

const openShards = 4

// taskKey: hash, asynq's own. It is there while asynq knows the task, in whatever state.
func taskKey(queue, task string) string { return "asynq:{" + queue + "}:t:" + task }

// pendingKey: list, asynq's own. The ids of the tasks that wait for a host; the next one is at the right end.
func pendingKey(queue string) string { return "asynq:{" + queue + "}:pending" }

// hostJobsKey: set of task ids. The attempts a host runs, for whoever reclaims it. Entries are deleted when
// the attempt ends; the key expires Options.TTL after the last Begin.
func hostJobsKey(host string) string { return "sluice:host:{" + host + "}:jobs" }

// Channels.
const (
	// CancelChannel carries the ids of running jobs that were cancelled; hosts listen.
	CancelChannel = "sluice:cancel"
	// WakeChannel carries the asynq queue name of a ticket just enqueued (not on Cluster: ShardWakeChannel).
	WakeChannel = "sluice:wake"

	// General channels: the frames of all jobs, for legacy consumers and monitors, and what legacy workers
	// publish without seq.
	ChunkChannel    = "model:chunk"    // model:start, model:chunk, model:delta
	CompleteChannel = "model:complete" // model:complete, model:error, task:cancelled
	ProgressChannel = "job:progress"   // task:progress

	jobChannelPrefix  = "job:"
	userChannelPrefix = "sluice:user:"
	aliveChannelStart = "sluice:alive:"
)

// Channel carries every frame of one job as it is appended.
func Channel(id string) string { return jobChannelPrefix + id }

// UserChannel carries the job:started frames of one user to all gateways; owner is Owner(tenant, user).
func UserChannel(owner string) string { return userChannelPrefix + owner }

// ShardWakeChannel is the wake channel of one asynq queue on Cluster, published with SPUBLISH: its hash tag is
// the one of the queue's keys, so it can't overtake the enqueue in the same pipeline.
func ShardWakeChannel(queue string) string { return "sluice:wake:{" + queue + "}" }

// aliveChannel is held subscribed by a living host: the kernel closes the connection when its process dies.
func aliveChannel(host string) string { return aliveChannelStart + host }

// asynq names.
const (
	// TaskType is the asynq task type of a ticket.
	TaskType = "llm:generate"

	QueueHigh    = "sluice:high"
	QueueDefault = "sluice:default"
	QueueLow     = "sluice:low"
)

// QueueName is the asynq queue of a priority: "high", "low", anything else is the default.
func QueueName(priority string) string {
	switch priority {
	case PriorityHigh:
		return QueueHigh
	case PriorityLow:
		return QueueLow
	}
	return QueueDefault
}

// Queues are all asynq queues with the weights a host gives them.
func Queues() map[string]int { return map[string]int{QueueHigh: 6, QueueDefault: 3, QueueLow: 1} }
