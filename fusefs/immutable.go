package fusefs

import "github.com/hanwen/go-fuse/v2/fuse"

// The tree cannot be changed by file operations: images are immutable, and
// names change through ctl/.

// Mknod implements fuse.RawFileSystem.
func (f *fsys) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return f.immutable()
}

// Mkdir implements fuse.RawFileSystem.
func (f *fsys) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return f.immutable()
}

// Unlink implements fuse.RawFileSystem.
func (f *fsys) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return f.immutable() }

// Rmdir implements fuse.RawFileSystem.
func (f *fsys) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return f.immutable() }

// Rename implements fuse.RawFileSystem.
func (f *fsys) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return f.immutable()
}

// Link implements fuse.RawFileSystem.
func (f *fsys) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return f.immutable()
}

// Symlink implements fuse.RawFileSystem.
func (f *fsys) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return f.immutable()
}

// Create implements fuse.RawFileSystem.
func (f *fsys) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return f.immutable()
}
