package layer

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// A trimmed index is out of the process's memory, and tells the same as before.
func TestTrim(t *testing.T) {
	b := overlay.NewBuilder()
	for i := range 20000 {
		if err := b.Add(overlay.Entry{Path: fmt.Sprintf("d/%05d", i), Kind: overlay.File, Attr: overlay.Attr{Mode: unix.S_IFREG | 0o644, Size: uint64(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := EncodeIndex(b, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := OpenIndex(f)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sum := ContentSize(m)
	before := residentOf(t, name)
	m.Trim()
	after := residentOf(t, name)
	if before < len(raw)/2 || after != 0 {
		t.Errorf("%d bytes of %d are resident before Trim, %d after", before, len(raw), after)
	}
	if s := ContentSize(m); s != sum || s != 20000*19999/2 {
		t.Errorf("the sizes of all files are %d after Trim, %d before", s, sum)
	}
}

// residentOf returns how many bytes of a mapped file this process has resident.
func residentOf(t *testing.T, name string) int {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := false
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasSuffix(s.Text(), " "+name) {
			found = true
		}
		var kb int
		if n, _ := fmt.Sscanf(s.Text(), "Rss: %d kB", &kb); found && n == 1 {
			return kb << 10
		}
	}
	t.Fatalf("%s is not mapped", name)
	return 0
}
