package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
)

// dirContent is an OCI layout directory, or an unpacked docker-archive.
type dirContent struct {
	ld    *load
	root  *beneath.Root
	blobs onceBlobs // by resolved name
}

var _ content = (*dirContent)(nil)

// resolve follows links, none of which may lead out of the directory. The root
// itself refuses every link, so that one made meanwhile is not followed either.
func (c *dirContent) resolve(name string) (string, unix.Stat_t, error) {
	var st unix.Stat_t
	todo := strings.Split(cleanName(name), "/")
	at, hops := "", 0
	out := func() (string, unix.Stat_t, error) {
		return "", st, fmt.Errorf("%.200q: a link that leads out of the directory: %w", name, store.ErrCorrupt)
	}
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at == "" {
				return out()
			}
			at = at[:max(strings.LastIndexByte(at, '/'), 0)]
			continue
		}
		p := strings.TrimPrefix(at+"/"+part, "/")
		var err error
		if st, err = c.root.Stat(p); err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) {
				err = errMissing
			}
			return "", st, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = p
			continue
		}
		to, err := c.root.Readlink(p)
		if err != nil {
			return "", st, err
		}
		if strings.HasPrefix(to, "/") {
			return out()
		}
		if hops++; hops > maxHops {
			return "", st, fmt.Errorf("%.200q: a link that leads in a circle or through more than %d others: %w", name, maxHops, store.ErrCorrupt)
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	if at == "" {
		return "", st, errMissing
	}
	st, err := c.root.Stat(at)
	return at, st, err
}

func (c *dirContent) size(name string) (int64, bool, error) {
	_, st, err := c.resolve(name)
	if errors.Is(err, errMissing) {
		return 0, false, nil
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false, err
	}
	return st.Size, true, nil
}

// open opens a regular file.
func (c *dirContent) open(name string) (*os.File, string, int64, error) {
	at, st, err := c.resolve(name)
	if err != nil {
		return nil, "", 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, "", 0, errMissing
	}
	f, err := c.root.OpenFile(at, os.O_RDONLY, 0)
	if err != nil {
		return nil, "", 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errMissing
	}
	if err != nil {
		f.Close()
		return nil, "", 0, err
	}
	return f, at, fi.Size(), nil
}

func (c *dirContent) bytes(name string, limit int64) ([]byte, error) {
	f, _, size, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(f, 0, size, limit)
}

func (c *dirContent) layer(name string) (*blob, error) {
	f, at, size, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return c.blobs.get(at, func() (*blob, error) { return c.ld.unpackAt(name, f, 0, size) })
}

func (c *dirContent) legacy() ([]string, error) {
	names, err := c.root.List(".")
	if err != nil {
		return nil, err
	}
	if len(names) > c.ld.lim.Members {
		return nil, fmt.Errorf("directory of more than %d files: %w", c.ld.lim.Members, store.ErrTooLarge)
	}
	var ids []string
	for _, n := range names {
		if !legacyName().MatchString(n + "/json") {
			continue
		}
		if _, ok, err := c.size(n + "/json"); err != nil {
			return nil, err
		} else if ok {
			ids = append(ids, n)
		}
	}
	return ids, nil
}

func (c *dirContent) lazy() bool { return true }
