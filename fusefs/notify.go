package fusefs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/fusefs/conn"
)

// The kernel forgets a name with the directory's lock held, and a listing with
// that of its pages. A user who lists the directory into memory that is never
// there holds both as long as they like. So notices go out beside whoever has
// them to give, who waits for a moment only: a name that is forgotten late is
// soon forgotten by itself.

const (
	noticesAtOnce = 4                      // directories that notices are under way to
	noticeStuck   = 100 * time.Millisecond // after which one does not count as that any more
	noticeWait    = 300 * time.Millisecond // how long settle waits
)

// notices are what the kernel is still to be told.
type notices struct {
	mu    sync.Mutex
	dirs  map[nodeID]*dirNotices
	held  map[nodeID]int // requests under way that have a directory locked
	slots chan struct{}
}

// dirNotices are those of one directory.
type dirNotices struct {
	names map[string]struct{} // "": the listing
	waits bool                // until the directory is not held
	done  chan struct{}       // closed when all are told
}

func (n *notices) init() {
	n.dirs, n.held = map[nodeID]*dirNotices{}, map[nodeID]int{}
	n.slots = make(chan struct{}, noticesAtOnce)
}

// forgetEntry makes the kernel forget a name, soon.
func (f *fsys) forgetEntry(dir nodeID, name string) {
	if name != "" {
		f.notice(dir, name)
	}
}

// forgetList makes the kernel forget what it keeps of a directory, or of a file, soon.
func (f *fsys) forgetList(dir nodeID) { f.notice(dir, "") }

func (f *fsys) notice(dir nodeID, name string) {
	srv := f.conn.Load()
	if dir == 0 || srv == nil {
		return
	}
	n := &f.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.dirs[dir]
	if d == nil {
		d = &dirNotices{names: map[string]struct{}{}, done: make(chan struct{})}
		n.dirs[dir] = d
		if d.waits = n.held[dir] > 0; !d.waits {
			go f.tell(srv, dir, d)
		}
	}
	d.names[name] = struct{}{}
}

// held is a name that a request under way is about, in a directory that the
// kernel has locked for it.
type held struct {
	dir  nodeID
	name string
}

// hold keeps notices to directories back until the request has its answer. If
// it was done, the kernel knows by itself of the names that it was about: it
// must not forget a directory that somebody may be going into.
func (f *fsys) hold(at ...held) (release func(done bool)) {
	n := &f.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range at {
		n.held[h.dir]++
	}
	return func(done bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, h := range at {
			if n.held[h.dir]--; n.held[h.dir] == 0 {
				delete(n.held, h.dir)
			}
			d := n.dirs[h.dir]
			if d == nil {
				continue
			}
			if done {
				delete(d.names, h.name)
			}
			if srv := f.conn.Load(); d.waits && n.held[h.dir] == 0 && srv != nil {
				d.waits = false
				go f.tell(srv, h.dir, d)
			}
		}
	}
}

// tell gives the kernel the notices of a directory until there are none.
func (f *fsys) tell(srv *conn.Conn, dir nodeID, d *dirNotices) {
	n := &f.notices
	for {
		n.slots <- struct{}{}
		free := sync.OnceFunc(func() { <-n.slots })
		stuck := time.AfterFunc(noticeStuck, free)
		n.mu.Lock()
		names := d.names
		d.names = map[string]struct{}{}
		if len(names) == 0 {
			delete(n.dirs, dir)
			close(d.done)
		}
		n.mu.Unlock()
		for name := range names {
			if name == "" {
				srv.InodeNotify(uint64(dir), 0, 0)
			} else if st := srv.EntryNotify(uint64(dir), name); st != fuse.OK && st != fuse.ENOENT && st != fuse.ENODEV {
				f.log.Debug("invalidate", "dir", dir, "name", name, "status", st)
			}
		}
		stuck.Stop()
		free()
		if len(names) == 0 {
			return
		}
	}
}

// settle waits until the kernel knows what it is to be told, or for a moment.
func (f *fsys) settle() {
	n := &f.notices
	n.mu.Lock()
	var left []chan struct{}
	for dir, d := range n.dirs {
		if n.held[dir] == 0 {
			left = append(left, d.done)
		}
	}
	n.mu.Unlock()
	end := time.NewTimer(noticeWait)
	defer end.Stop()
	for _, done := range left {
		select {
		case <-done:
		case <-end.C:
			f.log.Warn("a directory cannot be brought up to date: somebody keeps it locked")
			return
		}
	}
}
