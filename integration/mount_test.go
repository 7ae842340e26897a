package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/integration/images"
)

// nobody is an ordinary user.
const nobody = 65534

// box is a store with an image of busybox and some files, tagged box:1, and
// box:2 with one layer more.
func box(t *testing.T) harness.Imagefs {
	t.Helper()
	s := harness.NewStore(t)
	s.Run(t, "load", "-i", boxArchive(t))
	return s
}

func boxArchive(t *testing.T) string {
	t.Helper()
	harness.Need(t, "/bin/busybox")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 0)
	layer := func(b *images.Tar) images.Layer {
		l, err := b.Layer()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	base := layer((&images.Tar{Time: at}).Dir("bin", 0o755).File("bin/busybox", 0o755, busybox).
		Link("bin/sh", "bin/busybox").Link("bin/cat", "bin/busybox").
		File("bin/su", 0o4755, busybox).
		Dir("etc", 0o755).File("etc/passwd", 0o644, []byte("root:x:0:0::/:/bin/sh\n")).File("etc/motd", 0o644, []byte("hello\n")).File("etc/secret", 0o600, []byte("s\n")))
	more := layer((&images.Tar{Time: at}).File("etc/motd", 0o644, []byte("hello again\n")).File("etc/.wh.secret", 0, nil))
	name := filepath.Join(t.TempDir(), "box.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first := images.Step{By: "ADD box /", Layer: base}
	err = images.Write(f, images.Image{Tags: []string{"box:1"}, Created: at, Steps: []images.Step{first}},
		images.Image{Tags: []string{"box:2"}, Created: at, Steps: []images.Step{first, {By: "RUN more", Layer: more}}})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestChroot(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "chroot")
	m := box(t).Mount(t)
	rootfs := m.Path("images/box/2/rootfs")
	if out := harness.Run(t, "chroot", rootfs, "/bin/sh", "-c", "echo shell; cat /etc/motd"); out != "shell\nhello again\n" {
		t.Errorf("%q", out)
	}
	if out, err := exec.Command("chroot", rootfs, "/bin/sh", "-c", "echo x >/etc/motd").CombinedOutput(); err == nil {
		t.Errorf("a rootfs could be written to: %s", out)
	}
}

// as makes a command run as a user, with a directory as its root.
func as(c *exec.Cmd, uid uint32, root string) *exec.Cmd {
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return c
}

// A set-user-ID program has its effect with --suid only.
func TestSuid(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	for _, suid := range []bool{false, true} {
		flags := []string{"--allow-other"}
		if suid {
			flags = append(flags, "--suid")
		}
		m := s.Mount(t, flags...)
		// Without the privilege busybox's su says so, with it it asks for a password.
		out, _ := as(exec.Command("/bin/su", "-c", "true"), nobody, m.Path("images/box/1/rootfs")).CombinedOutput()
		if powerless := strings.Contains(string(out), "must be suid"); powerless == suid || len(out) == 0 {
			t.Errorf("%v: su says %q", flags, out)
		}
		m.Stop(t)
	}
}

// Only the mount's owner sees anything unless others are let in, and then with the permissions of the image.
func TestAllowOther(t *testing.T) { overBoth(t, testAllowOther) }

func testAllowOther(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	s.Transport = transport
	m := s.Mount(t)
	readable(t, filepath.Dir(m.Dir))
	cat := func(m *harness.Mount, name string) (string, error) {
		out, err := as(exec.Command("cat", m.Path("images/box/1/rootfs/etc", name)), nobody, "").Output()
		return string(out), err
	}
	if out, err := cat(m, "motd"); err == nil {
		t.Errorf("another user reads %q", out)
	}
	m = s.Mount(t, "--allow-other")
	if out, err := cat(m, "motd"); err != nil || out != "hello\n" {
		t.Errorf("with --allow-other: %q %v", out, err)
	}
	if out, err := cat(m, "secret"); err == nil {
		t.Errorf("another user reads a file of mode 0600: %q", out)
	}
	if err := os.WriteFile(m.Path("ctl/tag"), []byte("box:1 box:mine\n"), 0); err != nil {
		t.Error(err)
	}
	if as(exec.Command("sh", "-c", "echo box:1 box:his >"+m.Path("ctl/tag")), nobody, "").Run() == nil {
		t.Error("another user may tag")
	}
}

func TestOverlayOnTop(t *testing.T) { overBoth(t, testOverlayOnTop) }

func testOverlayOnTop(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	s.Transport = transport
	m := s.Mount(t)
	lower, err := filepath.EvalSymlinks(m.Path("images/box/1/rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	before := harness.ReadManifest(t, lower)
	// Unmounts come in the reverse order of mounts, so that the overlay goes before what it stands on.
	top := harness.OverlayOn(t, lower)
	// The root itself is the upper layer's.
	harness.Same(t, "overlay on a rootfs", before[1:], harness.ReadManifest(t, top)[1:])
	if err := errors.Join(
		os.WriteFile(top+"/etc/motd", []byte("changed\n"), 0o644),
		os.Remove(top+"/etc/secret"),
		os.Rename(top+"/bin/su", top+"/su"),
		os.Chmod(top+"/bin/busybox", 0o700),
		os.MkdirAll(top+"/new/dir", 0o755),
	); err != nil {
		t.Fatal(err)
	}
	if out := harness.Run(t, "chroot", top, "/bin/busybox", "cat", "/etc/motd"); out != "changed\n" {
		t.Errorf("%q", out)
	}
	harness.Same(t, "the rootfs below", before, harness.ReadManifest(t, lower))
}

// last is what ctl/last tells.
func last(t *testing.T, m *harness.Mount) (r struct {
	OK    bool
	Op    string
	ID    string
	Tags  []string
	Error string
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.Read(t, "ctl/last")), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// stream writes an archive to ctl/load and returns what close(2) said.
func stream(m *harness.Mount, r io.Reader) error {
	f, err := os.OpenFile(m.Path("ctl/load"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func TestControlFiles(t *testing.T) { overBoth(t, testControlFiles) }

func testControlFiles(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := harness.NewStore(t)
	s.Transport = transport
	archive := boxArchive(t)
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	s.Run(t, "load", "-i", assembled(t))
	m := s.Mount(t)
	write := func(file, command string) error { return os.WriteFile(m.Path("ctl", file), []byte(command), 0) }

	if err := stream(m, bytes.NewReader(whole[:len(whole)/2])); !errors.Is(err, unix.EBADMSG) {
		t.Errorf("half an archive: %v, want EBADMSG", err)
	}
	if r := last(t, m); r.OK || r.Error == "" {
		t.Errorf("ctl/last after a failure: %+v", r)
	}
	if _, err := os.Stat(m.Path("images/box")); err == nil {
		t.Error("half an archive left an image")
	}
	s.Run(t, "check")
	if err := stream(m, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	if r := last(t, m); !r.OK || r.Op != "load" || len(r.Tags) == 0 {
		t.Errorf("ctl/last after a load: %+v", r)
	}
	if got := m.Read(t, "images/box/2/rootfs/etc/motd"); got != "hello again\n" {
		t.Errorf("%q", got)
	}
	// However cp leaves out what is zeros, and whatever it gives the copy in the end.
	for _, flag := range []string{"--sparse=auto", "--sparse=always", "-p", "-a"} {
		harness.Run(t, "cp", flag, archive, m.Path("ctl/load"))
	}
	for _, c := range []struct {
		file, command string
		want          error
	}{
		{"load", archive + "\n", nil},
		{"load", "/no/such/file\n", unix.ENOENT},
		{"tag", "box:1 me/box:live", nil},
		{"tag", "box:1 me/BOX", unix.EINVAL},
		{"tag", "box:1\nbox:2 x\n", unix.EINVAL},
		{"tag", "none:1 x", unix.ENOENT},
		{"rmi", "none:1", unix.ENOENT},
		{"rmi", "me/box:live", nil},
	} {
		if err := write(c.file, c.command); !errors.Is(err, c.want) {
			t.Errorf("%q > ctl/%s: %v, want %v", c.command, c.file, err, c.want)
		}
	}
	if !strings.Contains(m.Read(t, "ctl/errors"), "none:1") {
		t.Error("ctl/errors does not tell of none:1")
	}
	if help := m.Read(t, "ctl/help"); !strings.Contains(help, "EBADMSG") {
		t.Errorf("ctl/help: %q", help)
	}
}

// eventually waits for what another process did to show in the mount. The
// contract says within a second; a busy machine is given more, and told.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if took := harness.Until(ok); took < 0 {
		t.Errorf("%s does not show", what)
	} else if took > time.Second {
		t.Logf("%s took %s to show", what, took)
	}
}

func TestChangesByOthersShow(t *testing.T) { overBoth(t, testChangesByOthersShow) }

func testChangesByOthersShow(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	s.Transport = transport
	m := s.Mount(t)
	exists := func(p string) bool { _, err := os.Stat(m.Path(p)); return err == nil }
	if exists("images/box/live") || exists("images/app") {
		t.Fatal("too early")
	}
	s.Run(t, "tag", "box:1", "box:live")
	eventually(t, "a tag", func() bool { return exists("images/box/live/rootfs/etc/motd") })
	s.Run(t, "tag", "box:2", "box:live")
	eventually(t, "a retag", func() bool {
		b, err := os.ReadFile(m.Path("images/box/live/rootfs/etc/motd"))
		return err == nil && string(b) == "hello again\n"
	})
	s.Run(t, "load", "-i", assembled(t))
	eventually(t, "a load", func() bool { return exists("images/app/v1/rootfs/bin/su") })
	s.Run(t, "rmi", "box:live", "box:2")
	eventually(t, "a removal", func() bool { return !exists("images/box/2") && !exists("images/box/live") })
	if !exists("images/box/1/rootfs/etc/motd") {
		t.Error("the other image is gone too")
	}
}

// A server that was killed leaves a dead mount point, which the next mount clears.
func TestDeadMountPoint(t *testing.T) { overBoth(t, testDeadMountPoint) }

func testDeadMountPoint(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	s.Transport = transport
	dir := t.TempDir()
	s.MountAt(t, dir).Kill()
	eventually(t, "a killed server's mount point is dead", func() bool {
		_, err := os.ReadDir(dir)
		return errors.Is(err, unix.ENOTCONN)
	})
	m := s.MountAt(t, dir)
	if got := m.Read(t, "images/box/1/rootfs/etc/motd"); got != "hello\n" {
		t.Errorf("%q", got)
	}
	_ = m.Server.Signal(syscall.SIGINT)
	m.Stop(t)
	if e, err := os.ReadDir(dir); err != nil || len(e) != 0 {
		t.Errorf("after SIGINT: %v %v", e, err)
	}
}

// A mount whose server does not answer holds up nobody who lists the mounts.
func TestSilentServer(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		harness.Need(t, "root", "/dev/fuse")
		s := box(t)
		s.Transport = transport
		m := s.Mount(t)
		if err := m.Server.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Server.Signal(syscall.SIGCONT) }()
		for _, args := range [][]string{{"mounts", "--format", "{{.Mountpoint}} {{.State}}"}, {"mount"}} {
			c := s.Cmd(t, args...)
			late := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
			out, err := c.CombinedOutput()
			if err != nil || !strings.Contains(string(out), m.Dir) || args[0] == "mounts" && !strings.Contains(string(out), m.Dir+" silent\n") {
				t.Errorf("%q: %v\n%s", args, err, out)
			}
			late.Stop()
		}
	})
}

// mount returns when the tree is ready, and umount when it is gone.
func TestBackground(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	dir := t.TempDir()
	s.Run(t, "mount", dir)
	b, err := os.ReadFile(dir + "/images/box/1/rootfs/etc/motd")
	s.Run(t, "umount", dir)
	if err != nil || string(b) != "hello\n" {
		t.Errorf("%q %v", b, err)
	}
	if e, err := os.ReadDir(dir); err != nil || len(e) != 0 {
		t.Errorf("after umount: %v %v", e, err)
	}
	for _, bad := range []string{s.Store, filepath.Join(s.Store, "overlay2"), filepath.Dir(s.Store), filepath.Join(dir, "none")} {
		if code, said := s.Fail(t, "mount", bad); code == 0 || strings.Count(said, "\n") != 1 {
			t.Errorf("mount %s: exit %d, %q; want one line", bad, code, said)
		}
	}
}

func TestReadOnly(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	m := box(t).Mount(t, "--read-only")
	if _, err := os.Stat(m.Path("ctl")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("ctl: %v, want ENOENT", err)
	}
	if got := m.Read(t, "images/box/1/rootfs/etc/motd"); got != "hello\n" {
		t.Errorf("%q", got)
	}
}
