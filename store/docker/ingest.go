package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/daemon"
	"imagefs/store/daemon/api"
	"imagefs/store/layer"
	"imagefs/store/unpacked"
)

// ingest is a load under way, in its stage directory.
type ingest struct {
	s      *Store
	name   string
	root   *beneath.Root // the stage directory
	lock   *os.File
	mu     sync.Mutex // guards staged and count while layers are unpacked
	staged []*staged
	count  int
	ended  bool
}

var _ store.Ingest = (*ingest)(nil)

// staged is an unpacked layer in the stage directory.
type staged struct {
	u    *layer.Unpacked
	name string // its directory in the stage
	dir  *os.File
	used bool // it has become the layer of a chain ID
}

func (d *staged) DiffID() digest.Digest { return d.u.DiffID }

func (d *staged) close() {
	d.u.Close()
	d.dir.Close()
}

// Ingest implements store.Ingester.
func (s *Store) Ingest(ctx context.Context) (store.Ingest, error) {
	var in store.Ingest
	err := s.change(ctx,
		func() (err error) { in, err = s.ingestDisk(); return err },
		func(*api.Client) error { in = daemon.NewIngest(lives{s}); return nil })
	return in, err
}

// ingestDisk is Ingest with the lock held, so that nobody takes the new
// directory for one of a dead process.
func (s *Store) ingestDisk() (store.Ingest, error) {
	if err := skeleton(s.root); err != nil {
		return nil, readOnly(err)
	}
	in := &ingest{s: s, name: beneath.Random(8)}
	p := stageDir + "/" + in.name
	if err := s.root.Mkdir(p, 0o700); err != nil {
		return nil, err
	}
	fail := func(err error) (store.Ingest, error) {
		_ = s.root.RemoveAll(p)
		return nil, err
	}
	var err error
	if in.root, err = s.root.Sub(p); err != nil {
		return fail(err)
	}
	if in.lock, err = in.root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		in.root.Close()
		return fail(err)
	}
	if err = flock(in.lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		in.lock.Close()
		in.root.Close()
		return fail(err)
	}
	return in, nil
}

// HasLayer implements store.Ingest.
func (in *ingest) HasLayer(chain digest.Digest) bool { return in.s.hasLayer(chain) }

// hasLayer tells whether a layer is there with all that it needs.
func (s *Store) hasLayer(chain digest.Digest) bool {
	d := overlay2.layers + "/" + chain.Encoded() + "/"
	diff, err := s.root.Read(d+"diff", maxSmall)
	if err != nil || !store.IsID(digest.Digest(diff)) {
		return false
	}
	var parent digest.Digest
	if p, err := s.root.Read(d+"parent", maxSmall); err == nil {
		parent = digest.Digest(p)
	}
	if store.NextChainID(parent, digest.Digest(diff)) != chain {
		return false
	}
	cache, _, err := s.readLayer(chain, parent, digest.Digest(diff))
	return err == nil && s.root.Exists(overlay2.home+"/"+cache+"/link") && s.root.Exists(d+"tar-split.json.gz")
}

// Unpack implements store.Ingest.
func (in *ingest) Unpack(ctx context.Context, tar io.Reader) (store.Staged, error) {
	d, err := in.unpack(ctx, tar)
	if err != nil {
		return nil, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.staged = append(in.staged, d)
	return d, nil
}

func (in *ingest) unpack(ctx context.Context, tar io.Reader) (_ *staged, err error) {
	in.mu.Lock()
	d := &staged{name: strconv.Itoa(in.count)}
	in.count++
	in.mu.Unlock()
	for _, m := range []struct {
		path string
		mode uint32
	}{{"", 0o700}, {"/overlay", 0o710}, {"/overlay/diff", 0o755}, {"/layerdb", 0o755}} {
		if err := in.root.Mkdir(d.name+m.path, m.mode); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			if d.dir != nil {
				d.dir.Close()
			}
			_ = in.root.RemoveAll(d.name)
		}
	}()
	if d.dir, err = in.root.Dir(d.name + "/overlay/diff"); err != nil {
		return nil, err
	}
	spill, err := in.root.OpenFile(d.name+"/spill", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer spill.Close()
	split, err := in.root.OpenFile(d.name+"/layerdb/tar-split.json.gz", os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer split.Close()
	out := bufio.NewWriterSize(split, 128<<10)
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewWriterSize(z, 64<<10)
	d.u, err = layer.Unpack(ctx, tar, layer.UnpackOptions{Dst: d.dir, Split: lines, Spill: spill, Unprivileged: os.Geteuid() != 0})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(lines.Flush(), z.Close(), out.Flush(), unix.Fchmod(int(split.Fd()), 0o644)); err != nil {
		d.u.Close()
		return nil, fmt.Errorf("write tar-split: %w", err)
	}
	if !d.u.Spilled {
		if err := in.root.Remove(d.name + "/spill"); err != nil {
			d.u.Close()
			return nil, err
		}
	}
	beneath.Step()
	return d, nil
}

// again unpacks a staged layer once more, for a second chain ID.
func (in *ingest) again(ctx context.Context, d *staged) (*staged, error) {
	src := layer.TarSource{Dir: d.dir, Temp: unpacked.TempFile, Split: func() (io.ReadCloser, error) {
		f, err := in.root.OpenFile(d.name+"/layerdb/tar-split.json.gz", os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		return unpacked.Gunzip(f)
	}}
	if d.u.Spilled {
		f, err := in.root.OpenFile(d.name+"/spill", os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		src.Spill = f
	}
	t, err := layer.OpenTar(src)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	n, err := in.unpack(ctx, io.NewSectionReader(t, 0, t.Size()))
	if err != nil {
		return nil, err
	}
	in.staged = append(in.staged, n)
	if n.u.DiffID != d.u.DiffID {
		return nil, fmt.Errorf("layer %s changed while it was copied: %w", d.u.DiffID, store.ErrCorrupt)
	}
	return n, nil
}

// Commit implements store.Ingest.
func (in *ingest) Commit(ctx context.Context, images []store.NewImage) error {
	if in.ended {
		return fmt.Errorf("load has ended: %w", store.ErrInvalid)
	}
	unlock, err := in.s.lock(ctx)
	if errors.Is(err, errLive) {
		return fmt.Errorf("a Docker daemon was started on %s meanwhile; do it again: %w", in.s.path, store.ErrBusy)
	}
	if err != nil {
		return err
	}
	defer unlock()
	c := commit{in: in, ctx: ctx, made: map[digest.Digest]*recordLayer{}, links: map[digest.Digest]string{}, indexes: map[digest.Digest]*layerIndex{},
		rec: record{Op: opLoad, Stage: in.name, Names: map[string]digest.Digest{}}}
	seen := map[digest.Digest]bool{}
	for _, img := range images {
		if err := c.image(img, seen); err != nil {
			return err
		}
	}
	beneath.Step()
	if err := in.s.root.SyncFS(); err != nil {
		return err
	}
	beneath.Step()
	file, err := in.s.begin(c.rec)
	if err != nil {
		return err
	}
	beneath.Step()
	for _, d := range in.staged {
		d.close()
	}
	if err := in.s.doLoad(c.rec); err != nil {
		return errors.Join(err, in.s.takeBack(file, c.rec))
	}
	in.end()
	return in.s.end(file)
}

// end lets go of the stage directory, which is removed already or by Abort.
func (in *ingest) end() {
	if in.ended {
		return
	}
	in.ended = true
	in.root.Close()
	in.lock.Close()
}

// Abort implements store.Ingest.
func (in *ingest) Abort() {
	if in.ended {
		return
	}
	for _, d := range in.staged {
		d.close()
	}
	if err := in.s.root.RemoveAll(stageDir + "/" + in.name); err != nil {
		in.s.log.Warn("cannot clear a load that failed; the next start will", "err", err)
	}
	in.end()
}

// layerIndex is a layer as the ones above it need it.
type layerIndex struct {
	overlay.Layer
	open func(context.Context, overlay.Ino) (store.File, error)
}

// commit prepares the record of a load.
type commit struct {
	in      *ingest
	ctx     context.Context
	rec     record
	made    map[digest.Digest]*recordLayer
	links   map[digest.Digest]string // chain ID → "lower" of a layer on top of it
	indexes map[digest.Digest]*layerIndex
}

func (c *commit) image(img store.NewImage, seen map[digest.Digest]bool) error {
	id := digest.FromBytes(img.Config)
	cfg, err := store.ParseConfig(img.Config)
	if err != nil {
		return err
	}
	if len(cfg.DiffIDs) != len(img.Layers) {
		return fmt.Errorf("image %s has %d layers, its config %d: %w", id, len(img.Layers), len(cfg.DiffIDs), store.ErrCorrupt)
	}
	var chain digest.Digest
	var chains []digest.Digest // bottom first, below the current one
	for n, l := range img.Layers {
		if l.DiffID != cfg.DiffIDs[n] || l.Staged != nil && l.Staged.DiffID() != l.DiffID {
			return fmt.Errorf("image %s: layer %d is %s, its config says %s: %w", id, n, l.DiffID, cfg.DiffIDs[n], store.ErrCorrupt)
		}
		parent := chain
		chain = store.NextChainID(chain, l.DiffID)
		if err := c.layer(chain, parent, chains, l); err != nil {
			return fmt.Errorf("image %s: layer %d: %w", id, n, err)
		}
		chains = append(chains, chain)
	}
	for _, ref := range img.Names {
		if err := store.CheckTag(ref); err != nil {
			return err
		}
		c.rec.Names[ref] = id
	}
	if _, err := c.in.s.config(id); err == nil || seen[id] {
		return nil
	}
	seen[id] = true
	if err := c.in.root.Write("config-"+id.Encoded(), img.Config, 0o600); err != nil {
		return err
	}
	c.rec.Images = append(c.rec.Images, recordImage{ID: id, Parent: img.Parent})
	return nil
}

// layer settles a staged layer on top of the chain below it, if the store does not have it.
func (c *commit) layer(chain, parent digest.Digest, below []digest.Digest, l store.NewLayer) error {
	s := c.in.s
	if c.made[chain] != nil || s.hasLayer(chain) {
		return nil
	}
	d, ok := l.Staged.(*staged)
	if !ok {
		return fmt.Errorf("layer %s was removed meanwhile; load again: %w", l.DiffID, store.ErrBusy)
	}
	if d.used {
		var err error
		if d, err = c.in.again(c.ctx, d); err != nil {
			return err
		}
	}
	d.used = true
	lower, open, err := c.lower(below)
	if err != nil {
		return err
	}
	if err := d.u.Settle(c.ctx, lower, open); err != nil {
		return err
	}
	d.u.Blob = l.Blob
	raw, err := d.u.Index()
	if err != nil {
		return err
	}
	if err := writeFile(c.in.root, d.name+"/index", raw, 0o600); err != nil {
		return err
	}
	// What lies above needs the layer as it will be, with its index in memory until then.
	ix, err := layer.ReadIndex(raw)
	if err != nil {
		return err
	}
	c.indexes[chain] = &layerIndex{ix.Index, func(_ context.Context, i overlay.Ino) (store.File, error) {
		return layer.Open(d.dir, ix.Index, i)
	}}
	return c.write(d, chain, parent)
}

// write makes the files that Docker has for a layer, in the stage.
func (c *commit) write(d *staged, chain, parent digest.Digest) error {
	r := recordLayer{Chain: chain, Parent: parent, Cache: beneath.Random(32), Link: newLink(), Dir: d.name}
	type file struct {
		path, text string
	}
	files := []file{
		{"/layerdb/cache-id", r.Cache},
		{"/layerdb/diff", string(d.u.DiffID)},
		{"/layerdb/size", strconv.FormatInt(d.u.Size, 10)},
		{"/overlay/link", r.Link},
	}
	if parent != "" {
		lower, err := c.lowerLinks(parent)
		if err != nil {
			return err
		}
		files = append(files, file{"/layerdb/parent", string(parent)}, file{"/overlay/lower", lower})
		if err := c.in.root.Mkdir(d.name+"/overlay/work", 0o700); err != nil {
			return err
		}
		c.links[chain] = "l/" + r.Link + ":" + lower
	} else {
		c.links[chain] = "l/" + r.Link
	}
	for _, f := range files {
		if err := writeFile(c.in.root, d.name+f.path, []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	c.rec.Layers = append(c.rec.Layers, r)
	c.made[chain] = &r
	return nil
}

// lowerLinks returns the content of "lower" for a layer on top of a chain: nearest parent first.
func (c *commit) lowerLinks(parent digest.Digest) (string, error) {
	if l, ok := c.links[parent]; ok {
		return l, nil
	}
	root, at := c.in.s.root, &c.in.s.at
	cache, err := root.Read(at.layers+"/"+parent.Encoded()+"/cache-id", maxSmall)
	if err != nil {
		return "", err
	}
	if !isCacheID(cache) {
		return "", fmt.Errorf("cache-id of layer %s: %w", parent, store.ErrCorrupt)
	}
	link, err := root.Read(at.home+"/"+string(cache)+"/link", maxSmall)
	if err != nil {
		return "", err
	}
	out := "l/" + string(link)
	if low, err := root.Read(at.home+"/"+string(cache)+"/lower", maxSmall); err == nil && len(low) > 0 {
		out += ":" + string(low)
	}
	c.links[parent] = out
	return out, nil
}

// lower merges the layers below a new one.
func (c *commit) lower(below []digest.Digest) (*overlay.Tree, func(overlay.NodeID) (store.File, error), error) {
	if len(below) == 0 {
		return nil, nil, nil
	}
	layers := make([]overlay.Layer, len(below))
	var parent digest.Digest
	for n, chain := range below {
		ix, ok := c.indexes[chain]
		if !ok {
			diff, err := c.in.s.root.Read(overlay2.layers+"/"+chain.Encoded()+"/diff", maxSmall)
			if err != nil {
				return nil, nil, err
			}
			l := c.in.s.layer(chain, parent, digest.Digest(diff))
			m, err := l.Index(c.ctx)
			if err != nil {
				return nil, nil, err
			}
			ix = &layerIndex{m, l.Open}
			c.indexes[chain] = ix
		}
		layers[n] = ix.Layer
		parent = chain
	}
	t, err := overlay.Merge(layers...)
	if err != nil {
		return nil, nil, err
	}
	return t, func(n overlay.NodeID) (store.File, error) {
		return c.indexes[below[n.Layer()]].open(c.ctx, n.Ino())
	}, nil
}

// writeFile writes a file of the stage, which becomes durable with all of it.
func writeFile(root *beneath.Root, p string, data []byte, mode uint32) error {
	f, err := root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(os.FileMode(mode)), f.Close())
}

// newLink makes the short name of a layer, 26 characters as Docker's.
func newLink() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	b := []byte(beneath.Random(26))
	out := make([]byte, 26)
	for i := range out {
		out[i] = alphabet[(hexVal(b[2*i])<<4|hexVal(b[2*i+1]))&31]
	}
	return string(out)
}

func hexVal(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}
