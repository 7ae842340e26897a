package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A serving process listens on an abstract socket that is named after the
// device number of its mount. Whoever connects is told nothing, and sees the
// connection end when the process has ended: so umount returns when nothing of
// the mount is left. No file has to be cleaned up, whatever happens.

// lifeName is the socket's name for a mount with that device number.
func lifeName(major, minor int) string { return fmt.Sprintf("@imagefs-mount-%d-%d", major, minor) }

// announceLife lets others wait for the end of this process.
func announceLife(dir string) io.Closer {
	m, err := mountAt(dir)
	if err != nil || m == nil {
		return io.NopCloser(nil)
	}
	l, err := net.Listen("unix", lifeName(m.Major, m.Minor))
	if err != nil {
		return io.NopCloser(nil)
	}
	go func() {
		for {
			// The connections stay open until the process ends.
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	return l
}

// watchLife connects to the process that serves a mount. The function that it
// returns waits until that has ended, or the time is over. Of a process that
// does not say that it lives, nothing is awaited.
func watchLife(major, minor int) (wait func(ctx context.Context, atMost time.Duration) bool) {
	c, err := net.Dial("unix", lifeName(major, minor))
	if err != nil {
		return func(context.Context, time.Duration) bool { return true }
	}
	return func(ctx context.Context, atMost time.Duration) bool {
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		_ = c.SetReadDeadline(time.Now().Add(atMost))
		_, err := c.Read(make([]byte, 1))
		// A process that ended before it took the connection has reset it.
		return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)
	}
}
