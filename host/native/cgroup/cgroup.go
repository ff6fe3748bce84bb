// Package cgroup puts processes into control groups of their own, in which the kernel keeps limits of
// memory, processes and threads at every moment, and ends all of them together, whatever they have
// become.
//
// It needs version 2 of control groups, and one that this process may divide: a service of systemd
// with Delegate=yes, or a container whose groups can be written to. See
// https://docs.kernel.org/admin-guide/cgroup-v2.html.
package cgroup

// Limit is what the processes of a group may have together.
type Limit struct {
	Memory int64 // bytes: theirs, the kernel's for them, and of files they read, which it takes back first
	Tasks  int64 // processes and threads
}
