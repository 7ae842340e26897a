package unpacked

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/layer"
)

// kept returns the index that lies in a file, nil if there is none that can be
// used. The layer itself may be whole when its index is not.
func (l *Layer) kept(dir *os.File) *layer.Mapped {
	var damage error
	if k, ok := l.src.(Keeper); ok {
		if f, err := k.Kept(); err == nil {
			m, err := l.openIndex(f)
			f.Close()
			if err == nil {
				return m
			}
			damage = err
		}
	}
	if m := l.cached(dir); m != nil {
		return m
	}
	if damage != nil {
		l.set.Log.Warn("index is damaged, building it again", "layer", l.key, "err", damage)
	}
	return nil
}

// cached is kept for the file in the cache alone.
func (l *Layer) cached(dir *os.File) *layer.Mapped {
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
func (l *Layer) openIndex(f *os.File) (*layer.Mapped, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("index %s can be written by others: %w", f.Name(), fs.ErrPermission)
	}
	m, err := layer.OpenIndexLazily(f)
	if err != nil {
		return nil, err
	}
	if m.Info.DiffID != l.diff {
		m.Close()
		return nil, fmt.Errorf("index %s is of layer %s: %w", f.Name(), m.Info.DiffID, store.ErrCorrupt)
	}
	return m, nil
}

// mappedLocked is Mapped with l.mu held.
func (l *Layer) mappedLocked(ctx context.Context) (*layer.Mapped, error) {
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
	raw, err := l.build(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("index layer %s: %w", l.key, err)
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

// build makes the bytes of the index.
func (l *Layer) build(ctx context.Context, dir *os.File) ([]byte, error) {
	meta := layer.Meta{DiffID: l.diff, TarSize: -1, Size: -1}
	if k, ok := l.src.(Keeper); ok {
		f, err := k.Spill()
		if err != nil {
			return nil, err
		}
		if f != nil {
			f.Close()
			meta.Spilled = true
		}
	}
	b, err := l.src.Scan(ctx, dir)
	if err != nil {
		return nil, err
	}
	return layer.EncodeIndex(b, meta)
}

// cacheFile names the file that keeps the index of a layer that somebody else
// unpacked. The name holds everything that changes when the layer does.
func (l *Layer) cacheFile(dir *os.File) (*beneath.Root, string) {
	if l.set.Cache == "" {
		return nil, ""
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, ""
	}
	root, err := beneath.OpenPrivate(l.set.Cache)
	if err != nil {
		l.set.Log.Debug("no index cache", "err", err)
		return nil, ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%d %d %d %d", l.set.Path, l.key, st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
	return root, hex.EncodeToString(h.Sum(nil))
}
