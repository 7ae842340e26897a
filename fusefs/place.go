package fusefs

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// A repository is there as long as it has names, so a directory without any is
// nothing that a store knows. The mount keeps it, for a while: names can be put
// into a directory that was made, and one that was emptied can be removed.

const (
	// emptyFor is how long an empty directory stays after the last change in it.
	emptyFor = 10 * time.Minute
	// maxEmpty bounds how many are kept.
	maxEmpty = 1024
)

// kept are the directories of names that are there even if they are empty.
type kept struct {
	mu       sync.Mutex
	until    map[repo]time.Time
	sweeping bool
}

// below is the directory of a name in the directory.
func (r repo) below(name string) repo {
	return repo{part: r.part, path: strings.TrimPrefix(r.path+"/"+name, "/")}
}

// keepDir keeps a directory for a while from now on; ENOSPC if there are too many.
func (f *fsys) keepDir(r repo) error {
	if r.path == "" {
		return nil
	}
	k := &f.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.until[r]; !ok && len(k.until) >= maxEmpty {
		// Those that have names stay without being kept.
		s := f.snap.Load()
		maps.DeleteFunc(k.until, func(r repo, _ time.Time) bool {
			d := s.repoNames(r)
			return d == nil || !d.Empty()
		})
		if len(k.until) >= maxEmpty {
			return fmt.Errorf("there are %d empty repositories already; rmdir some: %w", maxEmpty, syscall.ENOSPC)
		}
	}
	if k.until == nil {
		k.until = map[repo]time.Time{}
	}
	k.until[r] = time.Now().Add(f.emptyFor)
	if !k.sweeping {
		k.sweeping = true
		f.later(f.emptyFor, "let go of empty directories", f.sweepDirs)
	}
	return nil
}

// dropDir ends the keeping of a directory.
func (f *fsys) dropDir(r repo) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	delete(f.kept.until, r)
}

// sweepDirs lets go of the directories whose time is over.
func (f *fsys) sweepDirs() {
	k := &f.kept
	k.mu.Lock()
	now, next := time.Now(), time.Time{}
	maps.DeleteFunc(k.until, func(_ repo, end time.Time) bool {
		if !end.After(now) {
			return true
		}
		if next.IsZero() || end.Before(next) {
			next = end
		}
		return false
	})
	if k.sweeping = !next.IsZero(); k.sweeping {
		f.later(next.Sub(now), "let go of empty directories", f.sweepDirs)
	}
	k.mu.Unlock()
	f.refresh()
}

// keptDirs returns the paths of the directories that are kept, by store, sorted.
func (f *fsys) keptDirs() map[string][]string {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	var out map[string][]string
	for r := range f.kept.until {
		if out == nil {
			out = map[string][]string{}
		}
		out[r.part] = append(out[r.part], r.path)
	}
	for _, paths := range out {
		slices.Sort(paths)
	}
	return out
}

// below returns what an absolute path is from the mountpoint on, if it is below it.
func (f *fsys) below(abs string) (string, bool) {
	rel, ok := strings.CutPrefix(abs, strings.TrimSuffix(f.dir, "/")+"/")
	return rel, ok && f.dir != ""
}

// imageAt returns the image at a path from the top of the mount, as the kernel
// would find it: links are followed, and ".." is what it is after that.
func (f *fsys) imageAt(p string) (digest.Digest, error) {
	none := func(why string, err error) (digest.Digest, error) {
		return "", fmt.Errorf("%.300q %s: %w", p, why, err)
	}
	at := []nodeID{rootNode}
	for name := range strings.SplitSeq(p, "/") {
		top := at[len(at)-1]
		switch {
		case name == "" || name == ".":
		case name == ".." && len(at) == 1:
			return none("leads out of this tree", store.ErrNotFound)
		case name == "..":
			at = at[:len(at)-1]
		case top.synthType() == typeImage:
			return none("is in an image, not an image", store.ErrInvalid)
		case top == diffNode, top.synthType() == typeStore && top.file() == storeDiff:
			// A pair that is looked up here is none that the kernel will forget.
			return none("is a comparison, not an image", store.ErrInvalid)
		default:
			n, err := f.synthChild(f.life, top, name)
			if err == nil && n.synthType() == typeLink {
				target, _ := f.synthTarget(n)
				at = []nodeID{rootNode, idsNode}
				n, err = f.idsChild(path.Base(target))
			}
			if err != nil {
				return none("is not there", store.ErrNotFound)
			}
			at = append(at, n)
		}
	}
	if top := at[len(at)-1]; top.synthType() == typeImage {
		if im := f.images.get(top.slot()); im != nil && !im.gone.Load() {
			return im.id, nil
		}
	}
	return none("is not an image", store.ErrInvalid)
}
