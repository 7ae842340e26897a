package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
)

// A serving process listens on an abstract socket that is named after the
// device number of its mount. Whoever connects is told what the mount is, as
// one line of JSON, and sees the connection end when the process has ended: so
// umount returns when nothing of the mount is left. No file has to be cleaned
// up, whatever happens.

// life is what a serving process tells of its mount.
type life struct {
	Transport string    `json:"transport"`
	Stores    []lifeOne `json:"stores"`
	ReadOnly  bool      `json:"read_only"`
	Since     time.Time `json:"since"`
	Version   string    `json:"version"`
}

// lifeOne is one of its stores.
type lifeOne struct {
	Name string `json:"name,omitempty"`
	Kind string `json:"kind,omitempty"`
	Path string `json:"path"`
}

// maxLife bounds what is read of it in bytes.
const maxLife = 64 << 10

// lifePatience is how long one waits to be told.
const lifePatience = 2 * time.Second

// lifeOf describes a mount.
func lifeOf(a *app, st store.Store, srv *fusefs.Server, o mountOptions) life {
	l := life{Transport: string(srv.Transport()), ReadOnly: o.readOnly, Since: time.Now().UTC().Truncate(time.Second), Version: versionNumber()}
	if p, ok := st.(store.Parter); ok {
		for _, s := range p.Parts() {
			l.Stores = append(l.Stores, lifeOne{s.Name, s.Kind, s.Path})
		}
		return l
	}
	one := lifeOne{Kind: a.kind, Path: st.Root()}
	if specs, err := a.named(); err == nil && len(specs) == 1 {
		if specs, err = nameAll(specs); err == nil {
			one.Name = specs[0].name
		}
	}
	l.Stores = []lifeOne{one}
	return l
}

// lifeName is the socket's name for a mount with that device number.
func lifeName(major, minor int) string { return fmt.Sprintf("@imagefs-mount-%d-%d", major, minor) }

// announceLife tells others of the mount at dir, and lets them wait for the end of
// this process. Until then it listens: who has connected and is not accepted yet
// would else take the end of that for the end of the process.
func announceLife(dir string, what life) {
	m, err := mountAt(dir)
	if err != nil || m == nil {
		return
	}
	l, err := listenLife(m.Major, m.Minor)
	if err != nil {
		return
	}
	text, err := json.Marshal(what)
	if err != nil || len(text) >= maxLife {
		text = []byte("{}")
	}
	go tellLife(l, append(text, '\n'))
}

// maxWatchers bounds how many connections are kept; any user can make them.
const maxWatchers = 256

// tellLife tells a text to all who connect, and keeps the connections open.
func tellLife(l net.Listener, text []byte) {
	places := make(chan struct{}, maxWatchers)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
			go func() {
				defer func() { <-places }()
				watched(c, text)
			}()
		default:
			c.Close()
		}
	}
}

// watched serves one connection until the other side closes it, or this process
// ends. That it waits keeps the connection in use: one that nobody refers to would
// be closed with the garbage.
func watched(c net.Conn, text []byte) {
	defer c.Close()
	// It fits into an empty socket's buffer; who does not read does not matter.
	_ = c.SetWriteDeadline(time.Now().Add(lifePatience))
	if _, err := c.Write(text); err == nil {
		_, _ = c.Read(make([]byte, 1))
	}
}

// listenLife listens for a mount. The kernel gives a device number again as soon
// as a mount is gone, its process may take a moment more.
func listenLife(major, minor int) (l net.Listener, err error) {
	for end := time.Now().Add(lifePatience); ; time.Sleep(lifePatience / 100) {
		l, err = net.Listen("unix", lifeName(major, minor))
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

// askLife returns what the process that serves a mount says of it, and its
// process ID; false if none answers, and then the ID is 0 unless there is one that
// does not, which may be stopped.
func askLife(major, minor int, uid uint32) (l life, pid int, ok bool) {
	c, peer, err := dialLife(major, minor, uid)
	if err != nil {
		return l, 0, false
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(lifePatience))
	if err := json.NewDecoder(io.LimitReader(c, maxLife)).Decode(&l); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return life{}, int(peer.Pid), false
		}
		return life{}, 0, false
	}
	return l, int(peer.Pid), true
}

// dialLife connects to the process that serves a mount. Any user could listen
// there: only one with the user ID that the mount has is believed.
func dialLife(major, minor int, uid uint32) (net.Conn, *unix.Ucred, error) {
	c, err := net.Dial("unix", lifeName(major, minor))
	if err != nil {
		return nil, nil, err
	}
	peer, err := peerOf(c)
	if err == nil && peer.Uid != uid && peer.Uid != 0 {
		err = fmt.Errorf("user %d listens: %w", peer.Uid, unix.EACCES)
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, peer, nil
}

// peerOf returns who listens at the other end of a connection.
func peerOf(c net.Conn) (*unix.Ucred, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = inner
	}
	return cred, err
}

// watchLife connects to the process that serves a mount. The function that it
// returns waits until that has ended, or the time is over. Of a process that
// does not say that it lives, nothing is awaited.
func watchLife(major, minor int, uid uint32) (wait func(ctx context.Context, atMost time.Duration) bool) {
	c, _, err := dialLife(major, minor, uid)
	if err != nil {
		return func(context.Context, time.Duration) bool { return true }
	}
	return func(ctx context.Context, atMost time.Duration) bool {
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		_ = c.SetReadDeadline(time.Now().Add(atMost))
		_, err := io.Copy(io.Discard, c)
		// A process that ended before it took the connection has reset it.
		return err == nil || isReset(err)
	}
}

func isReset(err error) bool { return errors.Is(err, unix.ECONNRESET) }
