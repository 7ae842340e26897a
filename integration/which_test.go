package integration

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/rootfs"
	"imagefs/store/storetest/stacks"
)

// TestWhichAgreesWithAttributes compares, for every entry of images of real
// engines and of random stacks of layers, what `imagefs which` is made of with
// the extended attributes of the mounted tree.
func TestWhichAgreesWithAttributes(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	dir := harness.NeedFixtures(t)
	s := harness.NewStore(t)
	for _, name := range []string{"da-docker1809-busybox-14layers.tar", "da-docker1809-alpine310.tar.gz", "da-docker1712-busybox-whiteout.tar"} {
		s.Run(t, "load", "-q", "-i", filepath.Join(dir, name))
	}
	st, err := docker.Open(s.Store, docker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for seed := range uint64(8) {
		ingest(t, st, stacks.New(seed).Tars()...)
	}
	m := s.Mount(t, "--read-only")
	ids := strings.Fields(s.Run(t, "images", "-aq", "--no-trunc"))
	if len(ids) < 11 {
		t.Fatalf("images: %q", ids)
	}
	checked := 0
	for _, id := range ids {
		img := imageOf(t, st, id)
		root := m.Path("ids", strings.TrimPrefix(id, "sha256:"), "rootfs")
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() && !d.Type().IsRegular() {
				return err
			}
			w, err := rootfs.Which(context.Background(), img, strings.TrimPrefix(p, root), false)
			if err != nil {
				return err
			}
			checked++
			last := w.Steps[len(w.Steps)-1]
			for name, want := range map[string]string{"layer": strconv.Itoa(last.Layer), "diffid": string(last.DiffID), "created_by": last.CreatedBy} {
				if got := attribute(p, "user.imagefs."+name); got != want {
					t.Errorf("%s: %s is %q, which says %q", p, name, got, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if checked < 500 {
		t.Errorf("only %d entries", checked)
	}
}

func imageOf(t *testing.T, s store.Store, image string) store.Image {
	t.Helper()
	id, _, err := store.Resolve(context.Background(), s, image)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Image(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// attribute returns an extended attribute, "" if there is none.
func attribute(path, name string) string {
	b := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(path, name, b)
	switch err {
	case nil:
		return string(b[:n])
	case unix.ENODATA:
		return ""
	}
	return fmt.Sprint("error: ", err)
}
