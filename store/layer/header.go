package layer

import (
	"archive/tar"
	"math"
	"strings"

	"imagefs/overlay"
)

const (
	maxID    = math.MaxUint32 - 1 // (uid_t)-1 means "do not change"
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// record is what a tar header means to a layer.
type record struct {
	overlay.Entry
	skip   bool // not part of the tree: a global header, something below a whiteout
	sparse bool // its bytes in the tar are not its content
}

// newer returns the later of two times, the record's and one so far. Whiteouts
// have none that shows.
func (r *record) newer(a overlay.Attr) overlay.Attr {
	if r.Kind != overlay.Whiteout && r.Kind != overlay.Opaque && (r.Sec > a.Sec || r.Sec == a.Sec && r.Nsec > a.Nsec) {
		return overlay.Attr{Sec: r.Sec, Nsec: r.Nsec}
	}
	return a
}

// parseHeader turns a tar header into a record. Errors wrap store.ErrCorrupt.
func parseHeader(hdr *tar.Header) (record, error) {
	var r record
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return record{skip: true}, nil
	}
	p, err := overlay.CleanPath(hdr.Name)
	if err != nil {
		return r, classify(err)
	}
	dir, base := splitPath(p)
	if belowWhiteout(dir) {
		return record{skip: true}, nil
	}
	r.Path = p
	if r.Attr, err = attrOf(hdr); err != nil {
		return r, err
	}
	kind, hidden, err := overlay.ParseWhiteout(base)
	if err != nil {
		return r, classify(err)
	}
	switch kind {
	case overlay.Whiteout:
		r.Kind, r.Path, r.Size = kind, join(dir, hidden), 0
		return r, nil
	case overlay.Opaque:
		r.Kind, r.Path = kind, dir
		return r, nil
	}
	if err := r.setKind(hdr); err != nil {
		return r, err
	}
	if r.Path == "" && r.Kind != overlay.Dir {
		return r, corrupt("the layer's root is not a directory but %q", hdr.Typeflag)
	}
	if r.Kind != overlay.Whiteout && r.Kind != overlay.Hardlink {
		r.Xattrs = xattrsOf(hdr, r.Kind)
		r.applyACL()
	}
	return r, nil
}

func (r *record) setKind(hdr *tar.Header) (err error) {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		r.Kind = overlay.File
		r.sparse = IsSparse(hdr)
		r.Blocks = blocksOf(r.Size)
	case tar.TypeDir:
		r.Kind, r.Size = overlay.Dir, 0
	case tar.TypeSymlink:
		r.Kind, r.Link, r.Mode = overlay.Symlink, hdr.Linkname, 0o777 // Linux has no other
		if hdr.Linkname == "" || len(hdr.Linkname) > 4095 || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return corrupt("symbolic link %.200q with a target of %d bytes", hdr.Name, len(hdr.Linkname))
		}
	case tar.TypeLink:
		r.Kind = overlay.Hardlink
		if r.Link, err = overlay.CleanPath(hdr.Linkname); err != nil {
			return classify(err)
		}
		if r.Link == "" {
			return corrupt("hard link %.200q to the layer's root", hdr.Name)
		}
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor {
			return corrupt("device %.200q: number %d:%d", hdr.Name, hdr.Devmajor, hdr.Devminor)
		}
		r.Kind, r.Size = overlay.Block, 0
		if hdr.Typeflag == tar.TypeChar {
			r.Kind = overlay.Char
			if hdr.Devmajor == 0 && hdr.Devminor == 0 {
				r.Kind = overlay.Whiteout // as it is to every engine, once it is on disk
			}
		}
		r.Rdev = rdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case tar.TypeFifo:
		r.Kind, r.Size = overlay.Fifo, 0
	default:
		return corrupt("%.200q: unknown tar entry type %q", hdr.Name, hdr.Typeflag)
	}
	return nil
}

func rdev(major, minor uint32) uint32 {
	return major<<8 | minor&0xff | (minor&^0xff)<<12
}

func blocksOf(size uint64) uint64 { return (size + 4095) / 4096 * 8 }

func attrOf(hdr *tar.Header) (overlay.Attr, error) {
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid > maxID || hdr.Gid > maxID {
		return overlay.Attr{}, corrupt("%.200q: owner %d:%d", hdr.Name, hdr.Uid, hdr.Gid)
	}
	if hdr.Size < 0 {
		return overlay.Attr{}, corrupt("%.200q: size %d", hdr.Name, hdr.Size)
	}
	a := overlay.Attr{Mode: uint32(hdr.Mode & 0o7777), UID: uint32(hdr.Uid), GID: uint32(hdr.Gid), Size: uint64(hdr.Size)}
	// Docker clamps times before 1970 to 0.
	if t := hdr.ModTime; t.Unix() >= 0 {
		a.Sec, a.Nsec = t.Unix(), uint32(t.Nanosecond())
	}
	return a, nil
}

// IsSparse tells whether what the tar has of a file is not its content but pieces
// of it: in GNU tar's old format or in one of those in PAX records.
func IsSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

const paxXattr = "SCHILY.xattr."

// xattrsOf returns the extended attributes that a layer may set. trusted.* and
// user.overlay.* steer the kernel's overlayfs: they never come from a tar.
func xattrsOf(hdr *tar.Header, kind overlay.Kind) []overlay.Xattr {
	var xs []overlay.Xattr
	for k, v := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if ok && wantXattr(name) && takesXattr(kind, name, v) {
			xs = append(xs, overlay.Xattr{Name: name, Value: []byte(v)})
		}
	}
	return xs
}

// takesXattr tells whether the kernel lets a file of that kind have the attribute.
func takesXattr(kind overlay.Kind, name, value string) bool {
	switch {
	case strings.HasPrefix(name, "user."):
		return kind == overlay.File || kind == overlay.Dir
	case name == accessACL:
		_, ok := aclMode(value)
		return ok && kind != overlay.Symlink
	case name == defaultACL:
		_, ok := aclMode(value)
		return ok && kind == overlay.Dir
	}
	return true
}

// applyACL gives the mode the permissions that an ACL grants, as the kernel does.
func (r *record) applyACL() {
	for _, x := range r.Xattrs {
		if x.Name == accessACL {
			m, _ := aclMode(string(x.Value))
			r.Mode = r.Mode&^0o777 | m
		}
	}
}

// aclMode returns the permission bits of an ACL as the kernel encodes it
// (linux/posix_acl_xattr.h): a version of 4 bytes, then entries of 8: tag,
// permissions, ID.
func aclMode(acl string) (mode uint32, ok bool) {
	if len(acl) < 4 || len(acl)%8 != 4 || acl[:4] != "\x02\x00\x00\x00" {
		return 0, false
	}
	const owner, group, mask, other = 1, 4, 16, 32
	var perm [33]uint32
	var seen uint8
	for e := acl[4:]; len(e) > 0; e = e[8:] {
		tag, p := int(e[0]), uint32(e[2])
		if e[1] != 0 || e[3] != 0 || p > 7 || tag > other {
			return 0, false
		}
		perm[tag] = p
		seen |= uint8(tag)
	}
	if seen&(owner|group|other) != owner|group|other {
		return 0, false
	}
	if seen&mask != 0 {
		perm[group] = perm[mask]
	}
	return perm[owner]<<6 | perm[group]<<3 | perm[other], true
}

func wantXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "security."),
		name == accessACL, name == defaultACL:
		return true
	}
	return false
}

// belowWhiteout tells whether a directory's path goes through a whiteout's name.
func belowWhiteout(dir string) bool {
	if !strings.Contains(dir, overlay.WhiteoutPrefix) {
		return false
	}
	for s := range strings.SplitSeq(dir, "/") {
		if k, _, err := overlay.ParseWhiteout(s); k != 0 || err != nil {
			return true
		}
	}
	return false
}

func splitPath(p string) (dir, base string) {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)], p[i+1:]
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}
