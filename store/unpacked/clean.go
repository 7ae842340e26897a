package unpacked

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
)

// The names in a cache directory, of this package and of store/blob:
//
//	<64 hex>                  what was derived from a layer or an archive
//	<64 hex>.data             decompressed data
//	<64 hex>.<16 hex>.data    the same while it is written
//	.tmp-<16 hex>             anything else while it is written
//	.use-<16 hex>             locked (flock) by a process that uses the directory;
//	                          its time is since when
//	.cleaned                  its time is when CleanCache was last done
//
// Whoever opens a file sets its time to now. So a file that is older than all
// processes that use the directory is used by none of them. Every file can go at
// any time: it is made again, and who has it mapped or open keeps it.
const (
	useName     = ".use-"
	tempName    = ".tmp-"
	cleanedName = ".cleaned"
	dataSuffix  = ".data"
)

const (
	// cacheAge is how long a file is kept that nobody has used.
	cacheAge = 60 * 24 * time.Hour
	// tempAge is how long one is kept that nobody has written to the end.
	tempAge = 24 * time.Hour
	// CleanEvery is how often the directory is looked through, by whatever process.
	CleanEvery = 24 * time.Hour
	// maxCleaned bounds the files that are looked at each time.
	maxCleaned = 1 << 18
)

// Use is a process's use of a cache directory.
type Use struct {
	root *beneath.Root
	f    *os.File
	name string
}

// UseCache tells CleanCache, of whatever process, that this one has used a cache
// directory since then and goes on until Close. It makes the directory where it is
// missing; fs.ErrPermission if others can write to it.
func UseCache(dir string, since time.Time) (*Use, error) {
	root, err := beneath.OpenPrivate(dir)
	if err != nil {
		return nil, err
	}
	id := beneath.Random(8)
	temp, name := tempName+id, useName+id
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		root.Close()
		return nil, err
	}
	// It gets its name when it is locked: one of this name without a lock is a dead process's.
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		t := unix.NsecToTimespec(since.UnixNano())
		if err = unix.UtimesNanoAt(root.Fd(), temp, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			err = root.Rename(temp, name)
		}
	}
	if err != nil {
		_ = root.Remove(temp)
		f.Close()
		root.Close()
		return nil, err
	}
	return &Use{root, f, name}, nil
}

// Close ends the use.
func (u *Use) Close() error {
	err := errors.Join(u.root.Remove(u.name), u.f.Close())
	return errors.Join(err, u.root.Close())
}

// CleanCache removes from a cache directory what nobody has used for 60 days, nor
// a process that is there still may use, and what was being written a day ago. It
// does nothing if that was done less than a day ago, or if there is no directory.
func CleanCache(ctx context.Context, dir string) error { return cleanCache(ctx, dir, time.Now()) }

func cleanCache(ctx context.Context, dir string, now time.Time) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	root, err := beneath.OpenPrivate(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if st, err := root.Stat(cleanedName); err == nil {
		if age := now.Sub(modified(&st)); age >= 0 && age < CleanEvery {
			return nil
		}
	}
	if err := touch(root, cleanedName, now); err != nil {
		return err
	}
	c := cleaner{root: root, now: now, oldest: now.Add(-cacheAge)}
	// Those who use the directory first: they say what may go.
	isUse := func(name string) bool { return strings.HasPrefix(name, useName) }
	if err := c.each(ctx, isUse, math.MaxInt, c.user); err != nil {
		return err
	}
	return c.each(ctx, func(name string) bool { return kindOf(name) != othersFile }, maxCleaned, c.clean)
}

// touch makes a file, if it is not there, and sets its time.
func touch(root *beneath.Root, name string, now time.Time) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	t := unix.NsecToTimespec(now.UnixNano())
	return unix.UtimesNanoAt(root.Fd(), name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

type cleaner struct {
	root   *beneath.Root
	now    time.Time
	oldest time.Time // what was used before this can go
}

// each calls do with the regular files of the directory that have a name of a
// kind, so many at most, and when they were used.
func (c *cleaner) each(ctx context.Context, kind func(name string) bool, most int, do func(name string, at time.Time)) error {
	dir, err := c.root.Dir(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(512)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !kind(name) {
				continue
			}
			if most--; most < 0 {
				return nil
			}
			if st, err := c.root.Stat(name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				do(name, modified(&st))
			}
		}
	}
}

func modified(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Unix()) }

// user takes in a process that uses the directory, or clears away what is left of one.
func (c *cleaner) user(name string, since time.Time) {
	f, err := c.root.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return // it has just ended
	}
	if err == nil {
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = c.root.Remove(name)
			return
		}
	}
	if since.Before(c.oldest) {
		c.oldest = since
	}
}

// clean removes a file that can go.
func (c *cleaner) clean(name string, at time.Time) {
	switch kindOf(name) {
	case keptFile:
		if at.Before(c.oldest) {
			_ = c.root.Remove(name)
		}
	case tempFile:
		if c.now.Sub(at) > tempAge {
			_ = c.root.Remove(name)
		}
	}
}

type cacheKind int

const (
	othersFile cacheKind = iota // nothing of ours
	keptFile
	tempFile
)

// kindOf tells what a name in the cache directory is.
func kindOf(name string) cacheKind {
	if strings.HasPrefix(name, tempName) {
		return tempFile
	}
	base, data := strings.CutSuffix(name, dataSuffix)
	base, random, writing := strings.Cut(base, ".")
	switch {
	case !store.IsHex64(base):
		return othersFile
	case !writing:
		return keptFile
	case data && len(random) == 16:
		return tempFile
	}
	return othersFile
}
