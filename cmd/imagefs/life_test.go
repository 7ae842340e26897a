package main

import (
	"context"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store/storetest"
)

// A process may end before it has taken the connection of the one that waits
// for its end: that is an end too.
func TestWatchLifeOfOneThatNeverAccepts(t *testing.T) {
	major, minor := -1, os.Getpid()
	l, err := net.Listen("unix", lifeName(major, minor))
	if err != nil {
		t.Fatal(err)
	}
	wait := watchLife(major, minor, uint32(os.Geteuid()))
	if wait(context.Background(), 10*time.Millisecond) {
		t.Error("it ended while it listened")
	}
	wait = watchLife(major, minor, uint32(os.Geteuid()))
	l.Close()
	if !wait(context.Background(), 30*time.Second) {
		t.Error("its end was not seen")
	}
}

// Who waits is not told of an end by the collector of garbage.
func TestWatchLifeStays(t *testing.T) {
	major, minor := -3, os.Getpid()
	l, err := net.Listen("unix", lifeName(major, minor))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go tellLife(l, []byte("{}\n"))
	wait := watchLife(major, minor, uint32(os.Getuid()))
	if _, _, ok := askLife(major, minor, uint32(os.Getuid())); !ok { // so that the first was taken
		t.Fatal("nobody answers")
	}
	runtime.GC()
	runtime.GC()
	if wait(context.Background(), 200*time.Millisecond) {
		t.Error("it ended while it lived")
	}
}

// Connections are given back, and not kept beyond a bound.
func TestManyWatchers(t *testing.T) {
	major, minor := -4, os.Getpid()
	l, err := net.Listen("unix", lifeName(major, minor))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go tellLife(l, []byte("{}\n"))
	var held []net.Conn
	for range maxWatchers {
		c, err := net.Dial("unix", lifeName(major, minor))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if _, _, ok := askLife(major, minor, uint32(os.Getuid())); ok {
		t.Error("one more than the bound was served")
	}
	for _, c := range held {
		c.Close()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, _, ok := askLife(major, minor, uint32(os.Getuid())); ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal("nobody is served any more")
		}
	}
}

func TestWatchLifeOfNobody(t *testing.T) {
	if !watchLife(-2, os.Getpid(), 0)(context.Background(), 0) {
		t.Error("the end of nobody is awaited")
	}
}

// Anybody can listen under that name: the end of another user's process is not awaited.
func TestWatchLifeOfAnother(t *testing.T) {
	storetest.NeedRoot(t) // who else would be another?
	major, minor := -3, os.Getpid()
	l := listenAs(t, 65534, lifeName(major, minor))
	defer l.Close()
	if !watchLife(major, minor, uint32(os.Geteuid()))(context.Background(), 10*time.Millisecond) {
		t.Error("another user's end is awaited")
	}
	if watchLife(major, minor, 65534)(context.Background(), 10*time.Millisecond) {
		t.Error("the end of the mount's user is not awaited")
	}
}

// listenAs listens as another user: the kernel tells those who connect whose thread it was.
func listenAs(t *testing.T, uid int, name string) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	euid := func(uid int) {
		// By the system call itself, which concerns this thread alone.
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			t.Fatal(e)
		}
	}
	was := os.Geteuid()
	euid(uid)
	defer euid(was)
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
