package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs/events"
	"imagefs/store"
)

func id(n int) digest.Digest { return digest.Digest(fmt.Sprintf("sha256:%064x", n)) }

// view is a store with images 1…n and names "ref=image".
func view(images []int, names ...string) events.View {
	v := events.View{Names: store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}}}
	for _, n := range images {
		v.IDs = append(v.IDs, id(n))
	}
	for _, s := range names {
		ref, to, _ := strings.Cut(s, "=")
		var n int
		_, _ = fmt.Sscan(to, &n)
		if strings.Contains(ref, "@") {
			v.Names.Digests[ref] = id(n)
		} else {
			v.Names.Tags[ref] = id(n)
		}
	}
	return v
}

func TestDiff(t *testing.T) {
	short := func(d digest.Digest) string { return strings.TrimLeft(strings.TrimPrefix(string(d), "sha256:"), "0") }
	for _, c := range []struct {
		name     string
		old, now events.View
		op, want string
	}{
		{"nothing", view([]int{1}, "a:1=1"), view([]int{1}, "a:1=1"), "load", ""},
		{"load", view(nil), view([]int{1, 2}, "a:1=1", "b:1=1"), "load", "load 1, load 2, tag 1 a:1, tag 1 b:1"},
		{"import", view(nil), view([]int{1}), "import", "import 1"},
		{"tag", view([]int{1}), view([]int{1}, "a:1=1"), "load", "tag 1 a:1"},
		{"retag", view([]int{1, 2}, "a:1=1"), view([]int{1, 2}, "a:1=2"), "load", "tag 2 a:1 was 1"},
		{"untag", view([]int{1}, "a:1=1", "a:2=1"), view([]int{1}, "a:2=1"), "load", "untag 1 a:1"},
		{"delete", view([]int{1, 2}, "a:1=1", "b:1=2", "a@sha256:x=1"), view([]int{2}, "b:1=2"), "load", "untag 1 a:1, untag 1 a@sha256:x, delete 1"},
		{"pull", view(nil), view([]int{3}, "a:1=3", "a@sha256:x=3"), "load", "load 3, tag 3 a:1, tag 3 a@sha256:x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, e := range events.Diff(c.old, c.now, c.op) {
				s := e.Op + " " + short(e.ID)
				if e.Ref != "" {
					s += " " + e.Ref
				}
				if e.Was != "" {
					s += " was " + short(e.Was)
				}
				got = append(got, s)
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
}

func tag(n int) events.Event {
	return events.Event{Op: events.Tag, ID: id(n), Ref: fmt.Sprintf("r:%d", n)}
}

// stream reads an events.Reader as read(2) would.
type stream struct {
	r   *events.Reader
	off int64
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.r.Read(nil, b, s.off, false)
	s.off += int64(n)
	return n, err
}

// next reads until there is nothing, and returns the names that came, and what was lost.
func (s *stream) next(t *testing.T, size int) (refs []string, lost int64) {
	t.Helper()
	var all []byte
	buf := make([]byte, size)
	for {
		n, err := s.Read(buf)
		all = append(all, buf[:n]...)
		if errors.Is(err, syscall.EAGAIN) || err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range bytes.Split(bytes.TrimSuffix(all, []byte("\n")), []byte("\n")) {
		if len(l) == 0 {
			continue
		}
		var e events.Event
		if err := json.Unmarshal(l, &e); err != nil {
			t.Errorf("%q is no JSON: %v", l, err)
			continue
		}
		if time.Since(e.Time) > time.Minute || e.Time.Location() != time.UTC {
			t.Errorf("time %v", e.Time)
		}
		if e.Op == events.Lost {
			lost += e.Count
		} else {
			refs = append(refs, e.Ref)
		}
	}
	return refs, lost
}

func TestStream(t *testing.T) {
	for _, size := range []int{1, 7, 100, 4096} {
		l := events.NewLog()
		l.Add(tag(0))
		a := &stream{r: l.Reader()}
		l.Add(tag(1), tag(2))
		b := &stream{r: l.Reader()}
		l.Add(tag(3))
		for _, c := range []struct {
			s    *stream
			want string
		}{{a, "[r:1 r:2 r:3]"}, {b, "[r:3]"}, {a, "[]"}} {
			if got, lost := c.s.next(t, size); fmt.Sprint(got) != c.want || lost != 0 {
				t.Errorf("size %d: got %v, lost %d, want %s", size, got, lost, c.want)
			}
		}
	}
}

// A shell's read reads more than a line and goes back.
func TestReadAgain(t *testing.T) {
	l := events.NewLog()
	s := &stream{r: l.Reader()}
	l.Add(tag(1), tag(2), tag(3))
	buf := make([]byte, 4096)
	for n := 1; n <= 3; n++ {
		got, err := s.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		end := bytes.IndexByte(buf[:got], '\n')
		if want := fmt.Sprintf(`"r:%d"`, n); !strings.Contains(string(buf[:end]), want) {
			t.Fatalf("line %d is %s", n, buf[:end])
		}
		s.off -= int64(got - end - 1)
	}
	if n, err := s.Read(buf); n != 0 || err != syscall.EAGAIN {
		t.Errorf("then: %d, %v", n, err)
	}
}

// many is more than a log keeps.
const many = 10000

func TestLost(t *testing.T) {
	for _, size := range []int{70, 4096} {
		for _, first := range []int{0, 1, 5} {
			l := events.NewLog()
			s := &stream{r: l.Reader()}
			l.Add(tag(0), tag(1), tag(2), tag(3), tag(4))
			// In the middle of a line, where there is one.
			want := 5
			var begun []byte
			for range first {
				b := make([]byte, 30)
				if n, err := s.Read(b); err != nil {
					t.Fatal(err)
				} else {
					begun = append(begun, b[:n]...)
				}
			}
			for n := range many {
				l.Add(tag(100 + n))
				want++
			}
			all, err := io.ReadAll(io.MultiReader(bytes.NewReader(begun), &bounded{s, size}))
			if !errors.Is(err, syscall.EAGAIN) {
				t.Fatal(err)
			}
			got, lost, broken := 0, 0, 0
			for _, line := range strings.Split(strings.TrimSuffix(string(all), "\n"), "\n") {
				var e events.Event
				switch err := json.Unmarshal([]byte(line), &e); {
				case err != nil:
					broken++
				case e.Op == events.Lost:
					lost += int(e.Count)
				default:
					got++
				}
			}
			if got+lost != want || lost == 0 || got < 1000 || broken > 1 {
				t.Errorf("size %d: %d events came and %d were lost of %d; %d lines are cut", size, got, lost, want, broken)
			}
			if !strings.HasSuffix(string(all), "}\n") || !strings.Contains(string(all), fmt.Sprintf("r:%d\"", 100+many-1)) {
				t.Error("the last event is missing")
			}
		}
	}
}

// bounded reads at most so many bytes at a time.
type bounded struct {
	io.Reader
	n int
}

func (b *bounded) Read(p []byte) (int, error) { return b.Reader.Read(p[:min(len(p), b.n)]) }

// Whoever asks for the end reads a file that grows.
func TestFile(t *testing.T) {
	l := events.NewLog()
	l.Add(tag(1), tag(2))
	r := l.Reader()
	r.End()
	size, _ := l.Stat()
	buf := make([]byte, 4096)
	n, err := r.Read(nil, buf, 0, true)
	if err != nil || int64(n) != size || bytes.Count(buf[:n], []byte("\n")) != 3 || !strings.Contains(string(buf[:n]), `"mount"`) {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if n, err := r.Read(nil, buf, size, true); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	l.Add(tag(3))
	n, err = r.Read(nil, buf, size, true)
	if now, _ := l.Stat(); err != nil || size+int64(n) != now || !strings.Contains(string(buf[:n]), "r:3") {
		t.Errorf("what came: %q, %v", buf[:n], err)
	}
	// As tail reads, from the end backwards.
	if n, err := r.Read(nil, buf[:10], size-10, true); err != nil || string(buf[:n][n-2:]) != "}\n" {
		t.Errorf("before the end: %q, %v", buf[:n], err)
	}
	for n := range many {
		l.Add(tag(n))
	}
	if n, err := r.Read(nil, buf, 5, true); err != nil || !strings.Contains(string(buf[:n]), `"lost"`) {
		t.Errorf("what is gone: %q, %v", buf[:n], err)
	}
}

func TestWait(t *testing.T) { synctest.Test(t, testWait) }

func testWait(t *testing.T) {
	l := events.NewLog()
	const readers = 50
	var wg sync.WaitGroup
	ends := []struct {
		name string
		end  func(cancel chan struct{})
		want error
	}{
		{"interrupt", func(c chan struct{}) { close(c) }, syscall.EINTR},
		{"event", func(chan struct{}) { l.Add(tag(1)) }, nil},
		{"release", func(chan struct{}) { l.Release() }, io.EOF},
		{"close", func(chan struct{}) { l.Close() }, io.EOF},
	}
	for _, c := range ends {
		cancel := make(chan struct{})
		var answers atomic.Int64
		for range readers {
			r := l.Reader()
			wg.Go(func() {
				if _, err := r.Read(cancel, make([]byte, 100), 0, true); err != c.want {
					t.Errorf("%s: %v, want %v", c.name, err, c.want)
				}
				answers.Add(1)
			})
		}
		synctest.Wait() // until they wait
		if n := answers.Load(); n != 0 {
			t.Errorf("%s: %d do not wait", c.name, n)
		}
		c.end(cancel)
		wg.Wait()
	}
	if _, err := l.Reader().Read(nil, make([]byte, 100), 0, true); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestPoll(t *testing.T) {
	l := events.NewLog()
	s := &stream{r: l.Reader()}
	woken := make(chan struct{}, 10)
	wake := func() { woken <- struct{}{} }
	if s.r.Poll(wake) {
		t.Fatal("ready with nothing to read")
	}
	l.Add(tag(1), tag(2))
	<-woken
	if len(woken) != 0 {
		t.Error("woken twice")
	}
	if !s.r.Poll(wake) {
		t.Error("not ready")
	}
	l.Add(tag(3))
	select {
	case <-woken:
	default:
		t.Error("not woken, since there was something before")
	}
	if got, _ := s.next(t, 4096); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	if s.r.Poll(wake) {
		t.Error("ready after all was read")
	}
	s.r.Close()
	l.Add(tag(3))
	if len(woken) != 0 {
		t.Error("woken after the close")
	}
}

// Readers that keep up lose nothing, and none sees another order.
func TestConcurrent(t *testing.T) {
	l := events.NewLog()
	var wg sync.WaitGroup
	for range 8 {
		r := l.Reader()
		wg.Go(func() {
			var all []byte
			buf := make([]byte, 1000)
			for {
				n, err := r.Read(nil, buf, int64(len(all)), true)
				all = append(all, buf[:n]...)
				if err == io.EOF {
					break
				}
			}
			last := 0
			for n, line := range strings.Split(strings.TrimSuffix(string(all), "\n"), "\n") {
				if !strings.Contains(line, fmt.Sprintf(`"r:%d"`, n)) {
					t.Errorf("line %d is %s", n, line)
					return
				}
				last = n
			}
			if last != 999 {
				t.Errorf("the last is %d", last)
			}
		})
	}
	for n := range 1000 {
		l.Add(tag(n))
	}
	l.Close()
	wg.Wait()
}
