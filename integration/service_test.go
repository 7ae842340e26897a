package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"imagefs/integration/harness"
)

// inNamespace runs a script in a mount namespace of its own, in which the
// command is installed in /usr/local/bin: nothing of it shows outside, and
// nothing stays. The script has $STORE, $DIR, an empty directory, and $TMP.
func inNamespace(t *testing.T, s harness.Imagefs, script string) string {
	t.Helper()
	harness.Need(t, "root", "/dev/fuse", "unshare", "mount", "umount", "/usr/local/bin")
	head := `set -eu
mount -t tmpfs none /run
mount -t tmpfs none /usr/local/bin
cp "$BINARY" /usr/local/bin/imagefs
`
	tmp, dir := t.TempDir(), t.TempDir()
	c := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", head+script)
	c.Env = append(os.Environ(), "BINARY="+harness.Binary(t), "STORE="+s.Store, "DIR="+dir, "TMP="+tmp, "IMAGEFS_STORE=", "XDG_CACHE_HOME="+tmp)
	return harness.RunCmd(t, c)
}

// umount --all takes away what imagefs has mounted, the upper before the lower, and nothing else.
func TestUmountAll(t *testing.T) {
	s := box(t)
	inNamespace(t, s, `
list() { grep ' fuse.imagefs ' /proc/self/mounts | cut -d' ' -f2; }
list | while read -r other; do umount -l "$other"; done
imagefs umount --all # of none
mkdir "$TMP/a" "$TMP/b" "$TMP/tmpfs"
mount -t tmpfs none "$TMP/tmpfs"
imagefs --store "$STORE" mount "$TMP/a"
imagefs --store "$STORE" mount --read-only "$TMP/b"
imagefs --store "$STORE" mount "$DIR"
cp "$DIR/README" "$TMP/readme" # it works
test "$(list | wc -l)" = 3
(cd "$TMP/b" && ! imagefs umount -a 2>"$TMP/said")
grep -q "^imagefs: umount: $TMP/b is in use; find out by whom" "$TMP/said"
test "$(list)" = "$TMP/b"
imagefs umount --all
test "$(list | wc -l)" = 0
grep -q " $TMP/tmpfs tmpfs " /proc/self/mounts
`)
}

// TestMountProgram mounts as mount(8) does: by hand, and by lines of an fstab.
func TestMountProgram(t *testing.T) {
	harness.Need(t, "/usr/sbin/mount.fuse3")
	s := box(t)
	inNamespace(t, s, `
is() { grep -q " $DIR fuse.imagefs $1" /proc/mounts || { echo "not $1:"; cat /proc/mounts; exit 1; } >&2; }
gone() { if grep " $DIR " /proc/mounts; then echo "still mounted" >&2; exit 1; fi; }
motd() { test "$(cat "$DIR/images/box/1/rootfs/etc/motd")" = hello; }

mount -t fuse.imagefs "$STORE" "$DIR" -o ro,allow_other
is 'ro,nosuid,nodev,relatime,.*allow_other'
motd
grep -q "^$STORE $DIR " /proc/mounts
umount "$DIR"
gone

# What an fstab says: by directory, by device, and all at once.
fstab=$TMP/fstab
for options in ro,nofail,_netdev,x-systemd.automount,noatime defaults,comment=images users,lazytime; do
  echo "$STORE $DIR fuse.imagefs $options 0 0" >"$fstab"
  mount -T "$fstab" "$DIR"
  motd
  umount "$DIR"
  gone
  mount -T "$fstab" "$STORE"
  motd
  umount "$DIR"
  mount -a -T "$fstab"
  motd
  /usr/local/bin/imagefs umount "$DIR"
  gone
done

# A mount by users is noexec, and nosuid and nodev as all are.
mount -t fuse.imagefs "$STORE" "$DIR" -o user
is 'rw,nosuid,nodev,noexec,'
if "$DIR/images/box/1/rootfs/bin/busybox" true 2>/dev/null; then echo "a program runs" >&2; exit 1; fi
umount "$DIR"
mount -t fuse.imagefs none "$DIR" -o "store=$STORE,with_suid,suid,dev"
is 'rw,nodev,'
umount "$DIR"
gone

# What cannot be is refused, in one line.
refuse() {
  if mount -t fuse.imagefs "$STORE" "$DIR" -o "$1" 2>"$TMP/said"; then echo "$1 is taken" >&2; exit 1; fi
  grep -q "^imagefs: mount: .*$2" "$TMP/said" || { cat "$TMP/said" >&2; exit 1; }
  gone
}
refuse uid=1000 'no option "uid=1000"'
refuse remount,ro 'unmount it and mount it again'
refuse transport=pigeon 'pigeon'
`)
}

// TestJournal: a mount in the background logs to the journal, where there is
// one, and one in the foreground if that is its standard error.
func TestJournal(t *testing.T) {
	s := box(t)
	dir := t.TempDir()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(dir, "socket")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("JOURNAL", dir)
	inNamespace(t, s, `
mkdir -p /run/systemd/journal
mount --bind "$JOURNAL" /run/systemd/journal
imagefs --store "$STORE" mount "$DIR"
echo box:1 new:1 >"$DIR/ctl/tag"
if echo box:9 new:2 >"$DIR/ctl/tag"; then exit 1; fi
imagefs umount "$DIR"

# So does one in the foreground whose standard error is the journal.
: >"$TMP/err"
JOURNAL_STREAM=$(stat -c %d:%i "$TMP/err") imagefs --store "$STORE" --log-format json mount --foreground "$DIR" 2>>"$TMP/err" &
until [ -e "$DIR/README" ]; do sleep 0.05; done
imagefs umount "$DIR"
wait $!
test ! -s "$TMP/err"
`)
	var got []string
	for b := make([]byte, 64<<10); ; {
		if err := l.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(b)
		if err != nil {
			break
		}
		entry := string(b[:n])
		if !strings.Contains(entry, "SYSLOG_IDENTIFIER=imagefs\n") || !strings.Contains(entry, "IMAGEFS_MOUNT=/") {
			t.Errorf("an entry without its fields: %q", entry)
		}
		got = append(got, field(entry, "PRIORITY")+" "+field(entry, "MESSAGE"))
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{`6 mounted at=`, `6 store changed op=tag ref=new:1 id=sha256:`, `4 warning: command failed op=tag args=box:9 new:2`, `6 unmounted at=`, `6 {"time":"`} {
		if !strings.Contains("\n"+all, "\n"+want) {
			t.Errorf("no entry %q in\n%s", want, all)
		}
	}
}

// field is a field of a journal entry in the journal's native protocol.
func field(entry, name string) string {
	for line := range strings.Lines(entry) {
		if v, ok := strings.CutPrefix(line, name+"="); ok {
			return strings.TrimSuffix(v, "\n")
		}
	}
	return ""
}

// TestSupervised: a supervisor hears that the tree is ready when it is, and
// that it ends; SIGTERM unmounts, and that is a success.
func TestSupervised(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	dir := t.TempDir()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(t.TempDir(), "notify")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := s.Cmd(t, "mount", "--foreground", dir)
	c.Env = append(c.Env, "NOTIFY_SOCKET="+l.LocalAddr().String())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = c.Process.Kill()
			_ = c.Wait()
			s.Run(t, "umount", dir)
		}
	}()
	heard := func() string {
		b := make([]byte, 4096)
		_ = l.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got, want := heard(), fmt.Sprintf("READY=1\nSTATUS=Serving %s at %s", s.Store, dir); got != want {
		t.Errorf("first heard %q, want %q", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "images/box/1/rootfs/etc/motd")); err != nil || string(b) != "hello\n" {
		t.Errorf("ready, but %q, %v", b, err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := heard(); !strings.HasPrefix(got, "STOPPING=1\n") {
		t.Errorf("at the end heard %q", got)
	}
	err = c.Wait()
	ended = true
	if err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if is, err := mountinfo.Mounted(dir); is || err != nil {
		t.Errorf("still mounted: %v, %v", is, err)
	}
}

// unit is the unit for systemd that README.md has.
func unit(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Repo(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```\n(\\[Unit\\]\n.*?)```").FindSubmatch(b)
	if m == nil {
		t.Fatal("README.md has no unit")
	}
	return string(m[1])
}

// TestUnit checks README.md's unit: systemd takes it, it has nothing that gives
// the service a mount namespace, and with its capabilities the mount works.
func TestUnit(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "systemd-analyze", "setpriv")
	text := unit(t)
	s := box(t)
	file := filepath.Join(t.TempDir(), "imagefs.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/usr/local/bin/imagefs", harness.Binary(t))), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("systemd-analyze", "verify", "--man=no", file)
	if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), filepath.Base(file)) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if bad := regexp.MustCompile(`(?m)^(Protect|Private|ReadOnlyPaths|ReadWritePaths|Inaccessible|Bind|Temporary|RootDirectory|MountFlags|DynamicUser)[A-Za-z]*=`).FindString(text); bad != "" {
		t.Errorf("%s gives the service a mount namespace of its own", bad)
	}
	set := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("the unit has no %s", key)
		}
		return m[1]
	}
	caps := "-all"
	for c := range strings.FieldsSeq(set("CapabilityBoundingSet")) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	args := strings.Fields(set("ExecStart"))
	dir := t.TempDir()
	for i, a := range args {
		switch a {
		case "/usr/local/bin/imagefs":
			args[i] = harness.Binary(t)
		case "/var/lib/docker":
			args[i] = s.Store
		case "/srv/images":
			args[i] = dir
		}
	}
	serve := exec.Command("setpriv", append([]string{"--bounding-set", caps, "--inh-caps", "-all", "--no-new-privs"}, args...)...)
	serve.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
	serve.Stderr = os.Stderr
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	var motd []byte
	harness.Until(func() bool {
		var err error
		motd, err = os.ReadFile(filepath.Join(dir, "images/box/1/rootfs/etc/motd"))
		return err == nil
	})
	_ = serve.Process.Signal(syscall.SIGTERM)
	if err := serve.Wait(); err != nil || string(motd) != "hello\n" {
		t.Errorf("with the unit's capabilities: read %q, ended with %v", motd, err)
	}
}
