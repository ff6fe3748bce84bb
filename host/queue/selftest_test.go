package queue

import "testing"

func TestTheLinkedAsynqIsRecognised(t *testing.T) {
	if err := recognised(); err != nil {
		t.Fatalf("asynq's scripts have changed; read their diff, adapt shape.go and exchange.lua, then takeSHA: %v", err)
	}
}

func TestAChangedDequeueIsNoticed(t *testing.T) {
	if err := selfTest("another hash"); err == nil {
		t.Fatal("a dequeue with an unknown hash was accepted")
	}
}
