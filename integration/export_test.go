package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/integration/harness"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/rootfs"
	"imagefs/store/storetest/stacks"
)

// exporters unpack a tar into the directory they are run in.
var exporters = map[string][]string{
	"GNU tar": {"tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"},
	"bsdtar":  {"bsdtar", "--numeric-owner", "-xpf"},
}

// An exported root file system, unpacked, is the one that the kernel's overlay shows.
func TestExport(t *testing.T) {
	harness.Need(t, "root", "tar", "bsdtar")
	for seed := uint64(100); seed < 106; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			id := ingest(t, s, stacks.New(seed).Tars()...)
			file := exported(t, s, id)
			if again := exported(t, s, id); !bytes.Equal(read(t, file), read(t, again)) {
				t.Error("twice is not the same")
			}
			found := harness.ReadRoot(t, s.Root())
			want := withoutLinks(kernelManifest(t, harness.KernelMount(t, found[0].Dirs...)))
			for name, command := range exporters {
				dir := t.TempDir()
				c := exec.Command(command[0], append(command[1:], file)...)
				c.Dir = dir
				c.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
				harness.RunCmd(t, c)
				want, got := want, withoutLinks(kernelManifest(t, dir))
				if name == "bsdtar" {
					// It does not set the times of the directory that it works in, nor
					// ACLs that are written as attributes.
					want, got = withoutACLs(want[1:]), withoutACLs(got[1:])
				}
				harness.Same(t, name+", not the kernel,", want, got)
			}
		})
	}
}

func exported(t testing.TB, s store.Store, id digest.Digest) string {
	t.Helper()
	ctx := context.Background()
	img, err := s.Image(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootfs.Open(ctx, img)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	skipped, err := root.Export(f, nil)
	if err != nil || len(skipped) > 0 {
		t.Fatal(skipped, err)
	}
	return f.Name()
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withoutLinks takes out the link count, which on overlayfs counts names that
// are hidden too.
func withoutLinks(m harness.Manifest) harness.Manifest {
	var out harness.Manifest
	for _, line := range m {
		path, err := strconv.QuotedPrefix(line)
		f := strings.Split(strings.TrimPrefix(line, path+" "), " ")
		if err == nil && len(f) > 7 {
			f[7] = "-" // kind, mode, uid, gid, size, mtime, device, links
		}
		out = append(out, path+" "+strings.Join(f, " "))
	}
	slices.Sort(out)
	return out
}

var acl = regexp.MustCompile(`system\.posix_acl_[^,\]]*,?`)

func withoutACLs(m harness.Manifest) harness.Manifest {
	var out harness.Manifest
	for _, line := range m {
		out = append(out, strings.ReplaceAll(acl.ReplaceAllString(line, ""), ",]", "]"))
	}
	slices.Sort(out)
	return out
}
