package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// Progress is how far an export is.
type Progress struct {
	Done int64  // bytes of content written; never falls
	What string // the path that is being written
}

// Export writes the tree as a tar in PAX format, the same bytes each time:
// entries sorted by name within their directory, a directory before what is in
// it, the root as "./", owners as numbers, times to the nanosecond, extended
// attributes as SCHILY.xattr, further names of a file as hard links. Sockets,
// which a tar cannot hold, are left out and named in skipped. tell may be nil.
func (f *FS) Export(w io.Writer, tell func(Progress)) (skipped []string, err error) {
	e := &exporter{f: f, w: tar.NewWriter(w), names: map[overlay.NodeID]string{}, tell: tell, buf: make([]byte, copySize)}
	if err := e.entry("./", f.Root()); err != nil {
		return nil, err
	}
	if err := e.dir("", f.Root()); err != nil {
		return nil, err
	}
	return e.skipped, e.w.Close()
}

type exporter struct {
	f       *FS
	w       *tar.Writer
	names   map[overlay.NodeID]string // first name of a file with several
	skipped []string
	tell    func(Progress)
	done    int64
	buf     []byte
}

func (e *exporter) dir(path string, dir Node) error {
	return e.f.List(dir, func(name string, n Node) error {
		if err := e.f.ctx.Err(); err != nil {
			return err
		}
		name = path + name
		if n.IsDir() {
			if err := e.entry(name+"/", n); err != nil {
				return err
			}
			return e.dir(name+"/", n)
		}
		return e.entry(name, n)
	})
}

var typeflags = map[uint32]byte{unix.S_IFREG: tar.TypeReg, unix.S_IFDIR: tar.TypeDir, unix.S_IFLNK: tar.TypeSymlink,
	unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo}

func (e *exporter) entry(name string, n Node) error {
	h := &tar.Header{Name: name, Mode: int64(n.Mode & 0o7777), Uid: int(n.UID), Gid: int(n.GID),
		ModTime: time.Unix(n.Sec, int64(n.Nsec)), Format: tar.FormatPAX}
	var ok bool
	if h.Typeflag, ok = typeflags[n.Type()]; !ok {
		e.skipped = append(e.skipped, name)
		return nil
	}
	if first, again := e.names[n.ID]; again {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return e.header(h)
	}
	if !n.IsDir() && n.Nlink > 1 {
		e.names[n.ID] = name
	}
	switch h.Typeflag {
	case tar.TypeReg:
		h.Size = int64(n.Size)
	case tar.TypeSymlink:
		h.Linkname = e.f.Readlink(n)
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = int64(n.Rdev>>8&0xfff), int64(n.Rdev&0xff|n.Rdev>>12&0xfff00)
	}
	e.xattrs(h, n)
	if err := e.header(h); err != nil {
		return err
	}
	if h.Size > 0 {
		if err := e.content(n); err != nil {
			return err
		}
	}
	if e.tell != nil {
		e.done += h.Size
		e.tell(Progress{e.done, name})
	}
	return nil
}

func (e *exporter) header(h *tar.Header) error {
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		// Without this, names in a PAX header are UTF-8 (POSIX, pax, "hdrcharset").
		e.record(h, "hdrcharset", "BINARY")
	}
	if err := e.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

func (e *exporter) content(n Node) error {
	file, err := e.f.Open(n)
	if err != nil {
		return err
	}
	defer file.Close()
	return e.f.copy(e.w, file, e.buf)
}

// xattrKey writes a name as GNU tar does, where a "=" would end it.
var xattrKey = strings.NewReplacer("%", "%25", "=", "%3D")

func (e *exporter) xattrs(h *tar.Header, n Node) {
	if n.Flags&overlay.FlagXattr == 0 {
		return
	}
	e.f.tree.Xattrs(n.ID, func(name string, value []byte) bool {
		e.record(h, "SCHILY.xattr."+xattrKey.Replace(name), string(value))
		return true
	})
}

func (*exporter) record(h *tar.Header, key, value string) {
	if h.PAXRecords == nil {
		h.PAXRecords = map[string]string{}
	}
	h.PAXRecords[key] = value
}
