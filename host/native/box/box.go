// Package box locks a child process in, as far as the kernel allows: namespaces of its own with a
// root that holds only what it needs, Landlock, a system call filter, no new privileges, resource
// limits.
//
// The work is done between fork and exec of the child, by this very program: it starts itself
// again under a name that only [Level.Wrap] uses, and the init function of this package then
// prepares the box and executes the child. So every program that links this package can do it, and
// none can forget to, which would run the whole program again in place of the child.
package box

import (
	"fmt"
	"slices"
	"strings"
)

// The guarantees a box can give. An operator may require them, by these names.
const (
	Network   = "network"   // no socket of the internet, or of any other network
	Files     = "files"     // no file but those it was given
	Processes = "processes" // it sees, touches and outlives no process but its own
	Sockets   = "sockets"   // no unix socket but those in its directory and those it makes: no service of this machine
	Memory    = "memory"    // at no moment more memory than its limit
	Tasks     = "tasks"     // at no moment more processes and threads than its limit
)

// Guarantees lists the names of all guarantees.
func Guarantees() []string { return []string{Network, Files, Processes, Sockets, Memory, Tasks} }

// Level is what a box is made of on this machine. The zero value is no box at all.
type Level struct {
	Namespaces bool `json:"namespaces"` // own user, process, network, mount and IPC namespaces
	Root       bool `json:"root"`       // a root directory that holds only what it was given
	Landlock   int  `json:"landlock"`   // the version of the kernel's Landlock that is in use
	Seccomp    bool `json:"seccomp"`    // a filter of system calls
	Limits     bool `json:"limits"`     // resource limits, no new privileges
	Tasks      bool `json:"tasks"`      // and among them one of processes and threads, which root's don't have
	Cgroup     bool `json:"cgroup"`     // a control group with limits of memory, processes and threads; see package cgroup
}

// Gives reports whether the box gives a guarantee.
func (l Level) Gives(guarantee string) bool {
	switch guarantee {
	case Network:
		return l.Namespaces || l.Seccomp
	case Files:
		return l.Root || l.Landlock > 0
	case Processes:
		return l.Namespaces
	case Sockets:
		// Landlock knows abstract names only, seccomp no names at all.
		return l.Namespaces && l.Root
	case Memory:
		return l.Cgroup
	case Tasks:
		return l.Cgroup || l.Namespaces && l.Limits && l.Tasks
	}
	return false
}

// Held lists the guarantees that the box gives.
func (l Level) Held() []string {
	return slices.DeleteFunc(Guarantees(), func(g string) bool { return !l.Gives(g) })
}

// Check fails when the box lacks one of the required guarantees.
func (l Level) Check(required []string) error {
	for _, g := range required {
		if !slices.Contains(Guarantees(), g) {
			return fmt.Errorf("there is no guarantee %q of a box: %s", g, strings.Join(Guarantees(), ", "))
		}
		if !l.Gives(g) {
			return fmt.Errorf("its box must guarantee %q, which this machine can't: it has %s", g, l)
		}
	}
	return nil
}

// String names what the box is made of.
func (l Level) String() string {
	var parts []string
	if l.Namespaces {
		parts = append(parts, "namespaces")
	}
	if l.Root {
		parts = append(parts, "own root")
	}
	if l.Landlock > 0 {
		parts = append(parts, fmt.Sprintf("landlock %d", l.Landlock))
	}
	if l.Seccomp {
		parts = append(parts, "seccomp")
	}
	if l.Limits {
		parts = append(parts, "limits")
	}
	if l.Cgroup {
		parts = append(parts, "control group")
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Spec is what a box holds.
type Spec struct {
	Path  string   // of the program, absolute
	Dir   string   // its working directory, absolute: sockets can be made in it, and nothing written
	Files []string // absolute paths it may read and execute besides, with all below; those not there are left out
	Limit Limit
}

// Limit are resource limits, as setrlimit(2) has them. Zero sets none.
type Limit struct {
	// Data is bytes of private memory that can be written to; see RLIMIT_DATA. The other limit of memory,
	// RLIMIT_AS, is of no use here: it counts addresses too that were only set aside, and the runtimes of
	// Go and JavaScript set aside many times what they ever use.
	Data  int64
	Files int64 // open at the same time
	Tasks int64 // processes and threads; only where the box has a user namespace, as they are counted by user
}

// RootDir is the name of a directory which [Level.Wrap] needs in Spec.Dir.
const RootDir = "root"
