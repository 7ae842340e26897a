package fusefs

import (
	"context"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// OpenDir implements fuse.RawFileSystem. The kernel is told once that
// directories need not be opened, keeps their listings, and is told when one
// is another now.
func (f *fsys) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// ReadDir implements fuse.RawFileSystem.
func (f *fsys) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(cancel, in, out, false)
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *fsys) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(cancel, in, out, true)
}

func (f *fsys) readDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	faults()
	id := nodeID(in.NodeId)
	if id.kind() == kindDir {
		return f.viewReadDir(in, out, plus)
	}
	ctx := f.ctx(cancel, in.Pid)
	if id.kind() == kindPart {
		return f.partReadDir(ctx, in, out, plus)
	}
	list, err := f.listing(ctx, id, in.Offset)
	if err != nil {
		return f.status("readdir", id, err)
	}
	off, ok := dots(out, in.Offset, in.NodeId, plus)
	if !ok {
		return fuse.OK
	}
	for i := off - firstPos; i < uint64(len(list)); i++ {
		if !f.addSynth(ctx, out, &list[i], i+firstPos+1, plus) {
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
func (f *fsys) listing(ctx context.Context, id nodeID, off uint64) ([]dirent, error) {
	t := &f.listings
	if off > 0 {
		t.mu.Lock()
		list, ok := t.byD[id]
		t.mu.Unlock()
		if ok {
			return list, nil
		}
	}
	list, err := f.synthList(ctx, id)
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

func (f *fsys) addSynth(ctx context.Context, out *fuse.DirEntryList, d *dirent, off uint64, plus bool) bool {
	e := fuse.DirEntry{Name: d.name, Mode: d.mode, Ino: uint64(d.id), Off: off}
	if !plus || d.costly {
		return add(out, e, plus)
	}
	n, err := f.synthNode(ctx, d.id)
	if err != nil {
		return add(out, e, plus) // it went meanwhile: whoever looks it up is told so
	}
	eo := out.AddDirLookupEntry(e)
	if eo == nil {
		return false
	}
	eo.NodeId = uint64(d.id)
	n.attr(f, &eo.Attr)
	setEntryTime(eo, n.nameTime(d.name), n.valid)
	return true
}
