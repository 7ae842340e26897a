package detach

import (
	"strings"
	"testing"
)

func TestEarly(t *testing.T) {
	for line, want := range map[string]bool{
		"imagefs mount /mnt":                                       true,
		"imagefs --store /var/lib/docker mount /mnt":               true,
		"imagefs --store=/var/lib/docker --store x=y mount /mnt":   true,
		"imagefs mount --read-only --transport dev a b /mnt":       true,
		"imagefs mount -o ro,allow_other /mnt":                     true,
		"imagefs mount -oro -- /mnt":                               true,
		"imagefs mount --log-file=x -o ro /mnt":                    true,
		"imagefs":                                                  false,
		"imagefs --store":                                          false,
		"imagefs --store mount":                                    false,
		"imagefs --store mount images":                             false,
		"imagefs mount":                                            false, // lists
		"imagefs mount --foreground /mnt":                          false,
		"imagefs mount --foreground=true /mnt":                     false,
		"imagefs mount /mnt -f":                                    false,
		"imagefs mount -fo ro /mnt":                                false,
		"imagefs mount --help":                                     false,
		"imagefs mount -h":                                         false,
		"imagefs --cache-memory 64m mount /mnt":                    false, // the parser of the command line knows
		"imagefs images mount":                                     false,
		"imagefs help mount":                                       false,
		"imagefs umount /mnt":                                      false,
		"imagefs /var/lib/docker /mnt -o ro":                       false, // from mount(8)
		"mount.test -test.run=TestMount -test.timeout=1m mount /m": false,
	} {
		if got := early(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
