package fusefs

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// OpenDir implements fuse.RawFileSystem.
func (f *fsys) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.stateless() {
		return fuse.ENOSYS
	}
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
	faults()
	id := nodeID(in.NodeId)
	if id.kind() == kindDir {
		return f.viewReadDir(in, out, plus)
	}
	list, err := f.listing(id, in.Fh, in.Offset)
	if err != nil {
		return f.status("readdir", id, err)
	}
	off, ok := dots(out, in.Offset, in.NodeId, plus)
	if !ok {
		return fuse.OK
	}
	for i := off - firstPos; i < uint64(len(list)); i++ {
		if !f.addSynth(out, &list[i], i+firstPos+1, plus) {
			return fuse.OK
		}
	}
	return fuse.OK
}

// listings are the latest lists of directories that are read without a handle,
// so that who reads on finds the rest of the list that it began.
type listings struct {
	mu  sync.Mutex
	byD map[nodeID][]dirent
}

const maxListings = 256

// listing returns the list that a READDIR reads from.
func (f *fsys) listing(id nodeID, fh, off uint64) ([]dirent, error) {
	if fh != 0 {
		h := f.handles.get(fh)
		if h == nil {
			return nil, syscall.EBADF
		}
		return h.dir, nil
	}
	t := &f.listings
	if off > 0 {
		t.mu.Lock()
		list, ok := t.byD[id]
		t.mu.Unlock()
		if ok {
			return list, nil
		}
	}
	list, err := f.synthList(id)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byD == nil || len(t.byD) >= maxListings {
		t.byD = map[nodeID][]dirent{}
	}
	t.byD[id] = list
	return list, nil
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
	setEntryTime(eo, n.name(), n.valid)
	return true
}
