// Package platform says what an image runs on, and how well that fits a machine.
package platform

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"imagefs/store"
)

// Platform is what an image runs on, its parts normalised. The zero value: nobody knows.
type Platform struct{ OS, Arch, Variant string }

// Host is this machine's platform.
func Host() Platform { return Of("linux", runtime.GOARCH, "") }

// Parse reads "os/arch[/variant]". store.ErrInvalid.
func Parse(s string) (Platform, error) {
	part := strings.Split(s, "/")
	if len(part) < 2 || len(part) > 3 || part[0] == "" || part[1] == "" {
		return Platform{}, fmt.Errorf("platform %.100q is not os/arch[/variant]: %w", s, store.ErrInvalid)
	}
	p := Platform{OS: part[0], Arch: part[1]}
	if len(part) == 3 {
		p.Variant = part[2]
	}
	return normalise(p), nil
}

// normalise gives the names that are in use for one thing their one form, and
// fills in the variant that is meant by none.
func normalise(p Platform) Platform {
	p.OS, p.Arch, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Arch), strings.ToLower(p.Variant)
	switch p.Arch {
	case "x86_64", "x86-64":
		p.Arch = "amd64"
	case "i386", "i686":
		p.Arch = "386"
	case "aarch64":
		p.Arch = "arm64"
	case "armhf":
		p.Arch = "arm"
	case "armel":
		p.Arch, p.Variant = "arm", "v6"
	}
	if p.Variant != "" && p.Variant[0] != 'v' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	if p.Variant == "" {
		p.Variant = map[string]string{"arm": "v7", "arm64": "v8", "amd64": "v1"}[p.Arch]
	}
	return p
}

// Of is the platform that a config or a descriptor names.
func Of(os, arch, variant string) Platform {
	if os == "" && arch == "" {
		return Platform{}
	}
	return normalise(Platform{os, arch, variant})
}

func (p Platform) String() string {
	if p == (Platform{}) {
		return "an unknown platform"
	}
	s := p.OS + "/" + p.Arch
	if v := p.Named(); v != "" {
		s += "/" + v
	}
	return s
}

// Named is the variant, "" for the one that is meant by none, where configs leave it out.
func (p Platform) Named() string {
	if p.Arch == "arm64" && p.Variant == "v8" || p.Arch == "amd64" && p.Variant == "v1" {
		return ""
	}
	return p.Variant
}

// worst is the rank of an image that does not say what it runs on.
const worst = 1 << 20

// Rank tells how well an image fits: 0 exactly, more for older variants, which
// run there too. false if it does not fit.
func (p Platform) Rank(have Platform) (int, bool) {
	switch {
	case have == (Platform{}):
		return worst, true
	case have.OS != p.OS || have.Arch != p.Arch:
		return 0, false
	case have.Variant == p.Variant:
		return 0, true
	}
	w, h := level(p.Variant), level(have.Variant)
	return w - h, h > 0 && h < w
}

// level makes a number of a variant: v7 is 700, v8.2 is 802; 0 for what is none.
func level(variant string) int {
	major, minor, _ := strings.Cut(strings.TrimPrefix(variant, "v"), ".")
	m, err := strconv.ParseUint(major, 10, 8)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(minor, 10, 6)
	return int(m*100 + n)
}
