package storetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/storetest/stacks"
)

const (
	typeMask = 0o170000
	typeFile = 0o100000
	typeDir  = 0o040000
)

var typeLetters = map[uint32]byte{typeFile: 'f', typeDir: 'd', 0o120000: 'l', 0o020000: 'c', 0o060000: 'b', 0o010000: 'p', 0o140000: 's'}

// layers checks what each layer shows: keys, indexes, and the files of its tar.
func (s *suite) layers(t *testing.T, st store.Store) {
	byKey := map[string]store.Layer{}
	byChain := map[digest.Digest]string{}
	s.each(t, st, func(h Held, img store.Image) {
		for n, l := range img.Layers() {
			what := fmt.Sprintf("image %q: layer %d", h.Names, n)
			if l.Key() == "" {
				t.Errorf("%s has no key", what)
			}
			if same, ok := byKey[l.Key()]; ok && same.DiffID() != l.DiffID() {
				t.Errorf("%s: its key is that of %s", what, same.DiffID())
			}
			byKey[l.Key()] = l
			if k, ok := byChain[l.ChainID()]; ok && k != l.Key() {
				t.Errorf("%s: the key of its chain is %q and %q", what, k, l.Key())
			}
			byChain[l.ChainID()] = l.Key()
			ix, err := l.Index(background)
			if err != nil {
				t.Errorf("%s: index: %v", what, err)
				continue
			}
			again, err := l.Index(background)
			if err != nil || again.Inodes() != ix.Inodes() {
				t.Errorf("%s: a second index: %v", what, err)
			}
			if _, err := readAll(l, ix); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if h.Stack == nil {
				filesOf(t, what, l, ix, h.Layers[n])
			}
			if f, err := l.Open(background, 0); err == nil {
				f.Close()
				t.Errorf("%s: its root can be opened as a file", what)
			}
		}
	})
}

// filesOf compares the regular files of a layer with those of its tar.
func filesOf(t *testing.T, what string, l store.Layer, ix overlay.Layer, raw []byte) {
	t.Helper()
	want := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		delete(want, p)
		if h.Typeflag == tar.TypeReg && !strings.HasPrefix(path.Base(p), ".wh.") {
			if want[p], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	tree, err := overlay.Merge(ix)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	for p, body := range want {
		n, ok, err := tree.Walk(p)
		if err != nil || !ok || tree.Attr(n).Mode&typeMask != typeFile {
			t.Errorf("%s: %q is not there: %v", what, p, err)
			continue
		}
		if got, err := read(l, tree.Attr(n), n.Ino()); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %q is %.60q, want %.60q: %v", what, p, got, body, err)
		}
	}
}

// trees compares the merged layers of stacks with the model.
func (s *suite) trees(t *testing.T, st store.Store) {
	s.each(t, st, func(h Held, img store.Image) {
		var indexes []overlay.Layer
		for n, l := range img.Layers() {
			ix, err := l.Index(background)
			if err != nil {
				t.Errorf("image %q: layer %d: %v", h.Names, n, err)
				return
			}
			indexes = append(indexes, ix)
		}
		tree, err := overlay.Merge(indexes...)
		if err != nil {
			t.Errorf("image %q: %v", h.Names, err)
			return
		}
		got, err := s.listing(tree, img.Layers())
		if err != nil {
			t.Errorf("image %q: %v", h.Names, err)
			return
		}
		if h.Stack == nil {
			return
		}
		if want := s.model(h.Stack.View(len(h.Stack))); !slices.Equal(got, want) {
			t.Errorf("image %q: the model has\n%s\nthe store has\n%s", h.Names, missingIn(want, got), missingIn(got, want))
		}
	})
}

// missingIn returns a few lines of a that b has not.
func missingIn(a, b []string) string {
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) && len(out) < 5 {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// row is one entry as a line.
func (s *suite) row(p string, kind byte, a overlay.Attr, link string, xs []string, content string) string {
	slices.Sort(xs)
	size, nlink := fmt.Sprint(a.Size), fmt.Sprint(a.Nlink)
	if kind == 'd' {
		size, nlink = "-", "-"
	}
	if s.want.Loose {
		return fmt.Sprintf("%q %c %s %q %s", p, kind, size, link, content)
	}
	return fmt.Sprintf("%q %c %o %d:%d %s %d.%09d %d %s %q %.200q %s", p, kind, a.Mode&0o7777, a.UID, a.GID, size, a.Sec, a.Nsec, a.Rdev, nlink, link, xs, content)
}

func (s *suite) model(root *stacks.Node) []string {
	var out []string
	root.Walk(func(p string, n *stacks.Node) {
		a := overlay.Attr{Mode: n.Mode, UID: uint32(n.UID), GID: uint32(n.GID), Sec: n.Sec, Nsec: uint32(n.Nsec), Nlink: uint32(n.Nlink),
			Size: uint64(len(n.Body)), Rdev: uint32(n.Major)<<8 | uint32(n.Minor)&0xff | uint32(n.Minor)&^0xff<<12}
		link, content := "", ""
		switch n.Type {
		case 'l':
			link, a.Size, a.Mode = n.Link, uint64(len(n.Link)), 0o777
		case 'f':
			content = fmt.Sprintf("%x", sha256.Sum256(n.Body))
		}
		var xs []string
		for k, v := range n.Xattrs {
			xs = append(xs, k+"="+v)
		}
		out = append(out, s.row(p, n.Type, a, link, xs, content))
	})
	slices.Sort(out)
	return out
}

func (s *suite) listing(tree *overlay.Tree, layers []store.Layer) ([]string, error) {
	var out []string
	var walk func(p string, n overlay.NodeID) error
	walk = func(p string, n overlay.NodeID) error {
		a := tree.Attr(n)
		kind, link, content := typeLetters[a.Mode&typeMask], "", ""
		switch kind {
		case 'l':
			link, a.Mode = tree.Readlink(n), a.Mode&typeMask|0o777
		case 'f':
			b, err := read(layers[n.Layer()], a, n.Ino())
			if err != nil {
				return fmt.Errorf("%q: %w", p, err)
			}
			content = fmt.Sprintf("%x", sha256.Sum256(b))
		}
		var xs []string
		tree.Xattrs(n, func(name string, v []byte) bool {
			xs = append(xs, name+"="+string(v))
			return true
		})
		out = append(out, s.row(p, kind, a, link, xs, content))
		if kind != 'd' {
			return nil
		}
		d, err := tree.Dir(n)
		if err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		for {
			name, c, _, ok := d.Next()
			if !ok {
				return nil
			}
			if err := walk(strings.TrimPrefix(p+"/"+name, "/"), c); err != nil {
				return err
			}
		}
	}
	if len(layers) == 0 {
		return nil, nil
	}
	err := walk("", tree.Root())
	slices.Sort(out)
	return out, err
}

// read reads a regular file of a layer.
func read(l store.Layer, a overlay.Attr, i overlay.Ino) ([]byte, error) {
	f, err := l.Open(background, i)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() != int64(a.Size) {
		return nil, fmt.Errorf("%d bytes, the index says %d", f.Size(), a.Size)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err == nil && len(b) != int(a.Size) {
		err = fmt.Errorf("%d bytes of %d", len(b), a.Size)
	}
	if n, e := f.ReadAt(make([]byte, 1), f.Size()); err == nil && (n != 0 || e != io.EOF) {
		err = fmt.Errorf("a read behind its end: %d bytes, %v", n, e)
	}
	if err == nil && len(b) <= 64<<10 {
		whole := make([]byte, len(b))
		if err = store.ReadWhole(background, l, i, whole); err == nil && !bytes.Equal(whole, b) {
			err = errors.New("read whole it is another")
		}
	}
	return b, err
}

// readAll reads every regular file of a layer and returns the bytes that there are.
func readAll(l store.Layer, ix overlay.Layer) (n int64, err error) {
	var walk func(dir overlay.Ino, depth int) error
	walk = func(dir overlay.Ino, depth int) error {
		lo, hi, err := ix.Children(dir)
		if err != nil || depth > 5000 {
			return fmt.Errorf("children of inode %d at depth %d: %w", dir, depth, err)
		}
		for e := lo; e < hi; e++ {
			name, i, flags := ix.Entry(e)
			if flags&overlay.EntWhiteout != 0 {
				continue
			}
			switch a := ix.Stat(i); a.Mode & typeMask {
			case typeDir:
				if err := walk(i, depth+1); err != nil {
					return err
				}
			case typeFile:
				b, err := read(l, a, i)
				if err != nil {
					return fmt.Errorf("file %q: %w", name, err)
				}
				n += int64(len(b))
			}
		}
		return nil
	}
	err = walk(0, 0)
	return n, err
}

// tars checks that each layer's tar comes back byte for byte.
func (s *suite) tars(t *testing.T, st store.Store) {
	if s.want.NoTar {
		return
	}
	r := rand.New(rand.NewPCG(1, 2))
	s.each(t, st, func(h Held, img store.Image) {
		for n, l := range img.Layers() {
			if c, ok := l.(store.TarHolder); ok && !c.HasTar() {
				t.Errorf("image %q: layer %d says that it has no tar", h.Names, n)
			}
			if err := checkTar(l, h.Layers[n], r); err != nil {
				t.Errorf("image %q: layer %d: %v", h.Names, n, err)
			}
		}
	})
}

// checkTar reads a layer's tar whole and in pieces.
func checkTar(l store.Layer, want []byte, r *rand.Rand) error {
	size, err := l.TarSize(background)
	if err != nil || size != int64(len(want)) {
		return fmt.Errorf("its tar has %d bytes, want %d: %w", size, len(want), err)
	}
	f, err := l.Tar(background)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil || digest.FromBytes(got) != l.DiffID() || !bytes.Equal(got, want) {
		return fmt.Errorf("its tar is another, of %d bytes: %w", len(got), err)
	}
	for range 20 {
		off := r.Int64N(size + 10)
		b := make([]byte, r.IntN(5000))
		n, err := f.ReadAt(b, off)
		rest := want[min(off, size):]
		rest = rest[:min(len(b), len(rest))]
		if !bytes.Equal(b[:n], rest) || n < len(b) && err != io.EOF {
			return fmt.Errorf("%d bytes of its tar at %d: %d, %w", len(b), off, n, err)
		}
	}
	return nil
}
