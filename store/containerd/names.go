package containerd

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// familiar is an image's name as this program has it: with a tag, or a
// repository alone if the name has a digest instead. exact tells that it is the
// name's own short form, and not one that only comes down to the same.
type familiar struct {
	repo, tag string
	exact     bool
}

// dangling is the repository by which Docker keeps images that have no name.
const dangling = "moby-dangling"

// familiarName reads an image's name. ok is false for one that is no reference,
// and for what engines use as a name in place of one: "sha256:<config>" of
// Kubernetes, "moby-dangling@…" of Docker.
func familiarName(name string) (f familiar, ok bool) {
	if f, ok = hubName(name); ok {
		return f, true
	}
	if _, err := digest.Parse(name); err == nil {
		return f, false
	}
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return f, false
	}
	f.repo = reference.FamiliarName(n)
	if _, digested := n.(reference.Digested); digested {
		return f, f.repo != dangling
	}
	n = reference.TagNameOnly(n)
	f.tag = n.(reference.Tagged).Tag()
	f.exact = n.String() == name
	return f, true
}

// hubName reads most names there are without the regular expressions that the
// full grammar takes.
func hubName(name string) (f familiar, ok bool) {
	for _, hub := range []string{"docker.io/library/", "docker.io/"} {
		short, ok := strings.CutPrefix(name, hub)
		if !ok || strings.Contains(short, "@") {
			continue
		}
		if full, ok := store.Canonical(short); ok && full == name {
			i := strings.LastIndexByte(short, ':')
			return familiar{short[:i], short[i+1:], true}, true
		}
	}
	return f, false
}

// prefixes gives each namespace the first component of its images' names: none
// if there is only one, its own name otherwise, in the form of a component.
func prefixes(spaces []string) map[string]string {
	out := map[string]string{}
	if len(spaces) == 1 {
		return out
	}
	taken := map[string]bool{}
	for _, s := range spaces {
		if valid(s) {
			out[s], taken[s] = s, true
		}
	}
	for _, s := range spaces {
		if out[s] != "" {
			continue
		}
		p := "ns-" + cmp.Or(clean(s), "x")
		for taken[p] {
			p += "-x"
		}
		out[s], taken[p] = p, true
	}
	return out
}

// valid tells whether references that start with a component keep it.
func valid(component string) bool {
	if strings.Contains(component, "/") {
		return false
	}
	_, ok := store.Canonical(component + "/a/b:c")
	_, short := store.Canonical(component + "/b:c")
	return ok && short
}

// clean makes a component of a repository's name of any text.
func clean(s string) string {
	parts := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	return strings.Join(parts, "-")
}

// under puts a repository below a namespace's component. What was the registry
// is a component like the others then: it has no port, and no capitals.
func under(prefix, repo string) string {
	if prefix == "" {
		return repo
	}
	first, rest, more := strings.Cut(repo, "/")
	if more && strings.ContainsAny(first, ".:ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		first = strings.ReplaceAll(strings.ToLower(first), ":", "_")
		repo = first + "/" + rest
	}
	return prefix + "/" + repo
}

// nameImages gives images the names of the records that lead to them. log hears
// of the records that give none.
func (c *catalog) nameImages(log func(msg string, r record)) {
	records, found := c.records, c.found
	c.of = map[string]int{}
	c.names = store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}, Aliases: map[digest.Digest]digest.Digest{}}
	used := map[string]bool{}
	for i, r := range records {
		if found[i] == nil {
			continue
		}
		used[r.space] = true
		for d, id := range found[i].digests {
			if _, taken := c.names.Aliases[d]; !taken && d != id {
				c.names.Aliases[d] = id
			}
		}
	}
	c.prefix = prefixes(slices.Sorted(maps.Keys(used)))
	late := map[int]familiar{}
	add := func(i int, f familiar) {
		repo := under(c.prefix[records[i].space], f.repo)
		if f.tag != "" {
			ref := repo + ":" + f.tag
			if _, ok := store.Canonical(ref); !ok {
				log("an image's name cannot be shown", records[i])
			} else if _, taken := c.names.Tags[ref]; taken {
				log("two images come to the same name", records[i])
			} else {
				c.names.Tags[ref] = found[i].chosen
				c.of[ref] = i
			}
		}
		for d, id := range found[i].digests {
			ref := repo + "@" + string(d)
			if _, taken := c.names.Digests[ref]; taken {
				if d == records[i].target.Digest {
					c.of[ref] = i // an engine knows it by this one
				}
				continue
			}
			if _, ok := store.Canonical(ref); ok {
				c.names.Digests[ref] = id
				c.of[ref] = i
			}
		}
	}
	for i, r := range records {
		if found[i] == nil {
			continue
		}
		f, ok := familiarName(r.name)
		switch {
		case !ok:
			continue
		case f.tag != "" && !f.exact:
			late[i] = f // the name that is really this one goes first
		default:
			add(i, f)
		}
	}
	for _, i := range slices.Sorted(maps.Keys(late)) {
		add(i, late[i])
	}
}
