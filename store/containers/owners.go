package containers

import (
	"math"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store/beneath"
)

// overrideXattr has the owner, mode and type of a file of a store whose files
// have others on disk: "uid:gid:mode", mode in octal, and ":type" in newer ones.
const overrideXattr = "user.containers.override_stat"

// owners says what stands for what in a layer's directory that does not show
// what a container sees.
type owners struct{ uids, gids []idRange }

// fix gives a record the owner, mode and type that a container sees.
func (o owners) fix(e *overlay.Entry) {
	for n, x := range e.Xattrs {
		if x.Name != overrideXattr {
			continue
		}
		e.Xattrs = slices.Delete(e.Xattrs, n, n+1)
		if override(e, string(x.Value)) {
			return
		}
		break
	}
	e.UID, e.GID = toContainer(o.uids, e.UID), toContainer(o.gids, e.GID)
}

// override gives a record what the xattr says; false for one that says nothing sensible.
func override(e *overlay.Entry, value string) bool {
	f := strings.SplitN(value, ":", 4)
	if len(f) < 3 {
		return false
	}
	uid, err1 := strconv.ParseUint(f[0], 10, 32)
	gid, err2 := strconv.ParseUint(f[1], 10, 32)
	mode, err3 := strconv.ParseUint(f[2], 8, 32)
	if err1 != nil || err2 != nil || err3 != nil || uid == math.MaxUint32 || gid == math.MaxUint32 || mode > 0o7777 {
		return false
	}
	if len(f) == 4 && e.Kind == overlay.File && !overrideType(e, f[3]) {
		return false
	}
	e.UID, e.GID = uint32(uid), uint32(gid)
	if e.Kind != overlay.Symlink {
		e.Mode = uint32(mode)
	}
	return true
}

// overrideType makes a file what it stands for: "block-8-1", "char-1-3", "pipe", "socket".
func overrideType(e *overlay.Entry, typ string) bool {
	f := strings.Split(typ, "-")
	kind, ok := map[string]overlay.Kind{"file": overlay.File, "block": overlay.Block, "char": overlay.Char, "pipe": overlay.Fifo, "socket": overlay.Socket}[f[0]]
	if !ok || (len(f) == 3) != (kind == overlay.Block || kind == overlay.Char) {
		return false
	}
	if len(f) == 3 {
		major, err1 := strconv.ParseUint(f[1], 10, 12)
		minor, err2 := strconv.ParseUint(f[2], 10, 20)
		if err1 != nil || err2 != nil {
			return false
		}
		e.Rdev = uint32(unix.Mkdev(uint32(major), uint32(minor)))
	}
	if e.Kind = kind; kind != overlay.File {
		e.Size, e.Blocks = 0, 0
	}
	return true
}

// toContainer returns what an ID of the host is in a container; itself if nothing says.
func toContainer(ranges []idRange, id uint32) uint32 {
	for _, r := range ranges {
		if n := int64(id) - r.Host; n >= 0 && n < r.Size && r.Container >= 0 && r.Container <= math.MaxUint32-1-n {
			return uint32(r.Container + n)
		}
	}
	return id
}

// owners returns what is known of the layer: its own maps, or else those that
// this system gives the user who has the store.
func (l *layerRec) owners() owners {
	if len(l.rec.UIDMap)+len(l.rec.GIDMap) > 0 {
		return owners{l.rec.UIDMap, l.rec.GIDMap}
	}
	st, err := l.place.root.Stat(l.place.driver)
	if err != nil || st.Uid == 0 {
		return owners{}
	}
	return owners{subIDs("subuid", st.Uid, st.Uid), subIDs("subgid", st.Uid, st.Gid)}
}

// maxSubIDs bounds a file of subordinate IDs.
const maxSubIDs = 1 << 20

// subIDs returns the map of the user namespaces of a user, whose own ID is root
// there: /etc/subuid or /etc/subgid has what follows (subuid(5)).
func subIDs(file string, uid, own uint32) []idRange {
	etc, err := beneath.Open("/etc")
	if err != nil {
		return nil
	}
	defer etc.Close()
	text, err := etc.Read(file, maxSubIDs)
	if err != nil {
		return nil
	}
	name := ""
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		name = u.Username
	}
	return parseSubIDs(string(text), name, uid, own)
}

func parseSubIDs(text, name string, uid, own uint32) []idRange {
	ranges := []idRange{{Container: 0, Host: int64(own), Size: 1}}
	next := int64(1)
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] == "" || f[0] != name && f[0] != strconv.FormatUint(uint64(uid), 10) {
			continue
		}
		host, err1 := strconv.ParseUint(f[1], 10, 32)
		size, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		ranges = append(ranges, idRange{Container: next, Host: int64(host), Size: int64(size)})
		next += int64(size)
	}
	return ranges
}
