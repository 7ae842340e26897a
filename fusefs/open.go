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
	of.file, of.err = l.l.Open(f.life, id.ino())
	if of.err == nil && !refused {
		of.backing = f.register(of.file)
	}
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
	srv := f.srv.Load()
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
	if srv := f.srv.Load(); of.backing != 0 && srv != nil {
		srv.UnregisterBackingFd(of.backing)
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
	of   *openFile
	file store.File // layer.tar
	text []byte
	dir  []dirent
	ctl  ctlHandle
}

func (h *handle) size() int64 {
	if h.file != nil {
		return h.file.Size()
	}
	return int64(len(h.text))
}

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

func (t *handles) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.byID {
		h.close()
	}
	t.byID = map[uint64]*handle{}
}

// close frees what a handle of its own holds.
func (h *handle) close() {
	if h.file != nil {
		h.file.Close()
	}
	if h.ctl != nil {
		h.ctl.release()
	}
}

// Open implements fuse.RawFileSystem.
func (f *fsys) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	id := nodeID(in.NodeId)
	if isCtlFile(id) {
		return f.openCtl(id, in, out)
	}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EPERM
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	if id.kind() == kindFile {
		return f.openLayerFile(id, out)
	}
	h, volatile, err := f.openSynth(id)
	if err != nil {
		return f.status("open", id, err)
	}
	if volatile {
		// Its length changes with its content: the kernel's idea of its size must not cut it.
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	}
	out.Fh = f.handles.add(h)
	return fuse.OK
}

func (f *fsys) openLayerFile(id nodeID, out *fuse.OpenOut) fuse.Status {
	l := f.layers.get(id.layer())
	if l == nil {
		return fuse.Status(syscall.ESTALE)
	}
	a, st := f.layerAttr(id)
	if st != fuse.OK {
		return st
	}
	if a.Size == 0 || id.opaque() {
		out.Fh = f.handles.add(&handle{text: []byte{}})
		return fuse.OK
	}
	of, err := f.open(id, l)
	if err != nil {
		return f.status("open", id, err)
	}
	if of.backing != 0 {
		out.BackingID = of.backing
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH
	}
	out.Fh = f.handles.add(&handle{of: of})
	return fuse.OK
}

// openSynth opens a file that is not of a layer.
func (f *fsys) openSynth(id nodeID) (h *handle, volatile bool, err error) {
	switch id.synthType() {
	case typeFixed:
		if id == readmeNode {
			return &handle{text: []byte(readme)}, false, nil
		}
	case typeImage:
		im, img, err := f.imageOf(id)
		if err != nil {
			return nil, false, err
		}
		if i := id.file(); i > 0 && i < len(imageFiles) {
			text := imageFiles[i].text(f, im, img)
			if text == nil {
				return nil, false, syscall.ENOENT
			}
			return &handle{text: text}, imageFiles[i].volatile, nil
		}
	case typeLayer:
		im, img, err := f.imageOf(id)
		if err != nil {
			return nil, false, err
		}
		n, file := id.file()>>layerBits, id.file()&(1<<layerBits-1)
		if n >= len(img.Layers()) {
			return nil, false, syscall.ENOENT
		}
		switch {
		case file == layerTar:
			t, err := img.Layers()[n].Tar(f.life)
			if err != nil {
				return nil, false, err
			}
			return &handle{file: t}, false, nil
		case file == layerChanges:
			text, err := f.changes(im, img, n)
			return &handle{text: text}, false, err
		case file >= layerTexts && file-layerTexts < len(layerFiles):
			return &handle{text: layerFiles[file-layerTexts].text(img, n)}, false, nil
		}
	}
	return nil, false, syscall.EISDIR
}

// Read implements fuse.RawFileSystem.
func (f *fsys) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := f.handles.get(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	var r io.ReaderAt
	switch {
	case h.ctl != nil:
		return nil, fuse.EBADF // control files that are read are texts
	case h.of != nil:
		r = h.of.file
	case h.file != nil:
		r = h.file
	default:
		r = bytes.NewReader(h.text)
	}
	n, err := r.ReadAt(buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, f.status("read", nodeID(in.NodeId), err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Lseek implements fuse.RawFileSystem: the kernel asks for holes and data only.
func (f *fsys) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	if h.of != nil {
		if fd, ok := h.of.file.(store.FDer); ok {
			off, err := unix.Seek(int(fd.Fd()), int64(in.Offset), int(in.Whence))
			if err != nil {
				return fuse.ToStatus(err)
			}
			out.Offset = uint64(off)
			return fuse.OK
		}
	}
	size := uint64(h.size())
	if h.of != nil {
		size = uint64(h.of.file.Size())
	}
	if in.Offset >= size {
		return fuse.Status(syscall.ENXIO)
	}
	out.Offset = in.Offset
	if in.Whence == unix.SEEK_HOLE {
		out.Offset = size
	}
	return fuse.OK
}

// Release implements fuse.RawFileSystem.
func (f *fsys) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	h := f.handles.take(in.Fh)
	if h == nil {
		return
	}
	if h.of != nil {
		f.release(h.of)
	}
	h.close()
}

// OpenDir implements fuse.RawFileSystem.
func (f *fsys) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	id := nodeID(in.NodeId)
	if id.kind() == kindDir {
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
		_, st := f.viewOf(id)
		return st
	}
	list, err := f.synthList(id)
	if err != nil {
		return f.status("opendir", id, err)
	}
	out.Fh = f.handles.add(&handle{dir: list})
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *fsys) ReleaseDir(in *fuse.ReleaseIn) {
	if in.Fh != 0 {
		f.handles.take(in.Fh)
	}
}

// ReadDir implements fuse.RawFileSystem.
func (f *fsys) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, out, false)
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *fsys) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, out, true)
}

func (f *fsys) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	id := nodeID(in.NodeId)
	if id.kind() == kindDir {
		return f.viewReadDir(in, out, plus)
	}
	h := f.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	off, ok := dots(out, in.Offset, in.NodeId, plus)
	if !ok {
		return fuse.OK
	}
	for i := off - firstPos; i < uint64(len(h.dir)); i++ {
		d := &h.dir[i]
		if !f.addSynth(out, d, i+firstPos+1, plus) {
			return fuse.OK
		}
	}
	return fuse.OK
}

func (f *fsys) addSynth(out *fuse.DirEntryList, d *dirent, off uint64, plus bool) bool {
	e := fuse.DirEntry{Name: d.name, Mode: d.mode, Ino: uint64(d.id), Off: off}
	if !plus || d.costly {
		return add(out, e, plus)
	}
	n, err := f.synthNode(d.id)
	if err != nil {
		return add(out, e, plus) // it went meanwhile: whoever looks it up is told so
	}
	eo := out.AddDirLookupEntry(e)
	if eo == nil {
		return false
	}
	eo.NodeId = uint64(d.id)
	n.attr(f, &eo.Attr)
	setEntryTime(eo, n.valid, n.valid)
	return true
}
