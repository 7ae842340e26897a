package containerd

import (
	"runtime"
	"strconv"
	"strings"
)

// platform says what an image runs on.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// host is this machine's platform, but in tests.
var host = platform{"linux", runtime.GOARCH, ""}

// usual are the variants that are meant by none.
var usual = map[string]string{"arm": "v7", "arm64": "v8", "amd64": "v1"}

// rank tells how well an image fits a machine: 0 exactly, more for an older
// variant, which runs there too, most for what does not.
func (p platform) rank(machine platform) int {
	if p.OS != machine.OS || p.Architecture != machine.Architecture {
		return unfit
	}
	have, want := level(p), level(machine)
	if have > want {
		return unfit
	}
	return want - have
}

const unfit = 1 << 20

// level makes a number of a variant: v7 is 700, v8.2 is 802.
func level(p platform) int {
	v := p.Variant
	if v == "" {
		v = usual[p.Architecture]
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	m, _ := strconv.ParseUint(major, 10, 8)
	n, _ := strconv.ParseUint(minor, 10, 6)
	return int(m*100 + n)
}
