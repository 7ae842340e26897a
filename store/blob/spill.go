package blob

import (
	"bufio"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"imagefs/store/beneath"
)

// A zstd blob of one frame, as most programs write it, can only be decompressed
// from its start. What comes out of it in the first pass goes to a file of the
// cache directory, whose pages are checked against the seek index when they are
// read. All such files together are bounded: the one that was not used for the
// longest time goes first.

const spillSuffix = ".data"

type spill struct {
	c    *Cache
	dir  *beneath.Root
	f    *os.File
	w    *bufio.Writer
	name string
	temp string
	n    int64
}

// newSpill starts a file; nil if there is no place for one.
func (c *Cache) newSpill(name string) *spill {
	dir := c.dir()
	if dir == nil || c.opts.Disk < 0 {
		return nil
	}
	temp := name + "." + beneath.Random(8) + spillSuffix
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		c.log.Debug("cannot keep decompressed data", "err", err)
		dir.Close()
		return nil
	}
	return &spill{c: c, dir: dir, f: f, w: bufio.NewWriterSize(f, 1<<20), name: name + spillSuffix, temp: temp}
}

// write takes output; false, and the file is gone, if it cannot.
func (s *spill) write(b []byte) bool {
	s.n += int64(len(b))
	_, err := s.w.Write(b)
	if err == nil && s.n <= s.c.opts.Disk {
		return true
	}
	s.c.log.Debug("cannot keep decompressed data", "bytes", s.n, "err", err)
	s.abort()
	return false
}

func (s *spill) abort() {
	if s.f != nil {
		s.f.Close()
		s.f = nil
		_ = s.dir.Remove(s.temp)
		s.dir.Close()
	}
}

// commit gives the file its name. Its pages are checked at each read, so nothing waits for the disk.
func (s *spill) commit() {
	err := s.w.Flush()
	if err == nil {
		err = s.dir.Rename(s.temp, s.name)
	}
	if err != nil {
		s.c.log.Debug("cannot keep decompressed data", "err", err)
		s.abort()
		return
	}
	s.f.Close()
	s.f = nil
	s.dir.Close()
	s.c.trimSpills()
}

// openSpill opens the file that a pass has left; nil if there is none.
func (c *Cache) openSpill(name string) *os.File {
	dir := c.dir()
	if dir == nil {
		return nil
	}
	defer dir.Close()
	f, err := openKept(dir, name+spillSuffix)
	if err != nil {
		return nil
	}
	return f
}

// trimSpills removes files until they fit into Options.Disk together.
func (c *Cache) trimSpills() {
	entries, err := os.ReadDir(c.opts.Dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && strings.HasSuffix(e.Name(), spillSuffix) {
			files = append(files, st)
			total += st.Size()
		}
	}
	sort.Slice(files, func(i, j int) bool { return files[i].ModTime().Before(files[j].ModTime()) })
	for _, st := range files {
		if total <= c.opts.Disk {
			return
		}
		_ = os.Remove(filepath.Join(c.opts.Dir, st.Name()))
		total -= st.Size()
	}
}
