package archive

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"imagefs/store"
	"imagefs/store/archive/compress"
	blobs "imagefs/store/blob"
	"imagefs/store/layer"
)

// maxScanned bounds the members of layers that are kept in memory from the
// first pass over a compressed archive.
const maxScanned = 4 << 20

// scannedLayer is a layer that the first pass over a compressed archive has read.
type scannedLayer struct {
	off   int64
	layer *layer.Streamed
}

// table is what the first pass over a compressed archive finds, as it is kept in
// the cache.
type table struct {
	Files map[string][2]int64 // name → offset, size
	Links map[string]string
	Count int
	Ended bool
}

// filePlaces opens an archive file: one that is not compressed where it lies,
// one that is through a seek index.
func (s *Store) filePlaces(ld *load, n *snapshot, f *still) (places, error) {
	compressed, err := blobs.IsCompressed(f, f.id.size)
	if err != nil {
		return nil, err
	}
	origin := f.id.origin()
	if !compressed {
		c, err := ld.index(io.NewSectionReader(f, 0, f.id.size))
		if err != nil {
			return nil, err
		}
		return &within{fileContent: c.(*fileContent), origin: origin}, nil
	}
	p := packedPass{ld: ld, scanned: map[string]*scannedLayer{}}
	st, kept, err := s.blobs.OpenStream(ld.ctx, f, f.id.size, origin, p.read)
	if err != nil {
		return nil, err
	}
	if err := n.held.add(closing{st}); err != nil {
		return nil, err
	}
	var t table
	if err := json.Unmarshal(kept, &t); err != nil {
		return nil, fmt.Errorf("kept table of the archive: %w: %w", store.ErrCorrupt, err)
	}
	c := &fileContent{ld: ld, f: io.NewSectionReader(st, 0, st.Size()), tree: newTree[*extent](ld.lim.Members)}
	for name, e := range t.Files {
		if e[0] < 0 || e[1] < 0 || e[1] > st.Size()-e[0] {
			return nil, fmt.Errorf("kept table of the archive: %.200q is not in it: %w", name, store.ErrCorrupt)
		}
		c.tree.addFile(name, &extent{off: e[0], size: e[1]})
	}
	for name, to := range t.Links {
		c.tree.addLink(name, to)
	}
	c.tree.count, c.tree.ended = t.Count, t.Ended
	return &within{fileContent: c, origin: "in " + origin, scanned: p.scanned}, nil
}

type closing struct{ s *blobs.Stream }

// Close implements io.Closer.
func (c closing) Close() error { c.s.Close(); return nil }

// packedPass reads a compressed archive from front to back.
type packedPass struct {
	ld      *load
	scanned map[string]*scannedLayer
	entries int
}

// read notes where each member lies, and scans layers on the way, because to
// come back to them costs as much as to read everything again.
func (p *packedPass) read(r io.Reader) ([]byte, error) {
	in := &hashing{r: r} // to count
	tr := tar.NewReader(in)
	tree := newTree[*extent](p.ld.lim.Members)
	var end int64 // of the last member
	for {
		if err := p.ld.ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, tarError(err, tree.count)
		}
		if err := tree.seen(hdr.Name, hdr.Linkname); err != nil {
			return nil, err
		}
		end = in.n + padded(hdr)
		name := cleanName(hdr.Name)
		if entry(tree, name, hdr) {
			continue
		}
		delete(p.scanned, name)
		e := &extent{off: in.n, size: hdr.Size}
		tree.addFile(name, e)
		if err := p.member(name, e, tr); err != nil {
			return nil, err
		}
	}
	if tree.count == 0 {
		return nil, errEmpty
	}
	tree.ended = in.n > end
	t := table{Files: map[string][2]int64{}, Links: tree.links, Count: tree.count, Ended: tree.ended}
	for name, e := range tree.files {
		t.Files[name] = [2]int64{e.off, e.size}
	}
	return json.Marshal(t)
}

// member scans a member that looks like a layer which is not compressed. What is
// wrong with it, whoever reads it will find out.
func (p *packedPass) member(name string, e *extent, r io.Reader) error {
	head, all, err := peek(r)
	if err != nil || compress.Detect(head) != compress.None || !looksLikeTar(head) || p.entries > maxScanned {
		return err
	}
	lent := &leash{r: all}
	l, err := layer.ScanTarStream(p.ld.ctx, lent, layer.Limits{})
	lent.end()
	if err != nil {
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrTooLarge) {
			err = nil // the layer's, or else the next read of the archive fails too
		}
		return err
	}
	p.entries += l.Entries()
	p.scanned[name] = &scannedLayer{e.off, l}
	return nil
}
