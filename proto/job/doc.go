// Package job is the wire between gateway, Redis and host: the job record, its log of frames, the
// fenced append, cancel, following, liveness of hosts, and the tickets that asynq carries.
//
// The log of a job is the truth; pub/sub is only the fast path. Every frame is appended and published by one
// script, so a reader that missed a publication finds it in the log. seq counts all frames of a job from 1
// without gaps, across attempts; attempt counts executions from 1 and is the fence: an append by an older
// attempt is refused. Exactly one terminal frame is written per run of a job, in the same step as its terminal
// state, and a cancel that was accepted wins over everything that was not terminal before it.
//
// A host's side: [Store.Begin] a [Ticket], [Attempt.Append] events, [Attempt.Finish] or [Attempt.Release].
// A gateway's side: [Store.Create], [Queue.Enqueue], [Tail.Watch], [Store.Cancel].
//
// All names in Redis are in names.go; all scripts are .lua files beside their Go callers.
package job
