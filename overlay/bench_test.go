package overlay

import (
	"fmt"
	"testing"
)

// benchLayer builds a layer of dirs directories with files files each. Layers
// with odd numbers have every second of their names in common with the others,
// and layers with even numbers have all names in common.
func benchLayer(tb testing.TB, layer, dirs, files int) []byte {
	tb.Helper()
	b := NewBuilder()
	fillLayer(tb, b, layer, dirs, files)
	out, err := b.Finish(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func fillLayer(tb testing.TB, b *Builder, layer, dirs, files int) {
	tb.Helper()
	for d := range dirs {
		dir := fmt.Sprintf("usr/share/d%03d", d)
		if err := b.Add(Entry{Path: dir, Kind: Dir, Attr: Attr{Mode: 0o755}}); err != nil {
			tb.Fatal(err)
		}
		for f := range files {
			e := Entry{Path: fmt.Sprintf("%s/file%04d", dir, f*2+layer%2*(f%2)), Kind: File, Attr: Attr{Mode: 0o644, Size: uint64(f)}, Ref: uint64(f)}
			if err := b.Add(e); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// benchLayers are three layers of 10,000 files in the same 100 directories.
func benchLayers(tb testing.TB) (out []Layer) {
	tb.Helper()
	for l := range 3 {
		x, err := OpenIndex(benchLayer(tb, l, 100, 100))
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, x)
	}
	return out
}

// walkTree reads all directories and returns the number of entries.
func walkTree(tb testing.TB, t *Tree, n NodeID) (count int) {
	d, err := t.Dir(n)
	if err != nil {
		tb.Fatal(err)
	}
	for {
		_, c, _, ok := d.Next()
		if !ok {
			return count
		}
		count++
		if t.Attr(c).Mode&typeMask == modeDir {
			count += walkTree(tb, t, c)
		}
	}
}

// Merging is lazy, so the benchmark looks into every directory.
func BenchmarkMerge(b *testing.B) {
	layers := benchLayers(b)
	b.ReportAllocs()
	for b.Loop() {
		t, err := Merge(layers...)
		if err != nil {
			b.Fatal(err)
		}
		if walkTree(b, t, t.Root()) < 10000 {
			b.Fatal("too few entries")
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	t, err := Merge(benchLayers(b)...)
	if err != nil {
		b.Fatal(err)
	}
	dir := t.Root()
	for _, s := range []string{"usr", "share", "d042"} {
		if dir, _, err = t.Lookup(dir, s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := t.Lookup(dir, "file0084"); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// One merged directory that was looked into before, as the kernel reads it again.
func BenchmarkReadDir(b *testing.B) {
	t, err := Merge(benchLayers(b)...)
	if err != nil {
		b.Fatal(err)
	}
	dir := t.Root()
	for _, s := range []string{"usr", "share", "d042"} {
		if dir, _, err = t.Lookup(dir, s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		d, err := t.Dir(dir)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for {
			if _, _, _, ok := d.Next(); !ok {
				break
			}
			n++
		}
		if n < 100 {
			b.Fatal(n)
		}
	}
}

// From records to an index.
func BenchmarkBuild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if len(benchLayer(b, 0, 100, 100)) == 0 {
			b.Fatal("an empty index")
		}
	}
}

func BenchmarkOpenIndex(b *testing.B) {
	raw := benchLayer(b, 0, 100, 100)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := OpenIndex(raw); err != nil {
			b.Fatal(err)
		}
	}
}
