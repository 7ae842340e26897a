package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"testing"
)

// largeIndex is an index of many blocks: directories that lie deep and wide,
// hard links, symbolic links and extended attributes.
func largeIndex(t *testing.T) []byte {
	t.Helper()
	b := NewBuilder()
	for i := range 3000 {
		dir := fmt.Sprintf("top%d/d%d/e%d", i%3, i%40, i%200)
		add(t, b,
			Entry{Path: fmt.Sprintf("%s/file%d", dir, i), Kind: File, Attr: Attr{Size: uint64(i)}, Ref: uint64(i)},
			Entry{Path: fmt.Sprintf("%s/link%d", dir, i), Kind: Symlink, Link: fmt.Sprintf("../file%d", i)},
			Entry{Path: fmt.Sprintf("hard%d/l%d", i%5, i), Kind: Hardlink, Link: fmt.Sprintf("%s/file%d", dir, i)},
			Entry{Path: fmt.Sprintf("%s/x%d", dir, i), Kind: Fifo, Xattrs: []Xattr{{"user.x", fmt.Append(nil, i)}}},
		)
	}
	out, err := b.Finish([]byte("meta"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// all is everything that a layer tells, directory by directory in an order that is not the index's.
func all(x Layer) (string, error) {
	var out bytes.Buffer
	var walk func(Ino) error
	walk = func(dir Ino) error {
		lo, hi, err := x.Children(dir)
		if err != nil {
			return err
		}
		for e := hi; e > lo; e-- {
			name, i, flags := x.Entry(e - 1)
			fmt.Fprintf(&out, "%s %q %d %+v %q %d", x.Path(nil, i), name, flags, x.Stat(i), x.Readlink(i), x.Ref(i))
			x.Xattrs(i, func(k string, v []byte) bool { fmt.Fprintf(&out, " %s=%q", k, v); return true })
			out.WriteByte('\n')
			if x.Stat(i).Mode&typeMask == modeDir {
				if err := walk(i); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := walk(0)
	return out.String(), err
}

// large is largeIndex, opened, with all that it tells.
func large(t *testing.T) (raw []byte, x *Index, told string) {
	t.Helper()
	raw = largeIndex(t)
	x, err := OpenIndex(raw)
	if err != nil {
		t.Fatal(err)
	}
	if told, err = all(x); err != nil || string(x.Meta()) != "meta" || x.Size() != int64(len(raw)) || len(raw) < 8*blockSize {
		t.Fatalf("%q, %d bytes, want %d: %v", x.Meta(), x.Size(), len(raw), err)
	}
	return raw, x, told
}

// What is looked at bit by bit is what a full check finds, for many at once as for one.
func TestLazyIndex(t *testing.T) {
	raw, _, want := large(t)
	y, err := OpenIndexLazily(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := y.Children(0); err != nil || int(y.seen.Load()) > 10 {
		t.Errorf("for the list of the root %d inodes were checked: %v", y.seen.Load(), err)
	}
	if got, err := all(y); err != nil || got != want {
		t.Errorf("looked into bit by bit an index is another: %v", err)
	}
	if y.work != nil {
		t.Error("all was looked at, but not all is checked")
	}
	y, err = OpenIndexLazily(raw)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if n == 0 {
				if err := y.Check(); err != nil {
					t.Error(err)
				}
				return
			}
			if got, err := all(y); err != nil || got != want {
				t.Errorf("looked into by many an index is another: %v", err)
			}
		})
	}
	wg.Wait()
}

// Damage of any block is seen at once.
func TestDamagedIndex(t *testing.T) {
	raw := largeIndex(t)
	for at := 9; at < len(raw); at += blockSize / 3 {
		bad := bytes.Clone(raw)
		bad[at] ^= 1
		if _, err := OpenIndexLazily(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("damage at %d: %v", at, err)
		}
	}
	bad := bytes.Clone(raw)
	bad[len(bad)-1] ^= 1
	for _, b := range [][]byte{bad, raw[:len(raw)-1], append(bytes.Clone(raw), 0), raw[:headerSize], nil} {
		if _, err := OpenIndexLazily(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes of %d: %v", len(b), len(raw), err)
		}
	}
}

// An index of the format before this one, which a store may have kept.
func TestOldFormat(t *testing.T) {
	raw, x, want := large(t)
	sums := int(sectionSizes(raw)[4])
	old := append(bytes.Clone(raw[:len(raw)-len(x.meta)-sums]), x.meta...)
	le.PutUint32(old[8:], formatOld)
	le.PutUint32(old[12:], crc32.Checksum(old[crcCovers:], castagnoli))
	y, err := OpenIndex(old)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := all(y); err != nil || got != want || y.Size() != int64(len(old)) || string(y.Meta()) != "meta" {
		t.Errorf("it is another: %v", err)
	}
	for at := crcCovers; at < len(old); at += 9973 {
		old[at] ^= 1
		if _, err := OpenIndexLazily(old); !errors.Is(err, ErrCorrupt) {
			t.Errorf("damage at %d: %v", at, err)
		}
		old[at] ^= 1
	}
}

// In an index whose checksums are right, and one record of which is not, all is
// shown that comes before it, and nothing that is wrong.
func TestForgedIndex(t *testing.T) {
	raw, good, want := large(t)
	for _, part := range []int{1, 2, 3} {
		i := good.n * part / 4
		bad := bytes.Clone(raw)
		le.PutUint32(bad[headerSize+i*inodeSize+76:], uint32(len(good.entries))) // the name of an inode is no entry
		seal(bad)
		if _, err := OpenIndex(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		x, err := OpenIndexLazily(bad)
		if err != nil {
			t.Fatal(err)
		}
		got, err := all(x)
		if !errors.Is(err, ErrCorrupt) || !errors.Is(x.Check(), ErrCorrupt) || !strings.HasPrefix(want, got) || len(got) == 0 {
			t.Errorf("forged inode %d of %d: %d bytes of %d are shown: %v", i, good.n, len(got), len(want), err)
		}
		shown := 0
		for n := range Ino(x.Inodes()) {
			a := x.Stat(n)
			if a.Mode != 0 && a != good.Stat(n) {
				t.Fatalf("forged inode %d: inode %d is %+v", i, n, a)
			}
			if a.Mode != 0 {
				shown++
			}
			if _, _, err := x.Children(n); (err == nil) != (uint32(n) < x.open.Load()) && a.Mode&typeMask == modeDir || a.Mode == 0 && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("forged inode %d: children of inode %d: %v", i, n, err)
			}
			ask(x, n)
		}
		if shown < i/2 || shown > i {
			t.Errorf("forged inode %d: %d are shown", i, shown)
		}
	}
}
