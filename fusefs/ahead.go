package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// Small files that are read one after the other are pushed into the kernel's
// page cache before they are asked for. The inodes of a directory lie together
// in a layer, so what comes next is the inode with the next number.

const (
	aheadFirst = 8         // files of the first push
	aheadMost  = 128       // files of one push
	aheadSize  = 64 << 10  // bytes of the largest file that is pushed
	aheadBytes = 512 << 10 // bytes of one push
	aheadSkip  = 32        // inodes that the reader may pass over and still be reading on
)

// ahead pushes for all layers, with one goroutine.
type ahead struct {
	mu     sync.Mutex
	layers map[*layerSlot]*run
	jobs   chan *run
}

// run is the reading of one layer.
type run struct {
	l    *layerSlot
	last overlay.Ino // read by the user
	next overlay.Ino // to be pushed
	n    int         // files of the next push, 0: it is not yet clear that the reader reads on
	busy bool
}

// note is told of each small file that is read through the server.
func (a *ahead) note(f *fsys, l *layerSlot, i overlay.Ino) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs == nil {
		a.layers, a.jobs = map[*layerSlot]*run{}, make(chan *run, 16)
		f.work.Go(func() { a.push(f) })
	}
	r := a.layers[l]
	if r == nil {
		if len(a.layers) >= 256 {
			clear(a.layers)
		}
		r = &run{l: l}
		a.layers[l] = r
		r.last, r.next = i, i+1
		return
	}
	on := i > r.last && i <= max(r.last, r.next)+aheadSkip
	r.last = i
	if !on {
		r.n, r.next = 0, i+1
		return
	}
	r.next = max(r.next, i+1)
	if r.n = min(max(2*r.n, aheadFirst), aheadMost); r.busy {
		return
	}
	select {
	case a.jobs <- r:
		r.busy = true
	default:
	}
}

// push works until the mount ends.
func (a *ahead) push(f *fsys) {
	buf := make([]byte, aheadSize)
	for {
		select {
		case <-f.life.Done():
			return
		case r := <-a.jobs:
			a.mu.Lock()
			from, n := r.next, r.n
			a.mu.Unlock()
			to := from
			_ = f.guard("read ahead", func() error {
				to = f.pushFiles(r.l, from, n, buf)
				return nil
			})
			a.mu.Lock()
			r.busy = false
			if r.next == from {
				r.next = to
			}
			a.mu.Unlock()
		}
	}
}

// pushFiles pushes n small files from an inode on and returns the inode after them.
func (f *fsys) pushFiles(l *layerSlot, i overlay.Ino, n int, buf []byte) overlay.Ino {
	srv := f.conn.Load()
	for total := 0; n > 0 && total < aheadBytes && int(i) < l.index.Inodes() && f.life.Err() == nil; i++ {
		a := l.index.Stat(i)
		if a.Mode&unix.S_IFMT != unix.S_IFREG || a.Size == 0 || a.Size > aheadSize {
			if isDir(a.Mode) {
				return i // what is in another directory is not what comes next
			}
			continue
		}
		n--
		file, err := l.l.Open(f.life, i)
		if err != nil {
			return i + 1 // whoever reads it is told why
		}
		k, err := file.ReadAt(buf[:a.Size], 0)
		file.Close()
		if err != nil || uint64(k) != a.Size {
			return i + 1
		}
		// A file that the kernel does not know yet is not about to be read.
		if st := srv.InodeNotifyStoreCache(uint64(fileID(l.slot, i)), 0, buf[:k]); st != fuse.OK {
			return i + 1
		}
		total += k
	}
	return i
}
