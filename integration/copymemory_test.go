package integration

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"imagefs/integration/harness"
	"imagefs/store/storetest"
)

// largeImage writes large.tar, the archive of large:1, whose layers have so many
// bytes each, which cannot be compressed.
func largeImage(t *testing.T, dir string, layers, size int) (path string) {
	t.Helper()
	r := rand.NewChaCha8([32]byte{1})
	img := storetest.Image{Names: []string{"large:1"}}
	for range layers {
		b := make([]byte, size)
		_, _ = r.Read(b)
		img.Layers = append(img.Layers, storetest.Tar(storetest.Entry{Name: "large", Body: string(b)}))
	}
	path = filepath.Join(dir, "large.tar")
	if err := os.WriteFile(path, storetest.Docker(img).Tar(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCopyMemory copies layers of more bytes than a copy may have in memory, from
// and to each form that there is.
func TestCopyMemory(t *testing.T) {
	harness.Need(t, "root", "go")
	program, err := crashBinary() // the race detector would have memory of its own
	if err != nil {
		t.Fatal(err)
	}
	const limit = 64 << 20
	dir := t.TempDir()
	source := largeImage(t, dir, 2, 80<<20)
	run := func(from string, args ...string) {
		t.Helper()
		s := harness.Imagefs{Store: from, Program: program}
		c := s.Cmd(t, append([]string{"copy", "-q", "large:1"}, args...)...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		peak, ended := 0, make(chan error, 1)
		go func() { ended <- c.Wait() }()
		for tick := time.Tick(5 * time.Millisecond); ; {
			select {
			case <-tick:
				peak = max(peak, highWater(c.Process.Pid))
				continue
			case err := <-ended:
				if err != nil {
					t.Errorf("from %s, %q: %v", filepath.Base(from), args, err)
				}
			}
			break
		}
		t.Logf("from %s to %s: %d MB", filepath.Base(from), args[1], peak>>20)
		if peak > limit || peak == 0 {
			t.Errorf("from %s, %q: %d bytes resident", filepath.Base(from), args, peak)
		}
	}
	at := func(kind, name string) string { return kind + filepath.Join(dir, name) }
	run("docker-archive:"+source, "--to", at("docker:", "store"))
	store := filepath.Join(dir, "store")
	run(store, "--to", at("docker-archive:", "out.tar"))
	run(store, "--to", at("oci:", "gzip"), "--compress", "gzip")
	run(store, "--to", at("oci:", "zstd"), "--compress", "zstd")
	run("oci:"+filepath.Join(dir, "gzip"), "--to", at("docker:", "store2"))
	run("oci:"+filepath.Join(dir, "zstd"), "--to", at("docker:", "store3"))
	run("oci:"+filepath.Join(dir, "gzip"), "--to", at("docker-archive:", "out2.tar"))
}

var vmHWM = regexp.MustCompile(`VmHWM:\s*(\d+) kB`)

// highWater is the most bytes that a process has had resident; 0 if it is gone.
// What getrusage(2) says begins with what the process had that it was forked from.
func highWater(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	m := vmHWM.FindSubmatch(b)
	if m == nil {
		return 0
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb << 10
}
