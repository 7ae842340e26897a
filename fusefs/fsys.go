package fusefs

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
	"imagefs/fusefs/ctl"
	"imagefs/fusefs/events"
	"imagefs/overlay"
	"imagefs/store"
)

// fsys is the file system: the RawFileSystem that go-fuse calls.
type fsys struct {
	fuse.RawFileSystem
	st      store.Store
	ctl     *ctl.Ctl
	o       Options
	log     *slog.Logger
	life    context.Context           // ends with the mount
	work    sync.WaitGroup            // of what goes on beside requests, until then
	conn    atomic.Pointer[conn.Conn] // with the kernel; nil before it is mounted
	over    Transport                 // of conn
	uid     uint32
	gid     uint32
	started time.Time

	retireAfter time.Duration
	emptyFor    time.Duration
	dir         string // where it is mounted, absolute

	views  table[view]         // of images and their layers
	layers interned[layerSlot] // by store.Layer.Key
	images interned[image]     // by image ID
	repos  interned[repo]      // by repo.key
	parts  interned[string]    // by name of a store
	pairs  pairs
	// partViews are those of compared images
	partViews reused[view]
	algs      interned[string] // by algorithm of a digest
	links     interned[link]   // by where it is and where it leads

	ending sync.RWMutex // held for reading by what later does

	using      sync.Mutex // guards which views use which layers
	refreshing sync.Mutex // one refresh at a time
	rechecking atomic.Bool
	snap       atomic.Pointer[snapshot]

	kept kept // empty directories of names

	texts interned[volatileText] // by image, file and content
	// partTexts keeps the texts of stores/, as an image keeps its own
	partTexts image

	opens   opens
	handles handles
	readers readers
	ahead   ahead
	helpers atomic.Int32 // readers who push
	trim    trim
	rare    rare

	history   *events.Log
	followers atomic.Int64 // of history, open
	waiting   atomic.Int64 // reads of it that may wait
	told      events.View  // what history is up to; guarded by refreshing

	listings listings
	notices  notices
}

// stateless tells whether the kernel is told that files need not be opened:
// where there are no control files, whose writers must be told apart, and
// passthrough, which is agreed on when a file is opened, was not asked for.
func (f *fsys) stateless() bool { return f.o.ReadOnly && !f.o.Passthrough }

func newFS(life context.Context, st store.Store, o Options) (*fsys, error) {
	f := &fsys{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		st:            st, o: o, log: o.Log, life: life,
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
		started: time.Now(), retireAfter: retireAfter, emptyFor: emptyFor,
	}
	f.ctl = ctl.New(st, ctl.Options{Loader: o.Loader, Importer: o.Importer, Changed: f.refresh, InUse: f.inUse, Log: o.Log})
	f.opens.init()
	f.handles.init()
	f.notices.init()
	f.pairs.init()
	f.partViews.limit = maxViews
	s, err := f.look(nil)
	if err != nil {
		return nil, err
	}
	f.snap.Store(s)
	f.history = events.NewLog()
	f.told = events.View{IDs: s.ids, Names: s.names}
	return f, nil
}

// close frees what the kernel did not release, after the last request.
func (f *fsys) close() {
	// What is done later has seen the end, or is waited for.
	f.ending.Lock()
	defer f.ending.Unlock()
	f.handles.closeAll(f)
	f.readers.drop(f, func(nodeID) bool { return true })
	f.opens.closeAll()
}

func (f *fsys) String() string { return "imagefs" }

// ctx is the context of a request that an interrupt of its caller ends.
// tid is the caller's thread.
func (f *fsys) ctx(cancel <-chan struct{}, tid uint32) context.Context {
	return &requestContext{f.life, cancel, tid}
}

// requestContext adds a request's cancel channel to the mount's context.
type requestContext struct {
	context.Context
	cancel <-chan struct{}
	tid    uint32
}

func (c *requestContext) Done() <-chan struct{} { return c.cancel }
func (c *requestContext) Err() error {
	select {
	case <-c.cancel:
		return context.Canceled
	default:
		return c.Context.Err()
	}
}

// setAttr fills in what a layer tells of an inode.
func setAttr(out *fuse.Attr, id nodeID, a *overlay.Attr) {
	out.Ino = uint64(id)
	out.Size = a.Size
	out.Blocks = a.Blocks
	out.Atime, out.Mtime, out.Ctime = uint64(a.Sec), uint64(a.Sec), uint64(a.Sec)
	out.Atimensec, out.Mtimensec, out.Ctimensec = a.Nsec, a.Nsec, a.Nsec
	out.Mode = a.Mode
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Rdev = a.Rdev
	out.Blksize = 4096
}

func setEntryTime(out *fuse.EntryOut, entry, attr time.Duration) {
	out.EntryValid, out.EntryValidNsec = uint64(entry/time.Second), uint32(entry%time.Second)
	out.AttrValid, out.AttrValidNsec = uint64(attr/time.Second), uint32(attr%time.Second)
}

// Lookup implements fuse.RawFileSystem.
func (f *fsys) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	faults()
	id := nodeID(h.NodeId)
	switch id.kind() {
	case kindDir:
		return f.viewLookup(id, name, out)
	case kindPart:
		return f.partLookup(f.ctx(cancel, h.Pid), id, name, out)
	case kindSynth:
		ctx := f.ctx(cancel, h.Pid)
		if st := f.awaitPair(ctx, id, name); st != fuse.OK {
			return st
		}
		return f.synthLookup(ctx, id, name, out)
	}
	return fuse.ENOTDIR
}

// GetAttr implements fuse.RawFileSystem.
func (f *fsys) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	faults()
	id := nodeID(in.NodeId)
	if in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		f.seeksEnd(in.Fh())
	}
	switch id.kind() {
	case kindDir, kindFile, kindPart:
		a, st := f.layerAttr(id)
		if st != fuse.OK {
			return st
		}
		setAttr(&out.Attr, id, &a)
		out.SetTimeout(forever)
		return fuse.OK
	}
	ctx := f.ctx(cancel, in.Pid)
	if st := f.awaitPair(ctx, id, ""); st != fuse.OK {
		return st
	}
	n, err := f.synthNode(ctx, id)
	if err != nil {
		return f.status("stat", id, err)
	}
	n.attr(f, &out.Attr)
	out.SetTimeout(n.valid)
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem, for control files only.
func (f *fsys) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	id := nodeID(in.NodeId)
	if !isCtlFile(id) {
		return fuse.EPERM
	}
	allowed := uint32(fuse.FATTR_SIZE | fuse.FATTR_FH | fuse.FATTR_LOCKOWNER | fuse.FATTR_KILL_SUIDGID |
		fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW | fuse.FATTR_CTIME | fuse.FATTR_ATIME | fuse.FATTR_ATIME_NOW)
	if ctlFiles[id-ctlFirst].stream != nil {
		// cp -p gives the copy the file's mode and owner when all of it was taken in. They
		// mean nothing here, and an error would say that the load had failed.
		allowed |= fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID
	}
	if in.Valid&^allowed != 0 {
		return fuse.EPERM
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		if st := f.truncate(cancel, in); st != fuse.OK {
			return st
		}
	}
	n, err := f.synthNode(f.life, id)
	if err != nil {
		return f.status("setattr", id, err)
	}
	n.attr(f, &out.Attr)
	return fuse.OK
}

// truncate cuts a control file, or extends one that is being written.
func (f *fsys) truncate(cancel <-chan struct{}, in *fuse.SetAttrIn) fuse.Status {
	var h *handle
	if in.Valid&fuse.FATTR_FH != 0 {
		h = f.handles.get(in.Fh)
	}
	switch {
	case h != nil && h.ctl != nil:
		ctx, done := f.command(cancel, in.Pid)
		defer done()
		return fuse.Status(errno(h.ctl.truncate(ctx, in.Size)))
	case in.Size != 0:
		return fuse.EINVAL
	}
	return fuse.OK
}

// Readlink implements fuse.RawFileSystem.
func (f *fsys) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	faults()
	id := nodeID(h.NodeId)
	switch id.kind() {
	case kindFile:
		l := f.layers.get(id.layer())
		if l == nil {
			return nil, fuse.Status(syscall.ESTALE)
		}
		return bytesOf(l.index.Readlink(id.ino())), fuse.OK
	case kindSynth:
		if t, ok := f.synthTarget(id); ok {
			return []byte(t), fuse.OK
		}
	}
	return nil, fuse.EINVAL
}

// StatFs implements fuse.RawFileSystem, with the figures of the file system that the store lies on.
func (f *fsys) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	var st unix.Statfs_t
	root := f.st.Root()
	if p, ok := f.st.(store.Parter); ok && root == "" {
		root = p.Parts()[0].Store.Root()
	}
	if root != "" && unix.Statfs(root, &st) == nil {
		out.Bsize, out.Frsize = uint32(st.Bsize), uint32(st.Frsize)
		out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
		out.Files, out.Ffree = st.Files, st.Ffree
	}
	return fuse.OK
}

// Access implements fuse.RawFileSystem: the kernel checks permissions.
func (f *fsys) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Forget implements fuse.RawFileSystem: node IDs are made by construction, but
// there may be too many pairs of images to keep all.
func (f *fsys) Forget(nodeid, nlookup uint64) {
	if id := nodeID(nodeid); id.kind() == kindSynth && id.synthType() == typePair {
		f.forgot(id, nlookup)
	}
}
