package containers

import (
	"strings"

	"github.com/distribution/reference"

	"imagefs/store"
)

// namer brings names into familiar form. It remembers repositories: to parse a
// whole reference for each of ten thousand tags takes half a second.
type namer struct {
	repos map[string]string // as the store has it → familiar, "" if it is none
}

// familiar returns a name as a reference with a tag, or with a digest; both
// are "" for what is no name.
func (n namer) familiar(name string) (tag, ref string) {
	if strings.Contains(name, "@") {
		ref, err := store.FamiliarDigest(name)
		if err != nil {
			return "", ""
		}
		return "", ref
	}
	repo, t, ok := cutTag(name)
	if !ok {
		t = "latest"
	}
	if repo = n.repo(repo); repo == "" || !store.IsTag(t) {
		return "", ""
	}
	return repo + ":" + t, ""
}

// repo returns the repository of a name in familiar form, "" for what is no name.
func (n namer) repo(name string) string {
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = cutTag(name)
	if r, ok := n.repos[name]; ok {
		return r
	}
	familiar := ""
	if r, err := reference.ParseNormalizedNamed(name); err == nil && reference.IsNameOnly(r) {
		familiar = reference.FamiliarName(r)
	}
	n.repos[name] = familiar
	return familiar
}

// cutTag cuts a reference at the colon before its tag.
func cutTag(name string) (repo, tag string, ok bool) {
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.IndexByte(name[i:], '/') >= 0 {
		return name, "", false // that of a port
	}
	return name[:i], name[i+1:], true
}
