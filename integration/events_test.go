package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// event is a line of ctl/events.
type event struct {
	Time time.Time
	Op   string
	ID   string
	Ref  string
	Was  string
}

// follower is a program that follows ctl/events.
type follower struct {
	*exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
	done chan error
}

func (f *follower) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(b)
}

// follow starts a program in the directory of the control files.
func follow(t *testing.T, m *harness.Mount, program ...string) *follower {
	t.Helper()
	harness.Need(t, program[0])
	f := &follower{done: make(chan error, 1)}
	f.Cmd = exec.Command(program[0], program[1:]...)
	f.Stdout, f.Stderr = f, f
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { f.done <- f.Wait() }()
	t.Cleanup(func() { _ = f.Process.Kill() })
	// What it does not read from its open on is not its to see.
	eventually(t, strings.Join(program, " ")+" has it open", func() bool {
		links, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", f.Process.Pid))
		for _, l := range links {
			if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", f.Process.Pid, l.Name())); to == m.Path("ctl/events") {
				return true
			}
		}
		return false
	})
	return f
}

// ops returns what came so far, one word an event: its op and its name, if it has one.
func (f *follower) ops(t *testing.T) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, l := range strings.Split(strings.TrimSuffix(f.out.String(), "\n"), "\n") {
		if l == "" {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(l), &e); err != nil || e.Time.IsZero() {
			t.Errorf("%q: %v", l, err)
		}
		all = append(all, strings.TrimSuffix(e.Op+":"+e.Ref, ":"))
	}
	return strings.Join(all, " ")
}

// ended waits for the program's end.
func (f *follower) ended(t *testing.T, after string) error {
	t.Helper()
	select {
	case err := <-f.done:
		return err
	case <-time.After(20 * time.Second):
		t.Errorf("%q does not end after %s", f.Args, after)
		return nil
	}
}

// Everybody who follows sees every change, whoever makes it.
func TestEvents(t *testing.T) { overBoth(t, testEvents) }

func testEvents(t *testing.T, transport string) {
	s := box(t)
	s.Transport = transport
	m := s.Mount(t)
	file := m.Path("ctl/events")
	all := []*follower{
		follow(t, m, "cat", file),
		follow(t, m, "tail", "-f", "-n", "0", file),
		follow(t, m, "sh", "-c", `while read -r line; do printf '%s\n' "$line"; done <"$1"`, "sh", file),
		follow(t, m, "bash", "-c", `while read -r line; do printf '%s\n' "$line"; done <"$1"`, "sh", file),
		follow(t, m, "dd", "bs=64k", "status=none", "if="+file),
	}
	history := follow(t, m, "tail", "-f", file)
	write := func(file, command string) {
		if err := os.WriteFile(m.Path("ctl", file), []byte(command), 0); err != nil {
			t.Error(err)
		}
	}
	write("tag", "box:1 me/box:live")
	s.Run(t, "load", "-q", "-i", assembled(t)) // another process
	eventually(t, "the load", func() bool { return strings.Contains(all[0].ops(t), "tag:app:v1") })
	s.Run(t, "tag", "box:2", "me/box:live")
	eventually(t, "the retag", func() bool { return strings.Count(all[0].ops(t), "me/box:live") == 2 })
	write("rmi", "me/box:live")
	s.Run(t, "rmi", "app:v0")
	eventually(t, "the removal", func() bool { return strings.Contains(all[0].ops(t), "delete") })
	const want = "tag:me/box:live load load tag:app:v0 tag:app:v1 tag:team/app:latest tag:me/box:live untag:me/box:live untag:app:v0 delete"
	for _, f := range all {
		eventually(t, strings.Join(f.Args, " "), func() bool { return f.ops(t) == want })
		if got := f.ops(t); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", f.Args, got, want)
		}
	}
	eventually(t, "tail with what was before", func() bool { return history.ops(t) == "mount "+want })
	for _, f := range append(all, history) {
		// An interrupt ends the wait at once.
		_ = f.Process.Signal(unix.SIGINT)
		_ = f.ended(t, "SIGINT")
	}
}

// Who does not want to wait is told that there is nothing.
func TestEventsWithoutWaiting(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		m := s.Mount(t)
		fd, err := unix.Open(m.Path("ctl/events"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		b := make([]byte, 4096)
		if n, err := unix.Read(fd, b); err != unix.EAGAIN {
			t.Errorf("with no event: %d, %v, want EAGAIN", n, err)
		}
		for _, tag := range []string{"a:1", "a:2"} {
			if err := os.WriteFile(m.Path("ctl/tag"), []byte("box:1 "+tag), 0); err != nil {
				t.Fatal(err)
			}
			// A command's event is there when the command is done.
			if n, err := unix.Read(fd, b); err != nil || !strings.Contains(string(b[:n]), `"`+tag+`"`) {
				t.Errorf("after the tag: %q, %v", b[:max(n, 0)], err)
			}
		}
		if n, err := unix.Read(fd, b); err != unix.EAGAIN {
			t.Errorf("after all was read: %d, %v, want EAGAIN", n, err)
		}
		if _, err := os.OpenFile(m.Path("ctl/events"), os.O_WRONLY, 0); err == nil {
			t.Error("opened for writing")
		}
	})
}

// Those who wait for events, however many, keep nobody else from anything.
func TestManyFollow(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		m := s.Mount(t)
		const readers = 200
		c := follow(t, m, "sh", "-c", fmt.Sprintf(`exec 3<"$1"; for i in $(seq %d); do head -n 1 "$1" & done; wait`, readers), "sh", m.Path("ctl/events"))
		waits := func() (n int) {
			all, _ := os.ReadDir("/proc")
			for _, p := range all {
				if b, _ := os.ReadFile("/proc/" + p.Name() + "/cmdline"); strings.HasPrefix(string(b), "head\x00") && strings.Contains(string(b), m.Dir) {
					if to, _ := os.Readlink("/proc/" + p.Name() + "/fd/3"); strings.HasSuffix(to, "events") {
						n++
					}
				}
			}
			return n
		}
		eventually(t, "200 readers", func() bool { return waits() == readers })
		for range 20 {
			if got := m.Read(t, "images/box/1/rootfs/etc/motd"); got != "hello\n" {
				t.Errorf("%q", got)
			}
			m.Read(t, "ctl/status")
		}
		if err := os.WriteFile(m.Path("ctl/tag"), []byte("box:1 a:1"), 0); err != nil {
			t.Error(err)
		}
		if err := c.ended(t, "an event"); err != nil {
			t.Error(err)
		}
		if n := strings.Count(c.ops(t), "tag:a:1"); n != readers {
			t.Errorf("%d readers got the event, want %d", n, readers)
		}
	})
}

// The tree is in use while somebody waits; whoever unmounts it all the same does not wait.
func TestUnmountWithFollowers(t *testing.T) {
	for _, c := range []struct {
		name    string
		unmount func(m *harness.Mount) error
	}{
		{"SIGTERM", func(m *harness.Mount) error { return m.Server.Signal(unix.SIGTERM) }},
		{"lazily", func(m *harness.Mount) error { return unix.Unmount(m.Dir, unix.MNT_DETACH) }},
		{"by force", func(m *harness.Mount) error {
			// It ends the connection; that may leave the tree in use for a moment.
			if err := unix.Unmount(m.Dir, unix.MNT_FORCE); err != nil && !errors.Is(err, unix.EBUSY) {
				return err
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, transport string) {
				s := box(t)
				s.Transport = transport
				m := s.Mount(t)
				var all []*follower
				for range 3 {
					all = append(all, follow(t, m, "cat", m.Path("ctl/events")))
				}
				if err := unix.Unmount(m.Dir, 0); !errors.Is(err, unix.EBUSY) {
					t.Errorf("unmount: %v, want EBUSY", err)
				}
				if err := c.unmount(m); err != nil {
					t.Fatal(err)
				}
				for _, f := range all {
					_ = f.ended(t, c.name)
				}
				m.Stop(t)
			})
		})
	}
}

func TestStatus(t *testing.T) { overBoth(t, testStatus) }

func testStatus(t *testing.T, transport string) {
	s := box(t)
	s.Transport = transport
	m := s.Mount(t)
	var st struct {
		PID, Images, Broken, Tags int
		Transport                 string
		Started                   time.Time
		Stores                    []struct {
			Kind, Path, Why string
			Writable        bool
			Daemon          *bool
			Images, Tags    int
		}
		OpenFiles int `json:"open_files"`
		Commands  struct{ Run, Failed int }
		Indexes   struct{ Layers, Files, Bytes int }
	}
	read := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(m.Read(t, "ctl/status")), &st); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if st.PID != m.Server.Pid || st.Images != 2 || st.Tags != 2 || st.Broken != 0 || st.Transport != transport || time.Since(st.Started) > time.Hour {
		t.Errorf("%+v", st)
	}
	if len(st.Stores) != 1 || st.Stores[0].Kind != "docker" || !st.Stores[0].Writable || st.Stores[0].Daemon == nil || *st.Stores[0].Daemon || st.Stores[0].Tags != 2 {
		t.Errorf("stores: %+v", st.Stores)
	}
	f, err := os.Open(m.Path("images/box/1/rootfs/bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_ = os.WriteFile(m.Path("ctl/tag"), []byte("box:1 a:1"), 0)
	_ = os.WriteFile(m.Path("ctl/tag"), []byte("none:1 a:1"), 0)
	s.Run(t, "tag", "box:1", "b:1") // shows at once
	read()
	if st.OpenFiles != 1 || st.Tags != 4 || st.Commands.Run != 2 || st.Commands.Failed != 1 || st.Indexes.Layers != 1 || st.Indexes.Files < 8 || st.Indexes.Bytes < 100 {
		t.Errorf("later: %+v", st)
	}
}

// ready polls a file.
func ready(t *testing.T, fd int, timeout time.Duration) bool {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, int(timeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return p[0].Revents&unix.POLLIN != 0
	}
}

// An ordinary read of a Go program waits, although its runtime sets O_NONBLOCK
// and uses epoll(7).
func TestGoReadsEvents(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		m := s.Mount(t)
		f, err := os.Open(m.Path("ctl/events"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := make(chan string, 100)
		go func() {
			defer close(lines)
			for r := bufio.NewReader(f); ; {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				lines <- l
			}
		}()
		next := func() (string, bool) {
			select {
			case l, ok := <-lines:
				return l, ok
			case <-time.After(20 * time.Second):
				t.Fatal("nothing is read")
				return "", false
			}
		}
		for n := range 5 {
			tag := fmt.Sprintf("poll:%d", n)
			time.Sleep(20 * time.Millisecond) // so that it waits, most often
			if err := os.WriteFile(m.Path("ctl/tag"), []byte("box:1 "+tag), 0); err != nil {
				t.Fatal(err)
			}
			if l, _ := next(); !strings.Contains(l, tag) {
				t.Errorf("read %q", l)
			}
		}
		_ = m.Server.Signal(unix.SIGTERM)
		if l, ok := next(); ok {
			t.Errorf("after the mount's end: %q", l)
		}
	})
}

// poll(2) waits for events.
func TestPollEvents(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		m := s.Mount(t)
		fd, err := unix.Open(m.Path("ctl/events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if ready(t, fd, 0) || ready(t, fd, 50*time.Millisecond) {
			t.Error("ready with nothing to read")
		}
		b := make([]byte, 4096)
		for n := range 5 {
			tag := fmt.Sprintf("poll:%d", n)
			waits := make(chan bool)
			go func() { waits <- ready(t, fd, 20*time.Second) }()
			time.Sleep(20 * time.Millisecond) // so that it waits, most often
			if err := os.WriteFile(m.Path("ctl/tag"), []byte("box:1 "+tag), 0); err != nil {
				t.Fatal(err)
			}
			if !<-waits {
				t.Fatal("not woken by an event")
			}
			if n, err := unix.Read(fd, b); err != nil || !strings.Contains(string(b[:n]), tag) {
				t.Errorf("read %q, %v", b[:max(n, 0)], err)
			}
			if ready(t, fd, 0) {
				t.Error("ready after all was read")
			}
		}
		if st, err := os.Open(m.Path("images/box/1/rootfs/etc/motd")); err != nil || !ready(t, int(st.Fd()), 0) {
			t.Errorf("an ordinary file is not ready: %v", err)
		} else {
			st.Close()
		}
		end := make(chan bool)
		go func() { end <- ready(t, fd, 20*time.Second) }()
		_ = m.Server.Signal(unix.SIGTERM)
		if !<-end {
			t.Error("not woken by the end of the mount")
		}
	})
}

// The server reads files of its own tree, which it must not wait for: with one
// thread that runs Go code it would wait for ever.
func TestLoadOfItsOwn(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		t.Setenv("GOMAXPROCS", "1")
		s := box(t)
		s.Transport = transport
		layout := filepath.Join(t.TempDir(), "layout")
		s.Run(t, "save", "--format", "oci-dir", "-o", layout, "box:1")
		harness.Run(t, "tar", "-C", filepath.Dir(layout), "-cf", layout+".tar", "layout")
		s.Run(t, "import", layout+".tar", "layout:1")
		m := s.Mount(t)
		for range 10 {
			for _, path := range []string{"images/box/1/image.tar", "images/layout/1/rootfs/layout"} {
				if err := os.WriteFile(m.Path("ctl/load"), []byte(m.Path(path)), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
