package archive

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"imagefs/store"
)

// platform says what an image runs on. The zero value: nobody knows.
type platform struct{ os, arch, variant string }

var hostArch = runtime.GOARCH // but in tests

// parsePlatform reads "os/arch[/variant]"; "" is this machine's. store.ErrInvalid.
func parsePlatform(s string) (platform, error) {
	if s == "" {
		return normalise(platform{"linux", hostArch, ""}), nil
	}
	part := strings.Split(s, "/")
	if len(part) < 2 || len(part) > 3 || part[0] == "" || part[1] == "" {
		return platform{}, fmt.Errorf("platform %.100q is not os/arch[/variant]: %w", s, store.ErrInvalid)
	}
	p := platform{os: part[0], arch: part[1]}
	if len(part) == 3 {
		p.variant = part[2]
	}
	return normalise(p), nil
}

// normalise gives the names that are in use for one thing their one form, and
// fills in the variant that is meant by none.
func normalise(p platform) platform {
	p.os, p.arch, p.variant = strings.ToLower(p.os), strings.ToLower(p.arch), strings.ToLower(p.variant)
	switch p.arch {
	case "x86_64", "x86-64":
		p.arch = "amd64"
	case "i386", "i686":
		p.arch = "386"
	case "aarch64":
		p.arch = "arm64"
	case "armhf":
		p.arch = "arm"
	case "armel":
		p.arch, p.variant = "arm", "v6"
	}
	if p.variant != "" && p.variant[0] != 'v' && p.variant[0] <= '9' {
		p.variant = "v" + p.variant
	}
	if p.variant == "" {
		p.variant = map[string]string{"arm": "v7", "arm64": "v8", "amd64": "v1"}[p.arch]
	}
	return p
}

// platformOf is the platform that a config or a descriptor names.
func platformOf(os, arch, variant string) platform {
	if os == "" && arch == "" {
		return platform{}
	}
	return normalise(platform{os, arch, variant})
}

func (p platform) String() string {
	if p == (platform{}) {
		return "an unknown platform"
	}
	s := p.os + "/" + p.arch
	if p.variant != "" && !(p.arch == "arm64" && p.variant == "v8") && !(p.arch == "amd64" && p.variant == "v1") {
		s += "/" + p.variant
	}
	return s
}

// worst is the rank of an image that does not say what it runs on.
const worst = 1 << 20

// rank tells how well an image fits: 0 exactly, more for older variants, which
// run there too. false if it does not fit.
func (p platform) rank(have platform) (int, bool) {
	switch {
	case have == (platform{}):
		return worst, true
	case have.os != p.os || have.arch != p.arch:
		return 0, false
	case have.variant == p.variant:
		return 0, true
	}
	w, h := level(p.variant), level(have.variant)
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
