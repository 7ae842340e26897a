package archive

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store/storetest"
)

// big makes an archive with a layer of incompressible files while it is read.
func big(w io.Writer, files, size int) error {
	name := strings.Repeat("0", 64) + "/layer.tar"
	tw := tar.NewWriter(w)
	padded := (size + 511) / 512 * 512
	if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(files*(512+padded) + 1024)}); err != nil {
		return err
	}
	h := digest.SHA256.Digester()
	lw := tar.NewWriter(io.MultiWriter(tw, h.Hash()))
	body := make([]byte, size)
	rand.Read(body)
	for i := range files {
		if err := lw.WriteHeader(&tar.Header{Name: fmt.Sprint("file", i), Typeflag: tar.TypeReg, Size: int64(size), Mode: 0o644}); err != nil {
			return err
		}
		if _, err := lw.Write(body); err != nil {
			return err
		}
	}
	if err := lw.Close(); err != nil {
		return err
	}
	a := storetest.Archive{}
	a.Set("config.json", fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, h.Digest()))
	a.Set("manifest.json", fmt.Appendf(nil, `[{"Config":"config.json","Layers":[%q]}]`, name))
	for _, m := range a.Members {
		if err := tw.WriteHeader(&tar.Header{Name: m.Name, Typeflag: tar.TypeReg, Size: int64(len(m.Body))}); err != nil {
			return err
		}
		if _, err := tw.Write(m.Body); err != nil {
			return err
		}
	}
	return tw.Close()
}

func TestMemoryAndProgressOfABigPipe(t *testing.T) {
	defer goroutines(t)
	const files, size = 300, 1 << 20
	runtime.GC()
	var peak uint64
	var calls int
	var last Progress
	returned := false
	progress := func(p Progress) {
		if returned || p.Read < last.Read || p.Total != -1 {
			t.Errorf("after %+v: %+v, returned %t", last, p, returned)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc)
		calls, last = calls+1, p
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(big(w, files, size)) }()
	var sink storetest.Sink
	start := time.Now()
	_, err := NewLoader(&sink, Options{Progress: progress}).Load(ctx, r)
	returned = true
	if err != nil {
		t.Fatal(err)
	}
	if peak > 64<<20 {
		t.Errorf("%d MiB of memory", peak>>20)
	}
	if last.Read < files*size || last.What != "commit" || calls > int(time.Since(start)/reportEvery)+3 {
		t.Errorf("%d calls, at last %+v", calls, last)
	}
}

func TestCancel(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (io.Reader, func()){
		"a pipe of the kernel that nobody writes to": func(t *testing.T) (io.Reader, func()) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.Write(storetest.Docker(app1).Tar()[:3000])
			return r, func() { r.Close(); w.Close() }
		},
		"a reader that cannot be interrupted": func(*testing.T) (io.Reader, func()) {
			r, w := io.Pipe()
			go w.Write(storetest.Gzip(storetest.Docker(app1).Tar())[:200])
			return r, func() { w.Close() }
		},
		"a reader without an end": func(*testing.T) (io.Reader, func()) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(big(w, 1<<30, 1<<20)) }()
			return r, func() { r.Close() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			goroutines(t)
			r, end := open(t)
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			var sink storetest.Sink
			start := time.Now()
			_, err := NewLoader(&sink, Options{}).Load(ctx, r)
			if err != context.DeadlineExceeded || sink.Open() != 0 || time.Since(start) > 5*time.Second {
				t.Errorf("%v after %s, %d open", err, time.Since(start), sink.Open())
			}
			end()
		})
	}
	t.Run("a fifo that nobody opens", func(t *testing.T) {
		goroutines(t)
		p := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := NewLoader(&storetest.Sink{}, Options{}).LoadPath(ctx, p); err != context.DeadlineExceeded {
			t.Error(err)
		}
	})
	t.Run("before the start", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		for way := range map[string]bool{"pipe": true, "path": true} {
			var sink storetest.Sink
			l := NewLoader(&sink, Options{})
			var err error
			if way == "pipe" {
				_, err = l.Load(ctx, pipe(storetest.Docker(app1).Tar()))
			} else {
				_, err = l.LoadPath(ctx, write(t, storetest.Docker(app1).Tar()))
			}
			if err != context.Canceled || len(sink.Images()) > 0 {
				t.Error(way, err)
			}
		}
	})
}
