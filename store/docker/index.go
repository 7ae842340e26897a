package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/layer"
)

// Index implements store.Layer.
func (l *layerRec) Index(ctx context.Context) (overlay.Layer, error) {
	x, _, err := l.view(ctx)
	return x, err
}

// view returns the layer as its users see it, whose inode numbers stay the same
// as long as the record is used, and what is known of it besides.
func (l *layerRec) view(ctx context.Context) (overlay.Layer, layer.Meta, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lazy == nil && l.index == nil && l.s.opts.Lazy {
		if err := l.openLazy(); err != nil {
			return nil, layer.Meta{}, err
		}
	}
	if l.lazy != nil {
		return l.lazy, layer.Meta{DiffID: l.diff, TarSize: -1, Size: -1}, nil
	}
	m, err := l.mappedLocked(ctx)
	if err != nil {
		return nil, layer.Meta{}, err
	}
	return m.Index, m.Info, nil
}

// openLazy lets the layer be read as it is looked into, if it has no index and
// its directory tells everything; l.mu is held.
func (l *layerRec) openLazy() error {
	dir, err := l.open()
	if err != nil {
		return err
	}
	if l.index = l.kept(dir); l.index != nil {
		return nil
	}
	st, err := l.s.root.Stat(overlayDir + "/" + l.cache)
	if err != nil || st.Uid != 0 || l.s.root.Exists(spillDir+"/"+l.Key()) {
		return err
	}
	if l.lazy, err = layer.NewLazy(dir, layer.Limits{}); err != nil {
		return err
	}
	l.s.later.add(l)
	return nil
}

// mapped returns the layer's index: from memory, from its file, or built now.
func (l *layerRec) mapped(ctx context.Context) (*layer.Mapped, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mappedLocked(ctx)
}

// kept returns the index that lies in a file, nil if there is none that can be
// used. The layer itself may be whole when its index is not.
func (l *layerRec) kept(dir *os.File) *layer.Mapped {
	if f, err := l.s.root.OpenFile(indexDir+"/"+l.Key(), os.O_RDONLY, 0); err == nil {
		m, err := l.openIndex(f)
		f.Close()
		if err == nil {
			return m
		}
		l.s.log.Warn("index is damaged, building it again", "layer", l.chain, "err", err)
	}
	cache, name := l.cacheFile(dir)
	if cache == nil {
		return nil
	}
	defer cache.Close()
	f, err := cache.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := l.openIndex(f)
	if err != nil {
		return nil
	}
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	_ = unix.UtimesNanoAt(cache.Fd(), name, []unix.Timespec{now, now}, 0)
	return m
}

// openIndex maps an index file. It must be the caller's own: who can cut a
// mapped file short can stop the process that reads it.
func (l *layerRec) openIndex(f *os.File) (*layer.Mapped, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("index %s can be written by others: %w", f.Name(), fs.ErrPermission)
	}
	m, err := layer.OpenIndex(f)
	if err != nil {
		return nil, err
	}
	if m.Info.DiffID != l.diff {
		m.Close()
		return nil, fmt.Errorf("index %s is of layer %s: %w", f.Name(), m.Info.DiffID, store.ErrCorrupt)
	}
	return m, nil
}

// mappedLocked is mapped with l.mu held.
func (l *layerRec) mappedLocked(ctx context.Context) (*layer.Mapped, error) {
	if l.index != nil {
		return l.index, nil
	}
	dir, err := l.open()
	if err != nil {
		return nil, err
	}
	if l.index = l.kept(dir); l.index != nil {
		return l.index, nil
	}
	raw, err := l.buildIndex(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("index layer %s: %w", l.chain, err)
	}
	if cache, name := l.cacheFile(dir); cache != nil {
		defer cache.Close()
		if m := keepIndex(cache, name, raw); m != nil {
			l.index = m
			return m, nil
		}
	}
	l.index, err = layer.ReadIndex(raw)
	return l.index, err
}

// buildIndex reads the diff directory. Where that cannot tell owners, because
// it is not root's, the headers in the tar-split do.
func (l *layerRec) buildIndex(ctx context.Context, dir *os.File) ([]byte, error) {
	meta := layer.Meta{DiffID: l.diff, TarSize: -1, Size: -1, Spilled: l.s.root.Exists(spillDir + "/" + l.Key())}
	st, err := l.s.root.Stat(overlayDir + "/" + l.cache)
	if err != nil {
		return nil, err
	}
	if st.Uid != 0 {
		if z, err := l.split(); err == nil {
			b, err := layer.ScanSplit(ctx, z, func() (*overlay.Tree, error) { return l.below(ctx) }, layer.Limits{})
			z.Close()
			if err == nil {
				var raw []byte
				if raw, err = layer.EncodeIndex(b, meta); err == nil {
					return raw, nil
				}
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			l.s.log.Warn("owners are those on disk: the tar-split cannot be read", "layer", l.chain, "err", err)
		}
	}
	b, err := layer.Scan(ctx, dir, layer.Limits{})
	if err != nil {
		return nil, err
	}
	return layer.EncodeIndex(b, meta)
}

// below merges the layers below this one.
func (l *layerRec) below(ctx context.Context) (*overlay.Tree, error) {
	if l.parent == "" {
		return nil, nil
	}
	var layers []overlay.Layer // top first
	for chain := l.parent; chain != ""; {
		d := layerDir + "/" + chain.Encoded() + "/"
		diff, err := l.s.root.Read(d+"diff", maxSmall)
		if err != nil {
			return nil, err
		}
		parent, err := l.s.root.Read(d+"parent", maxSmall)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(layers) == store.MaxLayers || !isID(digest.Digest(diff)) || store.NextChainID(digest.Digest(parent), digest.Digest(diff)) != chain {
			return nil, fmt.Errorf("layer %s: %w", chain, store.ErrCorrupt)
		}
		x, err := l.s.layer(chain, digest.Digest(parent), digest.Digest(diff)).Index(ctx)
		if err != nil {
			return nil, err
		}
		layers = append(layers, x)
		chain = digest.Digest(parent)
	}
	slices.Reverse(layers)
	return overlay.Merge(layers...)
}

// cacheFile names the file that keeps the index of a layer that somebody else
// unpacked. The name holds everything that changes when the layer does.
func (l *layerRec) cacheFile(dir *os.File) (*beneath.Root, string) {
	if l.s.opts.Cache == "" {
		return nil, ""
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, ""
	}
	root, err := openCache(l.s.opts.Cache)
	if err != nil {
		l.s.log.Debug("no index cache", "err", err)
		return nil, ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%d %d %d %d", l.s.path, l.Key(), st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
	return root, hex.EncodeToString(h.Sum(nil))
}

// openCache opens the cache directory. It must be the caller's alone: whoever
// can write an index decides what a mount shows.
func openCache(path string) (*beneath.Root, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	r, err := beneath.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := r.Stat(".")
	if err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
		err = fmt.Errorf("%s can be written by others: %w", path, fs.ErrPermission)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// keepIndex writes an index to the cache and maps it; nil if that fails.
func keepIndex(cache *beneath.Root, name string, raw []byte) *layer.Mapped {
	if err := cache.Write(name, raw, 0o600); err != nil {
		return nil
	}
	f, err := cache.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := layer.OpenIndex(f)
	if err != nil {
		return nil
	}
	return m
}

// cacheAge is how long the index of a layer that nobody looks at is kept.
const cacheAge = 60 * 24 * time.Hour

// CleanCache removes indexes that were not used for long.
func CleanCache(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && isHex64(e.Name()) && time.Since(st.ModTime()) > cacheAge {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return err
}
