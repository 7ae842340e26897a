package layer

import (
	"container/list"
	"slices"
	"sync"
	"sync/atomic"
)

// tarSums finds out whether the files in an open tar are what its tar-split has
// the CRC-64 of. A file that is read in one piece is checked at once. Of others
// the sums of the pieces are kept, which come in any order and several at a time,
// and joined where they meet, until the whole was read:
//
//	┌───────────────┐       ┌───────┐
//	│ from to sum   │  gap  │       │  …
//	└───────────────┘       └───────┘
//
// What was found to be another file stays so as long as the tar is open: the
// kernel asks again, for less, after an error, and would get it. Safe for
// concurrent use; the zero value is ready.
type tarSums struct {
	bad  atomic.Bool // there are wrong ones
	lost atomic.Bool // pieces were given up before they were all there

	mu    sync.Mutex // guards what follows
	files map[int]*list.Element
	order list.List // of *pieces, the latest used first
	count int       // pieces of all files
	wrong map[int]struct{}
}

const (
	// maxPieces is how many pieces that do not meet are kept of an open tar.
	maxPieces = 4096
	// maxWrong is how many files it is remembered of that they are wrong; others
	// are found out anew.
	maxWrong = 4096
)

// pieces are those that were read of the file of one run.
type pieces struct {
	run   int
	have  []piece // in order, no two meet
	ended bool    // the whole was read, or it was given up
	wrong bool    // the whole was read and is wrong
}

type piece struct {
	from, to int64
	sum      uint64
}

// join returns two pieces that meet as one.
func (p piece) join(q piece) piece {
	return piece{p.from, q.to, joinCRC64(p.sum, q.sum, q.to-q.from)}
}

// add takes a piece of the file of a run, which has size bytes and the sum want.
// It returns false if the file is known to be another by now.
func (s *tarSums) add(run int, p []byte, off, size int64, want uint64) bool {
	if s.isWrong(run) {
		return false
	}
	if int64(len(p)) == size {
		if crc64ISO(0, p) == want {
			return true
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.found(run)
		return false
	}
	var f *pieces
	for {
		gap, more, ok := s.gap(run, &f, off, off+int64(len(p)))
		if !more {
			return ok
		}
		gap.sum = crc64ISO(0, p[gap.from-off:gap.to-off]) // takes longest, and no lock
		if !s.put(f, gap, size, want) {
			return false
		}
	}
}

func (s *tarSums) isWrong(run int) bool {
	if !s.bad.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.wrong[run]
	return ok
}

// found remembers that a file is another; s.mu is held.
func (s *tarSums) found(run int) {
	if s.wrong == nil {
		s.wrong = map[int]struct{}{}
	}
	if len(s.wrong) < maxWrong {
		s.wrong[run] = struct{}{}
	}
	s.bad.Store(true)
}

// gap returns the first stretch between from and to that no piece covers yet. f
// is the pieces of the run, nil at first; more is false if there is no gap, or
// nobody waits for it any more, and ok then if the file is not known to be wrong.
func (s *tarSums) gap(run int, f **pieces, from, to int64) (gap piece, more, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *f == nil {
		*f = s.use(run)
	}
	if (*f).ended {
		return piece{}, false, !(*f).wrong
	}
	for _, have := range (*f).have {
		switch {
		case have.to <= from:
			continue
		case have.from > from:
			return piece{from: from, to: min(to, have.from)}, from < to, true
		}
		from = have.to
	}
	return piece{from: from, to: to}, from < to, true
}

// use returns the pieces of a run, the latest used from now on; s.mu is held.
func (s *tarSums) use(run int) *pieces {
	if e := s.files[run]; e != nil {
		s.order.MoveToFront(e)
		return e.Value.(*pieces)
	}
	if s.files == nil {
		s.files = map[int]*list.Element{}
	}
	f := &pieces{run: run}
	s.files[run] = s.order.PushFront(f)
	return f
}

// put adds a piece, unless another has come that covers some of it. It returns
// false if the whole was read by that and is wrong.
func (s *tarSums) put(f *pieces, p piece, size int64, want uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.ended {
		return true
	}
	before := len(f.have)
	// The pieces from i up to j are joined with this one; those from i on end where it starts, or later.
	i, _ := slices.BinarySearchFunc(f.have, p.from, func(h piece, from int64) int {
		if h.to < from {
			return -1
		}
		return 1
	})
	j := i
	if i < before && f.have[i].to == p.from {
		j++
	}
	if j < before && f.have[j].from < p.to {
		return true
	}
	if j > i {
		p = f.have[i].join(p)
	}
	if j < before && f.have[j].from == p.to {
		p = p.join(f.have[j])
		j++
	}
	f.have = slices.Replace(f.have, i, j, p)
	s.count += len(f.have) - before
	if p.from == 0 && p.to == size {
		if f.wrong = p.sum != want; f.wrong {
			s.found(f.run)
		}
		s.end(f)
		return !f.wrong
	}
	for s.count > maxPieces {
		s.lost.Store(true)
		s.end(s.order.Back().Value.(*pieces))
	}
	return true
}

// end forgets the pieces of a file; s.mu is held.
func (s *tarSums) end(f *pieces) {
	f.ended = true
	s.count -= len(f.have)
	f.have = nil
	if e := s.files[f.run]; e != nil && e.Value == f {
		s.order.Remove(e)
		delete(s.files, f.run)
	}
}

// open tells whether some pieces were not followed by the rest of their file, or
// turned out to be wrong.
func (s *tarSums) open() bool {
	if s.lost.Load() || s.bad.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files) > 0
}
