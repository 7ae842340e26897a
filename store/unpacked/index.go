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
			m, err := l.openIndex(f, true)
			f.Close()
			if err == nil {
				return m
			}
			damage = err
		}
	}
	if cache, name := l.cacheFile(dir); cache != nil {
		defer cache.Close()
		if f, err := cache.OpenFile(name, os.O_RDONLY, 0); err == nil {
			defer f.Close()
			if m, err := l.openIndex(f, false); err == nil {
				now := unix.Timespec{Nsec: unix.UTIME_NOW}
				_ = unix.UtimesNanoAt(cache.Fd(), name, []unix.Timespec{now, now}, 0)
				return m
			}
		}
	}
	if damage != nil {
		l.warnDamaged(damage)
	}
	return nil
}

func (l *Layer) warnDamaged(err error) {
	l.set.Log.Warn("index is damaged, building it again", "layer", l.key, "err", err)
}

// openIndex maps an index file, one that a Keeper has or one of the cache.
func (l *Layer) openIndex(f *os.File, keeper bool) (*layer.Mapped, error) {
	if err := ours(f); err != nil {
		return nil, err
	}
	m, err := layer.OpenIndexLazily(f, func(ctx context.Context, damage error) ([]byte, error) {
		return l.mend(ctx, damage, keeper)
	})
	if err != nil {
		return nil, err
	}
	if m.Info.DiffID != l.diff {
		m.Close()
		return nil, fmt.Errorf("index %s is of layer %s: %w", f.Name(), m.Info.DiffID, store.ErrCorrupt)
	}
	return m, nil
}

// ours refuses an index file that is not the caller's own: who can cut a mapped
// file short can stop the process that reads it.
func ours(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("index %s can be written by others: %w", f.Name(), fs.ErrPermission)
	}
	return nil
}

// mend returns the layer's index when the file that it was mapped from turns out
// to be damaged: from the cache, if that was not the file, or made anew. It
// takes no lock of the layer's, under which the index may be looked into.
func (l *Layer) mend(ctx context.Context, damage error, keeper bool) ([]byte, error) {
	dir, err := l.src.Dir()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	cache, name := l.cacheFile(dir)
	if cache != nil {
		defer cache.Close()
		if keeper {
			if raw := l.cached(cache, name); raw != nil {
				return raw, nil
			}
		}
	}
	l.warnDamaged(damage)
	raw, err := l.build(ctx, dir)
	if err != nil {
		return nil, err
	}
	if cache != nil {
		if err := cache.Write(name, raw, 0o600); err != nil {
			l.set.Log.Debug("cannot keep an index", "layer", l.key, "err", err)
		}
	}
	return raw, nil
}

// cached reads the index that is in the cache; nil if there is none that can be used.
func (l *Layer) cached(cache *beneath.Root, name string) []byte {
	f, err := cache.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if ours(f) != nil {
		return nil
	}
	m, err := layer.OpenIndex(f)
	if err != nil {
		return nil
	}
	defer m.Close()
	if m.Info.DiffID != l.diff {
		return nil
	}
	return m.Bytes()
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
