package fusefs

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/fusefs/conn"
	"imagefs/fusefs/dev"
	"imagefs/fusefs/uring"
)

// Transport is what requests and answers go over.
type Transport string

// The transports.
const (
	Auto    Transport = "auto"     // io_uring where the kernel has it switched on, else the device
	Dev     Transport = "dev"      // /dev/fuse, on every kernel
	IOUring Transport = "io_uring" // see package uring
)

// ParseTransport returns the transport of a name; the error lists them.
func ParseTransport(name string) (Transport, error) {
	all := []Transport{Auto, Dev, IOUring}
	var names []string
	for _, t := range all {
		if string(t) == name {
			return t, nil
		}
		names = append(names, string(t))
	}
	return "", fmt.Errorf("there is no transport %q, there are %s", name, strings.Join(names, ", "))
}

// server is a mounted file system that is served.
type server interface {
	Serve()           // until the tree is unmounted
	WaitMount() error // until the tree can be used by this process
}

var (
	_ server = (*dev.Server)(nil)
	_ server = (*uring.Server)(nil)
)

// attach mounts the file system at dir, over the transport that was asked for or that is best.
func (f *fsys) attach(dir string) (server, Transport, error) {
	o := conn.Options{Quick: f.quick, Apart: f.o.Poll}
	if f.o.Poll && !f.o.ReadOnly {
		o.Poll = f.poll
	}
	connected := func(over Transport) func(*conn.Conn) {
		return func(c *conn.Conn) { f.over = over; f.conn.Store(c) }
	}
	if f.o.Transport != Dev {
		o.Connected = connected(IOUring)
		s, err := uring.New(f, dir, f.mountOptions(), o)
		if err == nil {
			return s, IOUring, nil
		}
		if f.o.Transport == IOUring || !errors.Is(err, uring.ErrUnavailable) {
			return nil, "", err
		}
		// That it is off, or that there is none, is how most machines are.
		level := slog.LevelInfo
		if errors.Is(err, uring.ErrOff) || errors.Is(err, uring.ErrNone) {
			level = slog.LevelDebug
		}
		f.log.Log(f.life, level, "requests go over /dev/fuse", "why", err)
	}
	o.Connected = connected(Dev)
	s, err := dev.New(f, dir, f.mountOptions(), o)
	if err != nil {
		return nil, "", err
	}
	return s, Dev, nil
}

// quick tells whether a request is answered from memory, or by one look at a layer's file.
func (f *fsys) quick(h *fuse.InHeader) bool {
	kind := nodeID(h.NodeId).kind()
	switch h.Opcode {
	case conn.OpLookup, conn.OpReaddir, conn.OpReaddirplus:
		return kind == kindDir
	case conn.OpGetattr, conn.OpGetxattr, conn.OpListxattr:
		return kind == kindDir || kind == kindFile
	case conn.OpReadlink, conn.OpRelease:
		return kind == kindFile
	case conn.OpOpen, conn.OpRead:
		if kind != kindFile {
			return false
		}
		id := nodeID(h.NodeId)
		l := f.layers.get(id.layer())
		switch {
		case l == nil:
			return true
		case l.slow.Load():
			return false
		case h.Opcode == conn.OpOpen, f.over == Dev, !l.readOn.Load(), int(id.ino()) >= l.index.Inodes():
			return true
		}
		return l.index.Stat(id.ino()).Size > aheadSize // else it may wait for a push
	}
	return false
}
