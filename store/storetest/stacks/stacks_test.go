package stacks

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"
)

// TestTarsSayWhatTheEntriesSay reads what was packed with archive/tar.
func TestTarsSayWhatTheEntriesSay(t *testing.T) {
	for seed := range uint64(200) {
		for k, l := range New(seed) {
			r := tar.NewReader(bytes.NewReader(l.Tar))
			for n, e := range l.Entries {
				h, err := r.Next()
				for err == nil && h.Typeflag == tar.TypeXGlobalHeader {
					h, err = r.Next()
				}
				if err != nil {
					t.Fatalf("seed %d layer %d entry %d %+v: %v", seed, k, n, e, err)
				}
				body, err := io.ReadAll(r)
				if err != nil || h.Name != e.Name || h.ModTime.Unix() != e.Sec || int64(h.ModTime.Nanosecond()) != e.Nsec || h.Uid != e.UID || h.Mode != int64(e.Mode) {
					t.Fatalf("seed %d layer %d entry %d: %+v, want %+v: %v", seed, k, n, h, e, err)
				}
				if e.Type == 'f' && !bytes.Equal(body, e.Body) {
					t.Fatalf("seed %d layer %d entry %d: %d bytes, want %d", seed, k, n, len(body), len(e.Body))
				}
				for name, v := range e.Xattrs {
					if h.PAXRecords["SCHILY.xattr."+name] != v {
						t.Fatalf("seed %d layer %d entry %d: xattr %q", seed, k, n, name)
					}
				}
			}
			if h, err := r.Next(); err != io.EOF {
				t.Fatalf("seed %d layer %d: one more: %+v %v", seed, k, h, err)
			}
		}
	}
}

func TestSameSeedSameTars(t *testing.T) {
	for seed := range uint64(20) {
		a, b := New(seed), New(seed)
		for n := range a {
			if !bytes.Equal(a[n].Tar, b[n].Tar) {
				t.Fatalf("seed %d layer %d differs", seed, n)
			}
		}
	}
}
