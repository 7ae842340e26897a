package fusefs

import (
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/overlay"
)

// xattrs calls yield with the extended attributes of what is of a layer.
func (f *fsys) xattrs(id nodeID, yield func(name string, value []byte) bool) fuse.Status {
	faults()
	switch id.kind() {
	case kindFile:
		if l := f.layers.get(id.layer()); l != nil && !id.opaque() {
			l.index.Xattrs(id.ino(), yield)
		}
	case kindDir, kindPart:
		v, st := f.viewOf(id)
		if st != fuse.OK {
			return st
		}
		if v.diff() {
			v.layers[0].index.Xattrs(id.ino(), yield)
		} else {
			v.tree.Xattrs(id.node(), yield)
		}
	}
	return fuse.OK
}

// GetXAttr implements fuse.RawFileSystem.
func (f *fsys) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	var value []byte
	found := false
	if isOrigin(attr) {
		if o := f.origin(nodeID(h.NodeId)); o != nil {
			if v, ok := o.get(attr); ok {
				return fill(dest, bytesOf(v))
			}
		}
		return 0, fuse.ENOATTR
	}
	st := f.xattrs(nodeID(h.NodeId), func(name string, v []byte) bool {
		if name != attr {
			return true
		}
		value, found = v, true
		return false
	})
	switch {
	case st != fuse.OK:
		return 0, st
	case !found && f.rare.without(f, attr):
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	case !found:
		return 0, fuse.ENOATTR
	}
	return fill(dest, value)
}

// fill is how a value is given back.
func fill(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// ListXAttr implements fuse.RawFileSystem. As on other file systems, only root is told of trusted.*.
func (f *fsys) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, fits := 0, true
	list := func(name string, _ []byte) bool {
		if n+len(name)+1 <= len(dest) {
			copy(dest[n:], name)
			dest[n+len(name)] = 0
		} else {
			fits = false
		}
		n += len(name) + 1
		return true
	}
	st := f.xattrs(nodeID(h.NodeId), func(name string, _ []byte) bool {
		if isOrigin(name) || h.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			return true
		}
		return list(name, nil)
	})
	if o := f.origin(nodeID(h.NodeId)); o != nil && f.o.ListOrigin {
		for _, name := range []string{originLayer, originDiffID, originCreatedBy} {
			if _, ok := o.get(name); ok {
				list(name, nil)
			}
		}
	}
	if st == fuse.OK && !fits {
		st = fuse.ERANGE
	}
	return uint32(n), st
}

// SetXAttr implements fuse.RawFileSystem.
func (f *fsys) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, _ string, _ []byte) fuse.Status {
	if isCtlFile(nodeID(in.NodeId)) {
		return fuse.Status(syscall.EOPNOTSUPP) // cp -p, which asks for an ACL, takes the mode then
	}
	return fuse.EPERM
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *fsys) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.EPERM }

// rare knows which attributes that ls asks for, of each file, nothing here has.
// Who is told that they are not supported asks once for a file system, and not
// for every file; the kernel keeps no answer of these.
type rare struct {
	mu           sync.Mutex
	looked       atomic.Uint64 // layers that were looked through; mu is held to change it
	labels, acls atomic.Bool
}

const (
	labelName = "security.selinux"
	aclPrefix = "system.posix_acl_"
)

// without tells whether nothing that was ever shown has an attribute.
func (r *rare) without(f *fsys, attr string) bool {
	acl := strings.HasPrefix(attr, aclPrefix)
	if !acl && attr != labelName {
		return false
	}
	if n := f.layers.size(); n > r.looked.Load() {
		r.look(f, n)
	}
	if acl {
		return !r.acls.Load()
	}
	return !r.labels.Load()
}

// look looks through the layers up to slot n that are new.
func (r *rare) look(f *fsys, n uint64) {
	faults()
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; r.looked.Load() < n; r.looked.Add(1) {
		l := f.layers.get(r.looked.Load())
		if l == nil {
			continue
		}
		if _, whole := l.index.(*overlay.Index); !whole {
			r.labels.Store(true) // what is read a directory at a time may have them further on
			r.acls.Store(true)
			continue
		}
		for i := range l.index.Inodes() {
			if l.index.Stat(overlay.Ino(i)).Flags&overlay.FlagXattr == 0 {
				continue
			}
			l.index.Xattrs(overlay.Ino(i), func(name string, _ []byte) bool {
				if name == labelName {
					r.labels.Store(true)
				} else if strings.HasPrefix(name, aclPrefix) {
					r.acls.Store(true)
				}
				return true
			})
		}
	}
}
