package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// largeIndex is an index of many blocks: directories that lie deep and wide,
// hard links, symbolic links and extended attributes.
func largeIndex(t testing.TB, sec int64) []byte {
	t.Helper()
	b := NewBuilder()
	for i := range 2000 {
		dir := fmt.Sprintf("top%d/d%d/e%d", i%3, i%40, i%200)
		for _, e := range []Entry{
			{Path: fmt.Sprintf("%s/file%d", dir, i), Kind: File, Attr: Attr{Size: uint64(i), Sec: sec}, Ref: uint64(i)},
			{Path: fmt.Sprintf("%s/link%d", dir, i), Kind: Symlink, Link: fmt.Sprintf("../file%d", i)},
			{Path: fmt.Sprintf("hard%d/l%d", i%5, i), Kind: Hardlink, Link: fmt.Sprintf("%s/file%d", dir, i)},
			{Path: fmt.Sprintf("%s/x%d", dir, i), Kind: Fifo, Xattrs: []Xattr{{"user.x", fmt.Append(nil, i)}}},
		} {
			if err := b.Add(e); err != nil {
				t.Fatal(err)
			}
		}
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

// What was not looked at is not checked, and what is looked at is what a full check finds.
func TestLazyIndex(t *testing.T) {
	raw := largeIndex(t, 1)
	x, err := OpenIndex(bytes.Clone(raw))
	if err != nil {
		t.Fatal(err)
	}
	want, err := all(x)
	if err != nil || string(x.Meta()) != "meta" || x.Size() != int64(len(raw)) {
		t.Fatalf("%q, %d bytes, want %d: %v", x.Meta(), x.Size(), len(raw), err)
	}
	y, err := OpenIndexLazily(bytes.Clone(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := y.Children(0); err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, good := range y.work.good {
		if good {
			read++
		}
	}
	if blocks := len(y.work.good); read > 4 || blocks < 8 {
		t.Errorf("the list of the root took %d blocks of %d", read, blocks)
	}
	if got, err := all(y); err != nil || got != want {
		t.Errorf("looked into bit by bit an index is another: %v", err)
	}
	if y.work != nil {
		t.Error("all was looked at, but not all is checked")
	}
	// At the same time by many, one of whom checks all.
	y, err = OpenIndexLazily(bytes.Clone(raw), nil)
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

// Each block of an index is damaged in turn: what is shown is right or an
// error, and with a new index nobody sees the damage.
func TestDamagedIndex(t *testing.T) {
	raw := largeIndex(t, 1)
	good, err := OpenIndex(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := all(good)
	body := len(good.inodes) + len(good.entries) + len(good.arena) + len(good.xattrs)
	other, err := NewBuilder().Finish(nil)
	if err != nil {
		t.Fatal(err)
	}
	later := largeIndex(t, 2)
	second, err := OpenIndex(later)
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for at := headerSize + 1000; at < headerSize+body; at += blockSize {
		bad := bytes.Clone(raw)
		bad[at] ^= 1
		if _, err := OpenIndex(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("damage at %d: %v", at, err)
		}
		var damage error
		mends := 0
		for name, mend := range map[string]func(error) ([]byte, error){
			"none":    nil,
			"failing": func(error) ([]byte, error) { return nil, errors.New("gone") },
			"damaged": func(error) ([]byte, error) { return bad, nil },
			"other":   func(error) ([]byte, error) { return other, nil },
			"later":   func(error) ([]byte, error) { return later, nil },
			"right":   func(err error) ([]byte, error) { damage = err; mends++; return raw, nil },
		} {
			b := bytes.Clone(bad)
			x, err := OpenIndexLazily(b, mend)
			if err != nil {
				// It is where the root is, for which nobody has to be asked.
				if !errors.Is(err, ErrCorrupt) || at > headerSize+blockSize {
					t.Errorf("damage at %d: %v", at, err)
				}
				continue
			}
			got, err := all(x)
			if name == "right" {
				if err != nil || got != want || x.Check() != nil || !bytes.Equal(b, raw) || mends != 1 || !errors.Is(damage, ErrCorrupt) {
					t.Errorf("damage at %d: mended %d times because of %v: %v", at, mends, damage, err)
				}
				continue
			}
			if name == "later" {
				// What was looked at before stays as it was.
				if names := strings.ReplaceAll(got, "Sec:2", "Sec:1"); err != nil || names != want || x.Check() != nil {
					t.Errorf("damage at %d: an index with other times: %v", at, err)
				}
				for i := range Ino(x.Inodes()) {
					if a := x.Stat(i); a != good.Stat(i) && a != second.Stat(i) {
						t.Fatalf("damage at %d: inode %d is %+v", at, i, a)
					}
				}
				continue
			}
			if !errors.Is(err, ErrCorrupt) || !errors.Is(x.Check(), ErrCorrupt) {
				t.Errorf("damage at %d, mend %s: %v", at, name, err)
			}
			shown += len(got)
			if want[:len(got)] != got {
				t.Errorf("damage at %d, mend %s: something wrong was shown", at, name)
			}
			for i := range Ino(x.Inodes()) {
				if a := x.Stat(i); a.Mode != 0 && a != good.Stat(i) {
					t.Fatalf("damage at %d, mend %s: inode %d is %+v", at, name, i, a)
				}
			}
		}
	}
	if shown == 0 {
		t.Error("nothing was shown of any damaged index")
	}
	for _, at := range []int{20, 40, headerSize + body + 1, len(raw) - 1} {
		bad := bytes.Clone(raw)
		bad[at] ^= 1
		if _, err := OpenIndexLazily(bad, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("damage at %d, of what is always read: %v", at, err)
		}
	}
}
