package docker

import (
	"strings"
	"testing"
)

// Names that engines make, and what a stranger may put in their place.
func TestMadeNames(t *testing.T) {
	long := strings.Repeat("a", 129)
	for _, c := range []struct {
		what      string
		is        func(string) bool
		good, bad []string
	}{
		{"cache ID", isCacheID[string], []string{"0", "l", "9az_-Z", "abc-init", long[:128]}, []string{"", "_a", "-a", ".", "..", "a/b", "a.b", "a\n", "a\x00", "ä", "@", "[", "`", "{", long}},
		{"stage", isStageName, []string{"0123456789abcdef"}, []string{"", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF", "0123456789abcde/"}},
		{"link", isLinkName[string], []string{"0", "ABZ09", strings.Repeat("A", 64)}, []string{"", "a", "A/", "A\n", "..", strings.Repeat("A", 65)}},
	} {
		for _, s := range c.good {
			if !c.is(s) {
				t.Errorf("%s %q is none", c.what, s)
			}
		}
		for _, s := range c.bad {
			if c.is(s) {
				t.Errorf("%q is a %s", s, c.what)
			}
		}
	}
}
