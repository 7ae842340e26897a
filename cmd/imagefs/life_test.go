package main

import (
	"context"
	"net"
	"os"
	"testing"
	"time"
)

// A process may end before it has taken the connection of the one that waits
// for its end: that is an end too.
func TestWatchLifeOfOneThatNeverAccepts(t *testing.T) {
	major, minor := -1, os.Getpid()
	l, err := net.Listen("unix", lifeName(major, minor))
	if err != nil {
		t.Fatal(err)
	}
	wait := watchLife(major, minor)
	if wait(context.Background(), 10*time.Millisecond) {
		t.Error("it ended while it listened")
	}
	wait = watchLife(major, minor)
	l.Close()
	if !wait(context.Background(), 30*time.Second) {
		t.Error("its end was not seen")
	}
}

func TestWatchLifeOfNobody(t *testing.T) {
	if !watchLife(-2, os.Getpid())(context.Background(), 0) {
		t.Error("the end of nobody is awaited")
	}
}
