package fusefs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Images are immutable; what can be done to names is in fileops.go.

// immutable is what an attempt to change what cannot be changed gives.
func (f *fsys) immutable() fuse.Status {
	if f.o.ReadOnly {
		return fuse.EROFS
	}
	return fuse.Status(syscall.EPERM)
}

// Mknod implements fuse.RawFileSystem.
func (f *fsys) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return f.immutable()
}

// Link implements fuse.RawFileSystem.
func (f *fsys) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return f.immutable()
}

// Create implements fuse.RawFileSystem.
func (f *fsys) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return f.immutable()
}
