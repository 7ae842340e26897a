package archive

import (
	"bytes"
	"io"
	"reflect"
	"testing"

	"imagefs/store"
	"imagefs/store/storetest"
)

// FuzzLoad loads anything as a file and from a pipe. Nothing may panic, hang or
// be left open; errors are of a known kind; and where both succeed, with the same result.
func FuzzLoad(f *testing.F) {
	for _, a := range forms() {
		f.Add(a.Tar())
	}
	small := storetest.Image{Names: []string{"a:1"}, Layers: [][]byte{storetest.Files("a=1")}}
	f.Add(storetest.Gzip(storetest.Docker(small).Tar()))
	f.Add(storetest.Zstd(storetest.OCI(storetest.Gzip, small).Tar()))
	f.Add(storetest.Legacy(app2).Tar())
	l := storetest.Hybrid(small)
	l.Symlink("b", "a")
	l.Symlink("a", "b")
	l.Hardlink("manifest.json", "index.json")
	f.Add(l.Tar())
	limits := Limits{Members: 1000, Held: 1 << 20, Images: 20, Window: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		var outs [][]store.Loaded
		for way, load := range map[string]func(*Loader) ([]store.Loaded, error){
			"file": func(l *Loader) ([]store.Loaded, error) {
				return l.file(ctx, io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
			},
			"pipe": func(l *Loader) ([]store.Loaded, error) { return l.Load(ctx, pipe(b)) },
		} {
			sink := storetest.Sink{OnUnpack: func(r io.Reader) error { return nil }}
			out, err := load(NewLoader(&sink, Options{Limits: limits}))
			known(t, err)
			if sink.Open() != 0 || len(sink.Images()) != len(out) {
				t.Fatalf("%s: %d open, %d of %d images", way, sink.Open(), len(out), len(sink.Images()))
			}
			if err == nil {
				outs = append(outs, out)
			}
		}
		if len(outs) == 2 && !reflect.DeepEqual(outs[0], outs[1]) {
			t.Fatalf("%v\n%v", outs[0], outs[1])
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("a/b", "a", "../c", "a/c/b")
	f.Fuzz(func(t *testing.T, want, link, target, file string) {
		if cleanName(file) == "" {
			return // the root is no file
		}
		tr := newTree[int](10)
		tr.addFile(cleanName(file), 1)
		tr.addLink(cleanName(link), cleanName(target))
		name, ok, err := tr.resolve(want)
		known(t, err)
		if _, there := tr.files[name]; ok != there {
			t.Fatalf("%q resolves to %q", want, name)
		}
		if n := cleanName(want); n != cleanName(n) || n == ".." || len(n) > 2 && (n[:3] == "../" || n[0] == '/') {
			t.Fatalf("%q is not clean", n)
		}
	})
}
