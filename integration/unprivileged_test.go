package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"imagefs/integration/harness"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest/stacks"
)

// asNobody is the environment variable that makes the test binary the child of TestUnprivileged.
const asNobody = "IMAGEFS_TEST_AS_NOBODY"

// TestUnprivileged lets an ordinary user load stacks of odd layers, with
// devices, owners, directories that nobody may enter and files that nobody may
// read: all of it must show as the tars have it, and go again.
func TestUnprivileged(t *testing.T) {
	harness.Need(t, "root")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "as-nobody-") // a test's own is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The go command's own directory is closed to others.
	exe := filepath.Join(dir, "test")
	harness.Run(t, "cp", self, exe)
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, "-test.run", "^TestAsNobody$", "-test.v", "-stacks", fmt.Sprint(*oracleSeeds))
	c.Env = append(os.Environ(), asNobody+"="+home, "TMPDIR="+home, "HOME="+home)
	c.Dir = home
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := c.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PASS: TestAsNobody/seed=0")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAsNobody is what TestUnprivileged runs as an ordinary user.
func TestAsNobody(t *testing.T) {
	if os.Getenv(asNobody) == "" {
		return
	}
	if os.Geteuid() == 0 {
		t.Fatal("this is root")
	}
	for seed := range *oracleSeeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { unprivileged(t, stacks.New(seed)) })
	}
}

func unprivileged(t *testing.T, stack stacks.Stack) {
	ctx := context.Background()
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id := ingest(t, s, stack.Tars()...)
	layers := layersOf(t, s, id)
	for n := 1; n <= len(stack); n++ {
		harness.Same(t, fmt.Sprintf("layers 0…%d: merge, not the model,", n-1), modelManifest(stack.View(n)), treeManifest(t, layers[:n]))
	}
	for n, l := range layers {
		checkTarOf(t, l, stack[n].Tar)
	}
	// Without the indexes that the load made, the headers in the tar-splits tell as much.
	again, err := docker.Open(s.Root(), docker.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, l := range layers {
		if err := os.Remove(filepath.Join(s.Root(), "imagefs/index", l.Key())); err != nil {
			t.Fatal(err)
		}
	}
	rebuilt := layersOf(t, again, id)
	for n := 1; n <= len(stack); n++ {
		harness.Same(t, fmt.Sprintf("layers 0…%d: merge of rebuilt indexes, not the model,", n-1), modelManifest(stack.View(n)), treeManifest(t, rebuilt[:n]))
	}
	if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("check: %s: %v", p.What, p.Err) }); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove(ctx, id.String(), false); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"overlay2/l", "image/overlay2/layerdb/sha256", "image/overlay2/imagedb/content/sha256", "imagefs/index", "imagefs/spill", "imagefs/stage"} {
		if left, err := os.ReadDir(filepath.Join(s.Root(), d)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", d, left, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.Root(), "overlay2")); err != nil || len(left) != 1 {
		t.Errorf("left in overlay2: %v %v", left, err)
	}
	if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("check of the empty store: %s: %v", p.What, p.Err) }); err != nil {
		t.Error(err)
	}
}
