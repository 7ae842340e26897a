package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/union"
)

// spec names a store: [NAME=][KIND:]PATH.
type spec struct {
	name  string // "" stands for one made of the path
	kind  string // "" stands for whatever is there
	path  string // absolute
	found bool   // on this machine, by nobody's wish
}

// String is the spec as the command line takes it.
func (s spec) String() string {
	out := s.path
	if s.kind != "" {
		out = s.kind + ":" + out
	}
	if s.name != "" {
		out = s.name + "=" + out
	}
	return out
}

// kindLike is what could be meant as a kind.
var kindLike = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]*$`) })

// parseSpec reads a spec of --store. A path that begins like a name or a kind is written ./PATH.
func parseSpec(text string) (spec, error) { return parseSpecOf("--store", text) }

// parseSpecOf is parseSpec for any flag.
func parseSpecOf(flag, text string) (spec, error) {
	var s spec
	rest := text
	if name, after, ok := strings.Cut(rest, "="); ok && union.CheckName(name) == nil {
		s.name, rest = name, after
	}
	if k, after, ok := strings.Cut(rest, ":"); ok {
		dir := filepath.Dir(rest)
		switch {
		case kindNamed(k) != nil:
			s.kind, rest = k, after
		case kindLike().MatchString(k) && !exists(rest) && (dir == "." || !exists(dir)):
			return s, usagef("%s %s: there is no kind of store %q; there is %s", flag, text, k, strings.Join(kindNames(), ", "))
		}
	}
	if rest == "" || strings.ContainsAny(rest, "\x00\n") {
		return s, usagef("%s %q: a path is missing; write [NAME=][KIND:]PATH", flag, text)
	}
	s.path = absolute(rest)
	return s, nil
}

func kindNamed(name string) *kind {
	for i := range kinds {
		if kinds[i].name == name || slices.Contains(kinds[i].also, name) {
			return &kinds[i]
		}
	}
	return nil
}

func kindNames() []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.name)
	}
	return out
}

// named returns the stores that the user names: with --store, else in
// IMAGEFS_STORE, one a line. None means that those on this machine are meant.
func (a *app) named() ([]spec, error) {
	texts := a.stores
	if len(texts) == 0 {
		for line := range strings.Lines(os.Getenv("IMAGEFS_STORE")) {
			if line = strings.TrimSpace(line); line != "" {
				texts = append(texts, line)
			}
		}
	}
	var out []spec
	for _, t := range texts {
		s, err := parseSpec(t)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, s) {
			out = append(out, s) // twice the same is once, as two entries of a path are
		}
	}
	return out, nil
}

// systemRoot goes before the paths of the machine's own stores. Tests have another.
var systemRoot = ""

// eachPlace calls yield with the places where stores usually lie: an ordinary
// user's own first.
func eachPlace(yield func(k *kind, p place, path string)) {
	if !isRoot() {
		for i := range kinds {
			for _, p := range kinds[i].places {
				if p.user != "" {
					yield(&kinds[i], p, filepath.Join(filepath.Dir(xdg("XDG_DATA_HOME", ".local/share")), p.user))
				}
			}
		}
	}
	for i := range kinds {
		for _, p := range kinds[i].places {
			yield(&kinds[i], p, systemRoot+p.system)
		}
	}
}

// findStores looks for the stores of this machine.
func findStores(o openOptions) []spec {
	var out []spec
	eachPlace(func(k *kind, p place, path string) {
		if !isRoot() && p.name == embedded && path == systemRoot+p.system && !readable(path) {
			return // root's own, and no loss
		}
		switch {
		case k.is(path):
			out = append(out, spec{name: p.name, kind: k.name, path: path, found: true})
		case exists(path) && !readable(path):
			o.log.Info("a store cannot be read and is left out", "kind", k.name, "path", path)
		}
	})
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func readable(path string) bool { return unix.Access(path, unix.R_OK|unix.X_OK) == nil }

// nameAll gives each spec a name of its own: that of its place, or the last
// part of its path; two that would have the same are counted.
func nameAll(specs []spec) ([]spec, error) {
	taken := map[string]bool{}
	for _, s := range specs {
		if s.name == "" || s.found {
			continue
		}
		if taken[s.name] {
			return nil, usagef("--store: two stores are called %s", s.name)
		}
		taken[s.name] = true
	}
	out := make([]spec, len(specs))
	for i, s := range specs {
		if s.name == "" || s.found {
			s.name = unique(defaultName(s), taken)
		}
		out[i] = s
	}
	return out, nil
}

func defaultName(s spec) string {
	name := s.name
	eachPlace(func(k *kind, p place, path string) {
		if name == "" && path == s.path {
			name = p.name
		}
	})
	if name == "" {
		name = filepath.Base(s.path)
	}
	name = strings.TrimLeft(strings.Map(func(r rune) rune {
		if r < 0x80 && union.CheckName("x"+string(r)) == nil {
			return r
		}
		return '-'
	}, name), "._-")
	if len(name) > 60 {
		name = name[:60]
	}
	if name == "" {
		name = "store"
	}
	return name
}

func unique(name string, taken map[string]bool) string {
	out := name
	for n := 2; taken[out]; n++ {
		out = fmt.Sprintf("%s-%d", name, n)
	}
	taken[out] = true
	return out
}

// openSpec opens a store, and tells its kind.
func openSpec(s spec, o openOptions) (store.Store, string, error) {
	if k := kindNamed(s.kind); k != nil {
		st, err := k.open(s.path, o)
		return st, k.name, err
	}
	for i := range kinds {
		if kinds[i].is(s.path) {
			st, err := kinds[i].open(s.path, o)
			return st, kinds[i].name, err
		}
	}
	if st, err := os.Stat(s.path); err == nil && st.Mode().IsRegular() {
		k := kindNamed("archive")
		st, err := k.open(s.path, o)
		return st, k.name, err
	}
	// Some look further than just at the path. Of the errors of kinds that find
	// nothing, the first counts that says more than that.
	var first error
	for i := range kinds {
		st, err := kinds[i].open(s.path, o)
		if err == nil {
			return st, kinds[i].name, nil
		}
		if first == nil || says(first, s.path) < says(err, s.path) {
			first = err
		}
	}
	return nil, "", first
}

// says tells how much an error says of what is at a path: 0 that there is no store.
func says(err error, path string) int {
	switch text := err.Error(); {
	case !errors.Is(err, store.ErrNotFound):
		return 2
	case strings.HasPrefix(text, "no ") && strings.HasSuffix(text, path+": "+store.ErrNotFound.Error()):
		return 0
	}
	return 1
}
