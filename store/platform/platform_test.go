package platform_test

import (
	"errors"
	"strings"
	"testing"

	"imagefs/store"
	"imagefs/store/platform"
)

// What runs on a machine, the best first.
func TestRank(t *testing.T) {
	for machine, want := range map[string]string{
		"linux/arm/v7":   "linux/arm/v7 linux/armhf linux/arm linux/arm/v6 linux/armel linux/arm/v5",
		"linux/amd64":    "linux/x86_64 linux/amd64/v1",
		"linux/amd64/v3": "linux/amd64/v3 linux/amd64/v2 linux/amd64",
		"linux/aarch64":  "linux/arm64/v8 linux/arm64",
	} {
		m, err := platform.Parse(machine)
		if err != nil {
			t.Fatal(err)
		}
		last := 0
		for _, s := range strings.Fields(want) {
			p, err := platform.Parse(s)
			if r, ok := m.Rank(p); err != nil || !ok || r < last {
				t.Errorf("%s on %s: rank %d after %d, fits: %v, %v", s, machine, r, last, ok, err)
			} else {
				last = r
			}
		}
		for _, s := range []string{"linux/s390x", "windows/amd64", "linux/arm/v8", "linux/amd64/v4", "linux/arm64/v9", "linux/amd64/vx"} {
			p, err := platform.Parse(s)
			if r, ok := m.Rank(p); err != nil || ok {
				t.Errorf("%s runs on %s with rank %d, %v", s, machine, r, err)
			}
		}
		if r, ok := m.Rank(platform.Platform{}); !ok || r <= last {
			t.Errorf("an image that says nothing on %s: rank %d, %v", machine, r, ok)
		}
	}
}

func FuzzPlatform(f *testing.F) {
	for _, s := range []string{"linux/arm/v7", "linux/aarch64", "/", "a/b/c/d", "linux/arm/v999999999999999999999"} {
		f.Add(s, "linux/arm/v6")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		p, err := platform.Parse(a)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if again, err := platform.Parse(p.String()); err != nil || again != p && !strings.Contains(p.Variant, "/") {
			t.Fatalf("%q → %q → %v %v", a, p, again, err)
		}
		if r, ok := p.Rank(p); r != 0 || !ok {
			t.Fatalf("%q does not fit itself", a)
		}
		if q, err := platform.Parse(b); err == nil {
			if r, ok := p.Rank(q); ok && r < 0 {
				t.Fatalf("rank %d", r)
			}
		}
	})
}
