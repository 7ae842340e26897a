package fusefs

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/store"
)

// diffUp leads from a store's diff/ to the one of all.
const diffUp = "../../../diff/"

// partNames are the directories of a pair, by the number of the part.
var partNames = [parts]string{partAdded: "added", partChanged: "changed", partDeleted: "deleted"}

// pairFile is the number of a file in a pair's directory, pairDir if it is none.
func pairFile(name string) int {
	switch name {
	case "changes":
		return pairChanges
	case "summary":
		return pairSummary
	case "error":
		return pairError
	}
	return pairDir
}

// target is where a link to the pair leads.
func (p *pair) target(file int) string {
	if file == pairStoreLink {
		return diffUp + p.name()
	}
	return p.name()
}

// pairNode tells what a node of a pair is.
func (f *fsys) pairNode(ctx context.Context, n synth) (synth, error) {
	p, err := f.pairOf(n.id)
	if err != nil {
		return n, err
	}
	n.valid = forever
	switch file := n.id.file(); file {
	case pairDir:
		n.nlink = 2 + parts
		return n, nil
	case pairLink, pairStoreLink:
		// What a name stands for can change; where a link leads that was found cannot.
		n.mode, n.nlink, n.size, n.entryValid = linkMode, 1, uint64(len(p.target(file))), -1
		return n, nil
	case pairError:
		text := f.pairError(ctx, p)
		if text == nil {
			return n, syscall.ENOENT
		}
		n.mode, n.nlink, n.size = fileMode, 1, uint64(len(text))
		return n, nil
	case pairChanges, pairSummary:
		c, err := f.compare(ctx, p)
		if err != nil {
			return n, err
		}
		n.mode, n.nlink, n.size = fileMode, 1, uint64(len(c.summary))
		if file == pairChanges {
			n.size, err = c.size, c.tooLarge()
		}
		return n, err
	}
	return n, syscall.ENOENT
}

// pairChild finds a name in a pair's directory.
func (f *fsys) pairChild(ctx context.Context, dir nodeID, name string) (nodeID, error) {
	p, err := f.pairOf(dir)
	if err != nil {
		return 0, err
	}
	if dir.file() != pairDir {
		return 0, syscall.ENOTDIR
	}
	for part, s := range partNames {
		if s == name {
			return f.partRoot(ctx, p, part)
		}
	}
	switch file := pairFile(name); {
	case file == pairDir, file == pairError && f.pairError(ctx, p) == nil:
		return 0, syscall.ENOENT
	default:
		return synthID(typePair, p.slot, file), nil
	}
}

// pairList lists a pair's directory. Nothing is compared for it.
func (f *fsys) pairList(ctx context.Context, dir nodeID) ([]dirent, error) {
	p, err := f.pairOf(dir)
	if err != nil {
		return nil, err
	}
	if dir.file() != pairDir {
		return nil, syscall.ENOTDIR
	}
	var out []dirent
	for _, name := range partNames {
		out = append(out, dirent{name: name, mode: fuse.S_IFDIR, costly: true})
	}
	out = append(out,
		dirent{name: "changes", id: synthID(typePair, p.slot, pairChanges), mode: fuse.S_IFREG, costly: true},
		dirent{name: "summary", id: synthID(typePair, p.slot, pairSummary), mode: fuse.S_IFREG, costly: true})
	if f.pairError(ctx, p) != nil {
		out = append(out, dirent{name: "error", id: synthID(typePair, p.slot, pairError), mode: fuse.S_IFREG})
	}
	return out, nil
}

// pairError tells what is broken about the images of a pair so that they cannot
// be compared; nil if nothing is known to be.
func (f *fsys) pairError(ctx context.Context, p *pair) []byte {
	var lines []string
	for _, s := range []side{p.a, p.b} {
		img, err := f.imageByID(ctx, s.id)
		// What is below a layer that is broken may be whole.
		if err == nil && (s.n < 0 || len(img.Layers()) <= s.n) {
			err = img.Err()
		}
		line := ""
		if err != nil {
			line = fmt.Sprintf("%s: %s", s, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		if len(lines) == 0 || lines[0] != line {
			lines = append(lines, line)
		}
	}
	return value(lines...)
}

// top is the number of the topmost layer that counts.
func (s side) top(img store.Image) int {
	if s.n < 0 {
		return topLayer(img)
	}
	return s.n
}

// openPair opens a file of a pair.
func (f *fsys) openPair(id nodeID) (*handle, error) {
	p, err := f.pairOf(id)
	if err != nil {
		return nil, err
	}
	switch id.file() {
	case pairError:
		return &handle{text: f.pairError(f.life, p)}, nil
	case pairSummary:
		c, err := f.compare(f.life, p)
		if err != nil {
			return nil, err
		}
		return &handle{text: c.summary}, nil
	case pairChanges:
		l, err := f.pairChanges(p)
		if err != nil {
			return nil, err
		}
		return &handle{text: l.text, shared: l, pair: true}, nil
	}
	return nil, syscall.EISDIR
}
