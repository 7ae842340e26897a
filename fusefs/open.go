package fusefs

import (
	"bytes"
	"io"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/store"
)

// passthroughSize is the size in bytes from which on the kernel reads a file
// itself. Below it, registering the file costs more than its one READ.
const passthroughSize = 128 << 10

// openFile is a file of a layer that is open, once however often it is open.
type openFile struct {
	id    nodeID
	layer *layerSlot
	uses  int // guarded by opens.mu

	ready   chan struct{} // closed when what follows is set
	file    store.File
	err     error
	backing int32 // of passthrough, 0 if the server reads
}

// opens are the open files of layers. The kernel wants one mode of reading and
// one backing file for an inode as long as it is open.
type opens struct {
	mu    sync.Mutex
	files map[nodeID]*openFile
	// noPassthrough is set once the kernel refuses it
	noPassthrough bool
}

func (o *opens) init() { o.files = map[nodeID]*openFile{} }

// open opens a layer's file, or finds it open.
func (f *fsys) open(id nodeID, l *layerSlot) (*openFile, error) {
	o := &f.opens
	o.mu.Lock()
	of, ok := o.files[id]
	if ok {
		of.uses++
		o.mu.Unlock()
		if <-of.ready; of.err != nil {
			f.release(of)
			return nil, of.err
		}
		return of, nil
	}
	of = &openFile{id: id, layer: l, uses: 1, ready: make(chan struct{})}
	o.files[id] = of
	refused := o.noPassthrough
	o.mu.Unlock()
	l.open.Add(1)
	of.err = f.guard("open", func() error {
		file, err := l.l.Open(f.life, id.ino())
		if err != nil {
			return err // file may be a nil of some type, which is not nil
		}
		l.opened(file)
		if of.file = file; !refused {
			of.backing = f.register(file)
		}
		return nil
	})
	close(of.ready)
	if of.err != nil {
		f.release(of)
		return nil, of.err
	}
	return of, nil
}

// register lets the kernel read the file itself; 0 if it does not.
func (f *fsys) register(file store.File) int32 {
	fd, ok := file.(store.FDer)
	srv := f.conn.Load()
	if !ok || file.Size() < passthroughSize || srv == nil || srv.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH == 0 {
		return 0
	}
	id, e := srv.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd.Fd())})
	if e != 0 {
		if e == syscall.EPERM || e == syscall.EOPNOTSUPP || e == syscall.ELOOP {
			f.opens.mu.Lock()
			f.opens.noPassthrough = true
			f.opens.mu.Unlock()
			f.log.Info("files are read through the server, not by the kernel itself", "err", e)
		}
		return 0
	}
	return id
}

// release ends one use of an open file.
func (f *fsys) release(of *openFile) {
	f.opens.mu.Lock()
	of.uses--
	last := of.uses == 0
	if last && f.opens.files[of.id] == of {
		delete(f.opens.files, of.id)
	}
	f.opens.mu.Unlock()
	if last {
		f.closeFile(of)
	}
}

func (f *fsys) closeFile(of *openFile) {
	of.layer.open.Add(-1)
	if srv := f.conn.Load(); of.backing != 0 && srv != nil {
		_ = srv.UnregisterBackingFd(of.backing)
	}
	if of.file != nil {
		of.file.Close()
	}
}

func (o *opens) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, of := range o.files {
		if <-of.ready; of.file != nil {
			of.file.Close()
		}
	}
	o.files = nil
}

// handle is what an open file or directory of the kernel stands for; one of its fields is set.
type handle struct {
	of     *openFile
	file   store.File // layer.tar, image.tar
	im     *image     // of file
	tar    nodeID     // of file
	anew   bool       // what the kernel has of file is to be read again
	text   []byte
	shared *changeList // that text is of
	pair   bool        // shared is of a pair
	ctl    ctlHandle
	events *eventsHandle
}

// content is what can be read.
func (h *handle) content() store.File {
	switch {
	case h.of != nil:
		return h.of.file
	case h.file != nil:
		return h.file
	}
	return textFile{bytes.NewReader(h.text)}
}

// textFile is a file whose content is in memory.
type textFile struct{ *bytes.Reader }

func (textFile) Close() error { return nil }

// handles gives out the numbers of open files and directories.
type handles struct {
	mu   sync.RWMutex
	byID map[uint64]*handle
	next uint64
}

func (t *handles) init() { t.byID = map[uint64]*handle{} }

func (t *handles) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	t.byID[t.next] = h
	return t.next
}

func (t *handles) get(fh uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[fh]
}

func (t *handles) take(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byID[fh]
	delete(t.byID, fh)
	return h
}

func (t *handles) closeAll(f *fsys) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.byID {
		f.closeHandle(h)
	}
	t.byID = map[uint64]*handle{}
}

// closeHandle frees what a handle holds.
func (f *fsys) closeHandle(h *handle) {
	if h == nil {
		return
	}
	if h.of != nil {
		f.release(h.of)
	}
	if h.file != nil {
		if h.closeTar() && f.stateless() {
			f.forgetList(h.tar) // nobody will open it
		}
	}
	if h.ctl != nil {
		h.ctl.release()
	}
	if h.pair {
		f.pairs.lists.close(h.shared)
	}
	if h.events != nil {
		f.closeEvents(h.events)
	}
}

// Open implements fuse.RawFileSystem.
func (f *fsys) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.stateless() {
		return fuse.ENOSYS
	}
	faults()
	id := nodeID(in.NodeId)
	if isCtlFile(id) {
		return f.openCtl(id, in, out)
	}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EPERM
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	if l, _, ok := f.small(id); ok {
		// READ finds it by its node; what is in the page cache needs none.
		l.open.Add(1)
		return fuse.OK
	}
	if id.kind() == kindSynth {
		if st := f.awaitPair(f.ctx(cancel, in.Pid), id, ""); st != fuse.OK {
			return st
		}
	}
	h, err := f.openNode(id)
	if err != nil {
		return f.status("open", id, err)
	}
	if h.of != nil && h.of.backing != 0 {
		out.BackingID = h.of.backing
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH
	}
	if h.anew {
		out.OpenFlags &^= fuse.FOPEN_KEEP_CACHE
	}
	out.Fh = f.handles.add(h)
	return fuse.OK
}

// openNode opens a file that is no control file.
func (f *fsys) openNode(id nodeID) (*handle, error) {
	if id.kind() != kindFile {
		return f.openSynth(id)
	}
	l := f.layers.get(id.layer())
	if l == nil || int(id.ino()) >= l.index.Inodes() {
		return nil, syscall.ESTALE
	}
	if id.opaque() || l.index.Stat(id.ino()).Size == 0 {
		return &handle{}, nil
	}
	of, err := f.open(id, l)
	return &handle{of: of}, err
}

// openSynth opens a file that is not of a layer.
func (f *fsys) openSynth(id nodeID) (*handle, error) {
	switch id.synthType() {
	case typeFixed:
		if id == readmeNode {
			return &handle{text: []byte(readme)}, nil
		}
	case typeStore:
		p, err := f.partOf(id)
		if err != nil || id.file() == 0 {
			return nil, syscall.EISDIR
		}
		return &handle{text: p.file(id.file())}, nil
	case typePair:
		return f.openPair(id)
	case typeText:
		if t := f.texts.get(id.slot()); t != nil {
			return f.openText(id, t)
		}
		return nil, syscall.ESTALE
	case typeImage:
		im, img, err := f.imageOf(f.life, id)
		if err != nil {
			return nil, err
		}
		if i := id.file(); i > 0 && i < len(imageFiles) && imageFiles[i].text != nil {
			return &handle{text: imageFiles[i].text(f, im, img)}, nil
		}
	case typeLayer:
		im, img, err := f.imageOf(f.life, id)
		if err != nil {
			return nil, err
		}
		n, file := id.file()>>layerBits, id.file()&(1<<layerBits-1)
		if n >= len(img.Layers()) {
			return nil, syscall.ENOENT
		}
		switch {
		case file == layerTar:
			t, err := img.Layers()[n].Tar(f.life)
			if err != nil {
				return nil, err
			}
			return im.openTar(id, t), nil
		case file == layerChanges:
			c, err := f.changes(im, img, n)
			if err != nil {
				return nil, err
			}
			return &handle{text: c.text, shared: c}, nil
		case file >= layerTexts && file-layerTexts < len(layerFiles):
			return &handle{text: layerFiles[file-layerTexts].text(img, n)}, nil
		}
	}
	return nil, syscall.EISDIR
}

// Read implements fuse.RawFileSystem.
func (f *fsys) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, st := f.ReadInto(cancel, in, buf)
	return fuse.ReadResultData(buf[:n]), st
}

// ReadInto implements conn.Reader.
func (f *fsys) ReadInto(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (n int, st fuse.Status) {
	faults()
	var err error
	if in.Fh == 0 {
		id := nodeID(in.NodeId)
		if id.kind() == kindSynth {
			if st := f.awaitPair(f.ctx(cancel, in.Pid), id, ""); st != fuse.OK {
				return 0, st
			}
		}
		n, err = f.read(id, buf, int64(in.Offset), cancel != nil || f.over == Dev)
	} else {
		h := f.handles.get(in.Fh)
		if h == nil || h.ctl != nil {
			return 0, fuse.EBADF
		}
		if h.events != nil {
			return h.events.read(cancel, in, buf)
		}
		n, err = h.content().ReadAt(buf, int64(in.Offset))
	}
	if err != nil && err != io.EOF {
		return 0, f.status("read", nodeID(in.NodeId), err)
	}
	return n, fuse.OK
}

// Lseek implements fuse.RawFileSystem: the kernel asks for holes and data only.
func (f *fsys) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	seek := func(c store.File) (err error) {
		out.Offset, err = seekIn(c, in.Offset, int(in.Whence))
		return err
	}
	var err error
	if in.Fh == 0 {
		err = f.use(nodeID(in.NodeId), seek)
	} else {
		h := f.handles.get(in.Fh)
		if h == nil || h.ctl != nil {
			return fuse.EBADF
		}
		err = seek(h.content())
	}
	if err == syscall.ENXIO {
		return fuse.Status(syscall.ENXIO)
	}
	if err != nil {
		return f.status("lseek", nodeID(in.NodeId), err)
	}
	return fuse.OK
}

// seekIn finds the next data or hole; ENXIO if there is none.
func seekIn(c store.File, off uint64, whence int) (uint64, error) {
	if fd, ok := c.(store.FDer); ok {
		n, err := unix.Seek(int(fd.Fd()), int64(off), whence)
		return uint64(n), err
	}
	switch size := uint64(c.Size()); {
	case off >= size:
		return 0, syscall.ENXIO
	case whence == unix.SEEK_HOLE:
		return size, nil
	}
	return off, nil
}

// Release implements fuse.RawFileSystem.
func (f *fsys) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh != 0 {
		f.closeHandle(f.handles.take(in.Fh))
	} else if l, _, ok := f.small(nodeID(in.NodeId)); ok {
		l.open.Add(-1)
	}
}
