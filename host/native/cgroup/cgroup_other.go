//go:build !linux

package cgroup

import (
	"errors"
	"syscall"
)

// Parent is where groups are made.
type Parent struct{}

// Group is a group for one process and its children.
type Group struct{}

// Find finds where this process may make groups: nowhere.
func Find() (*Parent, error) { return nil, errors.New("there are no control groups on this system") }

// New makes a group.
func (*Parent) New(Limit) (*Group, error) {
	return nil, errors.New("there are no control groups on this system")
}

// Enter has a process begin its life in the group.
func (*Group) Enter(*syscall.SysProcAttr) {}

// Kill ends all processes of the group.
func (*Group) Kill() {}

// Overran reports whether the group's limit of memory has ended processes of it.
func (*Group) Overran() bool { return false }

// Remove ends the group.
func (*Group) Remove() {}
